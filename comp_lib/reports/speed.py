"""How fast models run on this machine, beside how fast they could.

To write one token the machine reads each weight of the decoder and of the head once. Of an embedding it reads
one row, which counts as nothing. A tied embedding is also the head, and all of it is read. The ratio of these
bytes is the `limit` of a `Gain`; docs/on-the-device.md says what it is good for.

Machines are not steady. So the models take turns, each runs once in a round, and speed-ups are taken within a
round. What is reported are medians over the rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.gguf.llama_cpp import checked_reply, start
from ..checkpoints.gguf.read import GgufFile
from ..decoder.types import Model
from ..evaluation.generation import generate_greedily
from ..utils.progress import Progress, no_progress

Seconds = tuple[float, float]  # time to the first token, and time of the `new_tokens` after that
Round = Callable[[], Seconds]  # one run of a model


@dataclass(frozen=True)
class Timing:
    """The speed of one model in one runtime; the tuples have an entry for each round."""

    name: str
    """Name of the model."""
    bytes_per_token: int
    """Bytes that a step of decoding reads."""
    first: tuple[float, ...]
    """Seconds from the prompt to the first token."""
    prefill: tuple[float, ...]
    """Tokens of the prompt read per second."""
    decode: tuple[float, ...]
    """Tokens written per second."""


@dataclass(frozen=True)
class Gain:
    """How much faster a model is than another one, its baseline."""

    speedup: tuple[float, float, float]
    """Speed-up of decoding: median, smallest and largest over the rounds."""
    prefill: tuple[float, float, float]
    """Speed-up of reading the prompt: median, smallest and largest over the rounds."""
    limit: float
    """Speed-up of decoding if nothing but reading the weights took time."""

    def __str__(self) -> str:
        """A table of four lines."""
        lines = [f"{'':8}{'times as fast':>14}{'over the rounds':>18}"]
        for name, (middle, smallest, largest) in (("decode", self.speedup), ("prefill", self.prefill)):
            lines.append(f"{name:8}{middle:14.2f}{f'{smallest:.2f} to {largest:.2f}':>18}")
        lines.append(f"{'limit':8}{self.limit:14.2f}{'of decode, if only reading took time':>39}")
        return "\n".join(lines)


def gain(baseline: Timing, model: Timing) -> Gain:
    """How much faster `model` is than `baseline`, round by round."""
    limit = baseline.bytes_per_token / model.bytes_per_token
    decode = median_ratio(model.decode, baseline.decode)
    prefill = median_ratio(model.prefill, baseline.prefill)
    return Gain(decode, prefill, limit)


def measure(
    models: Mapping[str, Model | str | Path],
    *,
    prompt: int = 128,
    new_tokens: int = 32,
    rounds: int = 5,
    progress: Progress = no_progress,
) -> list[Timing]:
    """Time models in turns, in `rounds` rounds after one that only warms up.

    Both runtimes use as many threads as torch has. All models are loaded at once.

    Args:
        models: name -> a model in memory, timed in transformers, or the path of a GGUF file, timed in
            llama.cpp.
        prompt: number of tokens that are read.
        new_tokens: number of tokens that are written after the first.
        rounds: number of rounds that count.
        progress: called after each round.

    Raises InputError for more tokens than a file's context, and as `llama_cpp.start` does.
    """
    runs = {name: _round_of(model, prompt, new_tokens) for name, model in models.items()}
    times: dict[str, list[Seconds]] = {name: [] for name in models}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            seconds = run()
            if turn > 0:
                times[name].append(seconds)
        progress("rounds", turn, rounds)
    return [_timing_of(name, model, times[name], prompt, new_tokens) for name, model in models.items()]


def _timing_of(
    name: str, model: Model | str | Path, times: list[Seconds], prompt: int, new_tokens: int
) -> Timing:
    """The `times` of a model in all rounds, as speeds."""
    if isinstance(model, str | Path):
        size = gguf_bytes_per_token(model)
    else:
        size = bytes_per_token(model)
    return Timing(
        name,
        size,
        first=tuple(first for first, _ in times),
        prefill=tuple(prompt / first for first, _ in times),
        decode=tuple(new_tokens / rest for _, rest in times),
    )


def bytes_per_token(model: Model) -> int:
    """Bytes of the parameters that one step of decoding reads from a model in transformers."""
    embedding: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    total = sum(parameter.nbytes for parameter in model.parameters())  # a tied head is one parameter here
    if head.weight is embedding.weight:
        return total
    return total - int(embedding.weight.nbytes)


def gguf_bytes_per_token(path: str | Path) -> int:
    """Bytes of the tensors that one step of decoding reads from a GGUF file, as they are stored.

    Raises InputError for another kind of file.
    """
    sizes = {name: tensor.n_bytes for name, tensor in GgufFile(path).tensors.items()}
    total = sum(sizes.values())
    tied = "output.weight" not in sizes
    return total if tied else total - sizes["token_embd.weight"]


def _round_of(model: Model | str | Path, prompt: int, new_tokens: int) -> Round:
    """A function that runs `model` once and returns its seconds.

    llama.cpp is timed by its own clock, which leaves out the Python around it.
    """
    ids = [index % 200 for index in range(prompt)]  # time does not depend on the text
    if not isinstance(model, str | Path):
        return partial(time_model, model, torch.tensor([ids]), new_tokens)
    server = start(model, context=prompt + new_tokens + 1, threads=torch.get_num_threads())
    request = {
        "prompt": ids,
        "n_predict": new_tokens + 1,
        "ignore_eos": True,
        "cache_prompt": False,
        "temperature": 0,
        "samplers": ["top_k"],
        "top_k": 1,
    }

    def run() -> Seconds:
        timings = checked_reply(server.handle_completions(request))["timings"]
        # the first predicted token comes with the prompt; the clock of the predicted tokens starts after it
        seconds_per_token = timings["predicted_ms"] / 1e3 / (timings["predicted_n"] - 1)
        return timings["prompt_ms"] / 1e3, seconds_per_token * new_tokens

    return run


def time_model(model: Model, ids: Tensor, new_tokens: int) -> Seconds:
    """Seconds from the prompt `ids` (1, L) to the first token, and of the `new_tokens` after that."""
    times: list[float] = []

    def clock(ids_so_far: Tensor, scores: Tensor, **_: Any) -> Tensor:
        """Note the time after a token, and let the model go on."""
        ids_so_far[0, -1].item()  # wait for a device that works ahead
        times.append(time.perf_counter())
        return torch.zeros(len(ids_so_far), dtype=torch.bool, device=ids_so_far.device)

    tokens = 1 + new_tokens
    started = time.perf_counter()
    generate_greedily(model, ids.to(model.device), tokens, min_new_tokens=tokens, stopping_criteria=[clock])
    return times[0] - started, times[-1] - times[0]


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> tuple[float, float, float]:
    """Median, smallest and largest of the quotients numerator / denominator of all rounds.

    >>> median_ratio([4.0, 6.0, 8.0], [2.0, 2.0, 2.0])
    (3.0, 2.0, 4.0)
    """
    pairs = zip(numerators, denominators, strict=True)
    ratios = [numerator / denominator for numerator, denominator in pairs]
    return median(ratios), min(ratios), max(ratios)
