"""A model in one runtime, timed in a process of its own: `python -m comp_lib.runtimes`.

Each model gets a fresh process, so that its memory is its own and nothing of another lies in the way; `benchmark` is
the other side and lets the processes take turns. The first line on stdin is a Job in JSON, each further line asks for
one round; each is answered by a line of JSON. The end of stdin ends the process. What libraries print goes to stderr.

What a step of decoding reads. To write one token the machine reads each weight of the decoder and of the head once.
Of the embedding it reads one row, which is nothing, unless it is tied: then it is the head, and read whole.

    bytes per token = bytes of all parameters - bytes of the embedding, if a head of its own stands beside it
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
from torch import nn

from ..compare.one_run import peak_bytes
from ..errors import InputError
from ..models.gguf_file import open_gguf
from .llama_cpp import start

RUNTIMES = ("transformers", "llama.cpp")
Round = Callable[[list[int], int], tuple[float, float]]
"""(prompt, n) -> seconds to the first token after the prompt, seconds of the n tokens after that."""


@dataclass(frozen=True)
class Job:
    model: str  # as `load_model` takes it; for llama.cpp the path of a GGUF file
    runtime: str  # one of RUNTIMES
    dtype: str  # of the weights in transformers; a GGUF file has its own
    threads: int
    prompt: int  # tokens
    new_tokens: int  # written after the first


def bytes_per_token(model: nn.Module) -> int:
    """Bytes of the parameters that one step of decoding reads, of a model in transformers."""
    whole = sum(parameter.nbytes for parameter in model.parameters())  # a tied head is one parameter here
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return whole if head is table else whole - table.nbytes


def gguf_bytes_per_token(path: str | Path) -> int:
    """The same of a GGUF file, as its tensors are stored. Raises InputError for another file."""
    sizes = {tensor.name: int(tensor.n_bytes) for tensor in open_gguf(path).tensors}
    return sum(sizes.values()) - (sizes["token_embd.weight"] if "output.weight" in sizes else 0)


def prompt_ids(tokens: int) -> list[int]:
    """A prompt of that many tokens, of ids that any vocabulary has: time does not depend on what they say."""
    return [3 + place % 200 for place in range(tokens)]


def in_transformers(job: Job) -> tuple[int, Round]:
    """(bytes per token, what runs a round). Raises what `load_model` raises."""
    import torch

    from ..evaluation.generation import timed
    from ..models.load import load_model

    torch.set_num_threads(job.threads)
    model, _ = load_model(job.model, job.dtype)
    longest, asked = model.config.max_position_embeddings, job.prompt + job.new_tokens
    if asked > longest:
        raise InputError(f"expected at most {longest} tokens, as {job.model} takes, got {asked}: ask for fewer")
    return bytes_per_token(model), lambda ids, new: timed(model, torch.tensor([ids]), new)


def in_llama_cpp(job: Job) -> tuple[int, Round]:
    """The same, by llama.cpp's own clock, which leaves out the way through Python. Raises what `start` raises."""
    server = start(job.model, context=job.prompt + job.new_tokens + 1, threads=job.threads)

    def run(ids: list[int], new: int) -> tuple[float, float]:
        request = {"prompt": ids, "n_predict": new + 1, "ignore_eos": True, "cache_prompt": False}
        request |= {"temperature": 0, "samplers": ["top_k"], "top_k": 1}
        timings = server.handle_completions(request)["timings"]
        # the first of the predicted tokens comes with the prompt, and the clock of the predicted starts there
        return timings["prompt_ms"] / 1e3, timings["predicted_ms"] / 1e3 * new / (timings["predicted_n"] - 1)

    return gguf_bytes_per_token(job.model), run


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    job = Job(**json.loads(sys.stdin.readline()))
    before = psutil.Process().memory_info().rss
    try:
        size, run = (in_transformers if job.runtime == "transformers" else in_llama_cpp)(job)
    except InputError as error:
        print(json.dumps({"refused": str(error)}), file=answers)  # noqa: T201
        return
    print(json.dumps({"bytes_per_token": size}), file=answers)  # noqa: T201
    ids = prompt_ids(job.prompt)
    for _ in sys.stdin:
        first, rest = run(ids, job.new_tokens)
        found = {"first": first, "rest": rest, "memory": peak_bytes() - before}
        print(json.dumps(found), file=answers)  # noqa: T201


if __name__ == "__main__":
    main()
