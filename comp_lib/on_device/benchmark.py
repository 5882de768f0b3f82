"""How fast models run on this machine, beside how fast they could.

Prefill (reading the prompt) is bound by arithmetic, decode (writing, token by token) by memory. To write one token the
machine reads each weight of the decoder and of the head once. Of the embedding it reads one row, which is nothing,
unless it is tied: then it is the head, and read whole.

    bytes per token = bytes of all parameters - bytes of the embedding, if a head of its own stands beside it
    limit           = bytes per token of the first model / bytes per token of the other

is how much faster the other decodes if reading is all that takes time, and (speed-up - 1) / (limit - 1) says how well a
runtime turns bytes removed into time saved. What stays the same, whatever is pruned, keeps it below 1: the sampling,
and with the same layers attention over the tokens before and the runtime's work for each of them. Where other time
shrinks by more than the bytes, as with dropped layers, it is above 1: bytes bound a time, not a ratio of times.

Machines are not steady. The processes of the models take turns, one round each; speed-ups are taken within a round, and
medians over the rounds. Each model has a fresh process that runs this module, so that its memory is its own. The first
message to it is a `RuntimeJob`, answered by the bytes that a token costs; each further message asks for one round,
answered by its times.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError, suggestion
from ..evaluation.generation import prompt_ids, ratio, timed
from ..families.protocol import Model
from ..models.gguf_files import open_gguf
from ..models.load import check_dtype, load_model, open_model
from ..report import Progress, no_progress
from ..system.machine import peak_bytes, resident_bytes
from ..system.processes import Message, ProcessError, Worker, module, serve
from .gguf_export import check_type, export_gguf
from .llama_cpp import check_installed, start

MODULE = module("comp_lib.on_device.benchmark")
PACKAGES = ("torch", "transformers", "xllamacpp")  # whose versions matter
WORK = ("threads", "prompt", "new_tokens")  # of the workload, what a result depends on
FIELDS = (*WORK, "machine", "versions", "models")  # of `to_json`
RUNTIMES = ("transformers", "llama.cpp")
KILLED = (-9, 137)  # exit codes of a process that the system ended
Round = Callable[[], tuple[float, float]]  # -> seconds to the first token, seconds of the `new_tokens` after that


@dataclass(frozen=True)
class Workload:
    """What a model is to do while it is timed."""

    prompt: int = 128  # tokens that are read
    new_tokens: int = 32  # written after the first
    threads: int = 1
    dtype: str = "float32"  # of the weights in transformers; a GGUF file has its own


@dataclass(frozen=True)
class RuntimeJob:
    """A model to time in one runtime, as it travels to its process."""

    model: str  # as `load_model` takes it; for llama.cpp the path of a GGUF file
    runtime: str  # one of RUNTIMES
    work: Workload


@dataclass(frozen=True)
class Measured:
    """One model in one runtime; the tuples have an entry for each round."""

    name: str
    runtime: str
    file_bytes: int | None  # None: not a file or folder of this machine
    bytes_per_token: int  # that a step of decoding reads
    memory: int  # bytes: the most that its process held above what it held before the model
    first: tuple[float, ...]  # seconds from the prompt to the first token
    prefill: tuple[float, ...]  # tokens per second
    decode: tuple[float, ...]  # tokens per second

    @classmethod
    def from_dict(cls, fields: Message) -> Measured:
        """From an entry of `to_json`'s models."""
        known: Message = {name: fields[name] for name in cls.__dataclass_fields__}
        return cls(**known | {name: tuple(known[name]) for name in ("first", "prefill", "decode")})


@dataclass(frozen=True)
class Gain:
    """Of a model over the first one."""

    speedup: tuple[float, float, float]  # of decode: median, smallest and largest over the rounds
    prefill: tuple[float, float, float]
    limit: float  # of decode, if nothing but reading the weights took time

    @property
    def share(self) -> float:
        """Of the possible gain, what is reached; NaN where nothing was to gain."""
        return (self.speedup[0] - 1) / (self.limit - 1) if self.limit > 1 else float("nan")


