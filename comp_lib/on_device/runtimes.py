"""A model in one runtime, timed in a process of its own: `python -m comp_lib.on_device.runtimes`.

Each model gets a fresh process, so that its memory is its own and nothing of another lies in the way; `benchmark` is
the other side and lets the processes take turns. The first message is a `RuntimeJob`, answered by the bytes that a
token costs; each further message asks for one round, answered by its times.

What a step of decoding reads. To write one token the machine reads each weight of the decoder and of the head once.
Of the embedding it reads one row, which is nothing, unless it is tied: then it is the head, and read whole.

    bytes per token = bytes of all parameters - bytes of the embedding, if a head of its own stands beside it
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from ..errors import InputError
from ..evaluation.generation import prompt_ids, timed
from ..families.protocol import Model
from ..models.gguf_files import open_gguf
from ..models.load import load_model
from ..system.machine import peak_bytes
from ..system.processes import Message, serve
from .llama_cpp import start

RUNTIMES = ("transformers", "llama.cpp")
Round = Callable[[list[int], int], tuple[float, float]]
"""(prompt, n) -> seconds to the first token after the prompt, seconds of the n tokens after that."""


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
    return bytes_per_token(loaded), lambda ids, new: timed(loaded, torch.tensor([ids]), new)


def in_llama_cpp(model: str, work: Workload) -> tuple[int, Round]:
    """The same, by llama.cpp's own clock, which leaves out the way through Python. Raises what `start` raises."""
    server = start(model, context=work.prompt + work.new_tokens + 1, threads=work.threads)

    def run(ids: list[int], new: int) -> tuple[float, float]:
        request = {"prompt": ids, "n_predict": new + 1, "ignore_eos": True, "cache_prompt": False}
        request |= {"temperature": 0, "samplers": ["top_k"], "top_k": 1}
        timings = server.handle_completions(request)["timings"]
        # the first of the predicted tokens comes with the prompt, and the clock of the predicted starts there
        return timings["prompt_ms"] / 1e3, timings["predicted_ms"] / 1e3 * new / (timings["predicted_n"] - 1)

    return gguf_bytes_per_token(model), run


def time_rounds(messages: Iterator[Message]) -> Iterator[Message]:
    """The answers to a `RuntimeJob` and to each message after it. Raises what the runtime refuses."""
    job = next(messages)
    work = Workload(**job["work"])
    before = psutil.Process().memory_info().rss
    size, run = (in_transformers if job["runtime"] == "transformers" else in_llama_cpp)(job["model"], work)
    yield {"bytes_per_token": size}
    for _ in messages:
        first, rest = run(prompt_ids(work.prompt), work.new_tokens)
        yield {"first": first, "rest": rest, "memory": peak_bytes() - before}


if __name__ == "__main__":
    serve(time_rounds)
