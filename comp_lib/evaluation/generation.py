"""What a model says, and how fast it says it.

Text is greedy, so that two models can be compared: the same prompt, the same answer, every time. Speed has two parts,
since they ask for different things of a machine: *prefill* reads the prompt, all tokens at once, and is bound by
arithmetic; *decode* writes one token at a time, reads every weight for each, and is bound by memory. Machines are not
steady, so models are timed in turns, round by round, and compared within a round.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from ..errors import InputError
from ..families.protocol import Model
from ..report import Progress, no_progress


def check_prompt(prompt: str) -> None:
    """Raises InputError unless there is some text in `prompt`."""
    if not prompt.strip():
        raise InputError("expected a prompt with some text, got an empty one: write what the model shall go on from")


def continuation(model: Model, tokenizer: Any, prompt: str, tokens: int) -> str:
    """What a model says after `prompt`, at most `tokens` tokens: greedy, so the same every time.

    Raises InputError: nothing to go on from, or more than the model's context holds.
    """
    check_prompt(prompt)
    inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
    length, context = inputs["input_ids"].shape[1], model.config.max_position_embeddings
    if tokens < 1 or length + tokens > context:
        got = f"{length} and {tokens}: shorten the prompt, or ask for another number of tokens"
        raise InputError(f"expected a prompt and at least one new token within {context} tokens, got {got}")
    ids = _generate(model, inputs["input_ids"], tokens, attention_mask=inputs["attention_mask"])
    text: str = tokenizer.decode(ids[0, length:], skip_special_tokens=True)
    return text


@dataclass(frozen=True)
class Speed:
    """Tokens per second of one model, one entry for each round."""

    prefill: tuple[float, ...]
    decode: tuple[float, ...]


def measure_speed(
    models: Sequence[Model], ids: Tensor, new_tokens: int = 32, rounds: int = 3, progress: Progress = no_progress
) -> list[Speed]:
    """Speed of each model on the prompt `ids` (1, L), in `rounds` rounds after one that only warms up."""
    rates: list[list[tuple[float, float]]] = [[] for _ in models]
    for turn in range(rounds + 1):
        for model, of_model in zip(models, rates, strict=True):
            first, rest = timed(model, ids, new_tokens)
            if turn:
                of_model.append((ids.shape[1] / first, new_tokens / rest))
        progress("timing", turn, rounds)
    return [Speed(*zip(*of_model, strict=True)) for of_model in rates]


def prompt_ids(tokens: int) -> list[int]:
    """A prompt of that many tokens, of ids that any vocabulary has: time does not depend on what they say."""
    return [3 + place % 200 for place in range(tokens)]


def timed(model: Model, ids: Tensor, new_tokens: int) -> tuple[float, float]:
    """Seconds from the prompt `ids` (1, L) to the first token after it, and of the `new_tokens` after that."""
    clock, tokens = _Clock(), 1 + new_tokens
    started = time.perf_counter()
    _generate(model, ids.to(model.device), tokens, min_new_tokens=tokens, stopping_criteria=[clock])
    return clock.times[0] - started, clock.times[-1] - clock.times[0]


class _Clock(StoppingCriteria):
    """Asked after each token whether to stop: notes the time, and never does."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        input_ids[0, -1].item()  # waits for a device that works ahead
        self.times.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def ratio(one: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """Median, smallest and largest of one / other, round by round.

    >>> ratio([4.0, 6.0, 8.0], [2.0, 2.0, 2.0])
    (3.0, 2.0, 4.0)
    """
    ratios = [a / b for a, b in zip(one, other, strict=True)]
    return median(ratios), min(ratios), max(ratios)


@torch.inference_mode()
def _generate(model: Model, ids: Tensor, tokens: int, attention_mask: Tensor | None = None, **options: Any) -> Tensor:
    """Greedy, one row; generate() wants to be told that nothing is padding, and warns otherwise."""
    mask = torch.ones_like(ids) if attention_mask is None else attention_mask
    options |= {"do_sample": False, "pad_token_id": model.generation_config.pad_token_id or 0}
    out: Tensor = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=tokens, **options)
    return out