def gain(first: Measured, other: Measured) -> Gain:
    limit = first.bytes_per_token / other.bytes_per_token
    return Gain(ratio(other.decode, first.decode), ratio(other.prefill, first.prefill), limit)


def prepare(
    models: Sequence[str], runtime: str, kind: str, folder: Path, work: Workload, progress: Progress = no_progress
) -> list[tuple[str, RuntimeJob]]:
    """(name, job) of each model, as `benchmark` takes them.

    runtime: one of RUNTIMES, or "auto": llama.cpp for .gguf files, transformers for all else. What llama.cpp is to run
    and is no GGUF file is exported to `folder` as `kind`.
    Raises InputError: unknown runtime, no model, no xllamacpp where it is needed, or what `export_gguf` refuses.
    """
    if runtime not in (*RUNTIMES, "auto"):
        hint = suggestion(runtime, RUNTIMES)
        raise InputError(f"expected a runtime, {', '.join(RUNTIMES)} or auto, got {runtime!r}: {hint}")
    if not models:
        raise InputError("expected at least one model, got none: name the dense one first, then the pruned")
    if work.threads < 1:
        raise InputError(f"expected at least 1 thread, got {work.threads}: say how many cores may compute")
    check_dtype(work.dtype)
    check_type(kind)
    for model in models:  # a wrong name is refused before any is exported
        open_gguf(model) if model.endswith(".gguf") else open_model(model)
    jobs = []
    for place, model in enumerate(models):
        name, native = Path(model).name or model, "llama.cpp" if model.endswith(".gguf") else "transformers"
        job = RuntimeJob(model, native if runtime == "auto" else runtime, work)
        if job.runtime == "llama.cpp":
            check_installed()
            if native != "llama.cpp":
                file = export_gguf(model, folder / f"{place}.gguf", kind, progress=progress)
                name, job = f"{name}, {kind}", replace(job, model=str(file))
        jobs.append((name, job))
    return jobs


def to_json(measured: Sequence[Measured], job: RuntimeJob) -> dict[str, Any]:
    """All that was measured, with what it depends on; `Measured.from_dict` reads the models back."""
    work = {name: getattr(job.work, name) for name in WORK}
    versions = {name: importlib.metadata.version(name) for name in PACKAGES if importlib.util.find_spec(name)}
    models = []
    for model in measured:
        gained = gain(measured[0], model)
        models.append(asdict(model) | {"limit": gained.limit, "speedup": gained.speedup})
    return work | {"machine": platform.machine(), "versions": versions, "models": models}


def benchmark(
    jobs: Sequence[tuple[str, RuntimeJob]], rounds: int = 5, progress: Progress = no_progress
) -> list[Measured]:
    """Time each (name, job), in `rounds` rounds after one that only warms up.

    Raises InputError: no round asked for, what a runtime refuses, a process that was killed. RuntimeError when one dies
    otherwise, with its words.
    """
    if rounds < 1 or any(job.work.prompt < 1 or job.work.new_tokens < 1 for _, job in jobs):
        raise InputError(f"expected at least one round, prompt token and new token, got {rounds} rounds: ask for more")
    with contextlib.ExitStack() as stack:
        workers = [(job, stack.enter_context(Worker(MODULE))) for _, job in jobs]
        for job, worker in workers:
            worker.send(asdict(job))
        sizes = [_answer(*worker)["bytes_per_token"] for worker in workers]
        answers: list[list[Message]] = [[] for _ in workers]
        for turn in range(rounds + 1):
            for (job, worker), of_worker in zip(workers, answers, strict=True):
                worker.send({})
                of_worker.append(_answer(job, worker))
            progress("rounds", turn, rounds)
    measured = []
    for (name, job), size, (_, *counted) in zip(jobs, sizes, answers, strict=True):
        first = tuple(answer["first"] for answer in counted)
        prefill = tuple(job.work.prompt / seconds for seconds in first)
        decode = tuple(job.work.new_tokens / answer["rest"] for answer in counted)
        memory = counted[-1]["memory"]
        measured.append(Measured(name, job.runtime, _file_bytes(job.model), size, memory, first, prefill, decode))
    return measured


