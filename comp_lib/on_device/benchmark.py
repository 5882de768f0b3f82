"""How fast models run on this machine, beside how fast they could.

Prefill (reading the prompt) is bound by arithmetic, decode (writing, token by token) by memory: each token needs all
weights once. So a model with fewer bytes to read for a token can decode faster by at most

    limit = bytes per token of the first model / bytes per token of the other,

and the share of the gain that is reached, (speed-up - 1) / (limit - 1), says how well a runtime turns bytes removed
into time saved. What stays the same, however much is pruned, keeps it below 1: attention over the tokens before, the
sampling, the runtime's own work for each layer.

Machines are not steady. Each model sits in a process of its own (`runtimes`), and the processes take turns, one round
each; speed-ups are taken within a round, and medians over the rounds.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, nearest
from ..evaluation.generation import ratio
from ..report import Progress, no_progress
from .gguf_export import export_gguf
from .llama_cpp import check_installed
from .runtimes import RUNTIMES, Job

WORKER = (sys.executable, "-m", "comp_lib.on_device.runtimes")
PACKAGES = ("torch", "transformers", "xllamacpp")  # whose versions matter


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
    def from_dict(cls, fields: dict[str, Any]) -> Measured:
        """From an entry of `to_json`'s models."""
        known = {name: fields[name] for name in cls.__dataclass_fields__}
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in known.items()})


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
    models: Sequence[str],
    runtime: str,
    kind: str,
    folder: Path,
    *,
    dtype: str = "float32",
    threads: int = 1,
    prompt: int = 128,
    new_tokens: int = 32,
    progress: Progress = no_progress,
) -> list[tuple[str, Job]]:
    """(name, Job) of each model, as `benchmark` takes them.

    runtime: one of RUNTIMES, or "auto": llama.cpp for .gguf files, transformers for all else. What llama.cpp is to run
    and is no GGUF file is exported to `folder` as `kind`.
    Raises InputError: unknown runtime, no model, no xllamacpp where it is needed, or what `export_gguf` refuses.
    """
    if runtime not in (*RUNTIMES, "auto"):
        raise InputError(
            f"expected a runtime, {', '.join(RUNTIMES)} or auto, got {runtime!r}: {nearest(runtime, RUNTIMES)}"
        )
    if not models:
        raise InputError("expected at least one model, got none: name the dense one first, then the pruned")
    if threads < 1:
        raise InputError(f"expected at least 1 thread, got {threads}: say how many cores may compute")
    names = [Path(model).name or model for model in models]
    where = [
        ("llama.cpp" if model.endswith(".gguf") else "transformers") if runtime == "auto" else runtime
        for model in models
    ]
    if "llama.cpp" in where:
        check_installed()
    jobs = []
    for place, (model, name, runs) in enumerate(zip(models, names, where, strict=True)):
        if runs == "llama.cpp" and not model.endswith(".gguf"):
            name = f"{name}, {kind}"
            model = str(export_gguf(model, folder / f"{place}.gguf", kind, progress=progress))
        jobs.append((name, Job(model, runs, dtype, threads, prompt, new_tokens)))
    return jobs


def to_json(measured: Sequence[Measured], job: Job) -> dict[str, Any]:
    """All that was measured, with what it depends on; `Measured.from_dict` reads the models back."""
    first = measured[0]
    return {
        "threads": job.threads,
        "prompt": job.prompt,
        "new_tokens": job.new_tokens,
        "machine": platform.machine(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES if importlib.util.find_spec(name)},
        "models": [
            asdict(each) | {"limit": gain(first, each).limit, "speedup": gain(first, each).speedup} for each in measured
        ],
    }


def benchmark(jobs: Sequence[tuple[str, Job]], rounds: int = 5, progress: Progress = no_progress) -> list[Measured]:
    """Time each (name, Job), in `rounds` rounds after one that only warms up.

    Raises InputError: no round asked for, or what a runtime refuses. RuntimeError when a process dies, with its words.
    """
    if rounds < 1 or any(job.prompt < 1 or job.new_tokens < 1 for _, job in jobs):
        raise InputError(f"expected at least one round, prompt token and new token, got {rounds} rounds: ask for more")
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(_worker(job)) for _, job in jobs]
        sizes = [worker.answer()["bytes_per_token"] for worker in workers]
        found: list[list[dict]] = [[] for _ in workers]
        for turn in range(rounds + 1):
            for worker, answers in zip(workers, found, strict=True):
                worker.ask()
                answers.append(worker.answer())
            progress("rounds", turn, rounds)
    return [_measured(name, job, size, answers) for (name, job), size, answers in zip(jobs, sizes, found, strict=True)]


def _measured(name: str, job: Job, size: int, answers: list[dict]) -> Measured:
    timed = answers[1:]
    return Measured(
        name=name,
        runtime=job.runtime,
        file_bytes=file_bytes(job.model),
        bytes_per_token=size,
        memory=answers[-1]["memory"],
        first=tuple(answer["first"] for answer in timed),
        prefill=tuple(job.prompt / answer["first"] for answer in timed),
        decode=tuple(job.new_tokens / answer["rest"] for answer in timed),
    )


def file_bytes(name: str) -> int | None:
    """Of a GGUF file, or of the weights in a folder; None for a name that is neither."""
    path = Path(name).expanduser()
    if path.is_dir():
        return sum(file.stat().st_size for file in path.glob("*.safetensors"))
    return path.stat().st_size if path.is_file() else None


class _Worker:
    def __init__(self, job: Job, process: subprocess.Popen, log: Any) -> None:
        self.job, self.process, self.log = job, process, log

    def ask(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # `answer` says more of a process that ended
            self.process.stdin.write(b"round\n")

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.log.seek(0)
            words = self.log.read().decode("utf-8", "replace").strip().splitlines()
            raise RuntimeError(
                f"{self.job.model} in {self.job.runtime}: {words[-1] if words else 'it said nothing'} "
                f"(exit code {self.process.returncode})"
            )
        found = json.loads(line)
        if "refused" in found:
            raise InputError(found["refused"])
        return found


@contextlib.contextmanager
def _worker(job: Job) -> Iterator[_Worker]:
    """The process of a job; it ends with the block."""
    home = str(Path(__file__).parents[2])  # the worker runs this very code
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))}
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment, bufsize=0
        ) as process,
    ):
        try:
            process.stdin.write(f"{json.dumps(asdict(job))}\n".encode())
            yield _Worker(job, process, log)
        except BaseException:
            process.kill()
            raise