def _answer(job: RuntimeJob, worker: Worker) -> Message:
    try:
        return worker.answer()
    except ProcessError as error:
        if error.code in KILLED:
            got = f"a process that the system ended: {error}; as a rule for want of memory: try a smaller one"
            raise InputError(f"expected {job.model} to run in {job.runtime}, got {got}") from error
        raise RuntimeError(f"{job.model} in {job.runtime}: {error} (exit code {error.code})") from error


def _file_bytes(name: str) -> int | None:
    """Of a GGUF file, or of the weights in a folder; None for a name that is neither."""
    path = Path(name).expanduser()
    if path.is_dir():
        return sum(file.stat().st_size for file in path.glob("*.safetensors"))
    return path.stat().st_size if path.is_file() else None


def bytes_per_token(model: Model) -> int:
    """Bytes of the parameters that one step of decoding reads, of a model in transformers."""
    whole: int = sum(parameter.nbytes for parameter in model.parameters())  # a tied head is one parameter here
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return whole if head is table else whole - int(table.nbytes)


def gguf_bytes_per_token(path: str | Path) -> int:
    """The same of a GGUF file, as its tensors are stored. Raises InputError for another file."""
    sizes = {tensor.name: int(tensor.n_bytes) for tensor in open_gguf(path).tensors}
    return sum(sizes.values()) - (sizes["token_embd.weight"] if "output.weight" in sizes else 0)


def in_transformers(model: str, work: Workload) -> tuple[int, Round]:
    """(bytes per token, what runs a round). Raises what `load_model` raises, and InputError for too many tokens."""
    torch.set_num_threads(work.threads)
    loaded: Model = load_model(model, work.dtype)[0]
    longest, asked = loaded.config.max_position_embeddings, work.prompt + work.new_tokens
    if asked > longest:
        raise InputError(f"expected at most {longest} tokens, as {model} takes, got {asked}: ask for fewer")
    ids = torch.tensor([prompt_ids(work.prompt)])
    return bytes_per_token(loaded), partial(timed, loaded, ids, work.new_tokens)


def in_llama_cpp(model: str, work: Workload) -> tuple[int, Round]:
    """The same, by llama.cpp's own clock, which leaves out the way through Python. Raises what `start` raises."""
    ids, new = prompt_ids(work.prompt), work.new_tokens
    server = start(model, context=work.prompt + new + 1, threads=work.threads)
    request = {"prompt": ids, "n_predict": new + 1, "ignore_eos": True, "cache_prompt": False}
    request |= {"temperature": 0, "samplers": ["top_k"], "top_k": 1}

    def run() -> tuple[float, float]:
        timings = server.handle_completions(request)["timings"]
        # the first of the predicted tokens comes with the prompt, and the clock of the predicted starts there
        return timings["prompt_ms"] / 1e3, timings["predicted_ms"] / 1e3 * new / (timings["predicted_n"] - 1)

    return gguf_bytes_per_token(model), run


def time_rounds(messages: Iterator[Message]) -> Iterator[Message]:
    """The answers to a `RuntimeJob` and to each message after it. Raises what the runtime refuses."""
    job, before = next(messages), resident_bytes()
    prepared = in_transformers if job["runtime"] == "transformers" else in_llama_cpp
    size, run = prepared(job["model"], Workload(**job["work"]))
    yield {"bytes_per_token": size}
    for _ in messages:
        first, rest = run()
        yield {"first": first, "rest": rest, "memory": peak_bytes() - before}


if __name__ == "__main__":
    serve(time_rounds)
