"""What a model says, and how long it takes to say it; `on_device.speed` compares models.

Text is greedy, so that two models can be compared: the same prompt, the same answer, every time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from ..errors import InputError
from ..families.frame import check_ids
from ..families.protocol import Model


def continuation(model: Model, tokenizer: Any, prompt: str, tokens: int) -> str:
    """What a model says after `prompt`, at most `tokens` tokens: greedy, so the same every time.

    Raises InputError: nothing to go on from, or more than the model's context holds.
    """
    if not prompt.strip():
        raise InputError("expected a prompt with some text, got an empty one: write what the model shall go on from")
    prompt_ids = tokenizer(prompt, return_tensors="pt")["input_ids"].to(model.device)  # (1, L)
    check_ids(prompt_ids, model.config.vocab_size)
    length, context = prompt_ids.shape[1], model.config.max_position_embeddings
    if tokens < 1 or length + tokens > context:
        got = f"{length} and {tokens}: shorten the prompt, or ask for another number of tokens"
        raise InputError(f"expected a prompt and at least one new token within {context} tokens, got {got}")
    text: str = tokenizer.decode(_generate(model, prompt_ids, tokens)[0, length:], skip_special_tokens=True)
    return text


def prompt_ids(tokens: int) -> list[int]:
    """A prompt of that many tokens, of ids that any vocabulary has: time does not depend on what they say."""
    return [3 + place % 200 for place in range(tokens)]


def timed(model: Model, ids: Tensor, new_tokens: int) -> tuple[float, float]:
    """Seconds from the prompt `ids` (1, L) to the first token after it, and of the `new_tokens` after that."""
    times: list[float] = []

    def clock(so_far: Tensor, scores: Tensor, **_: Any) -> Tensor:
        """Asked after each token whether to stop: notes the time, and never does."""
        so_far[0, -1].item()  # waits for a device that works ahead
        times.append(time.perf_counter())
        return torch.zeros(len(so_far), dtype=torch.bool, device=so_far.device)

    tokens, started = 1 + new_tokens, time.perf_counter()
    _generate(model, ids.to(model.device), tokens, min_new_tokens=tokens, stopping_criteria=[clock])
    return times[0] - started, times[-1] - times[0]


def ratio(one: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """Median, smallest and largest of one / other, round by round.

    >>> ratio([4.0, 6.0, 8.0], [2.0, 2.0, 2.0])
    (3.0, 2.0, 4.0)
    """
    ratios = [a / b for a, b in zip(one, other, strict=True)]
    return median(ratios), min(ratios), max(ratios)


@torch.inference_mode()
def _generate(model: Model, ids: Tensor, tokens: int, **options: Any) -> Tensor:
    """Greedy, one row; generate() wants to be told that nothing is padding, and warns otherwise."""
    told = model.generation_config  # beams, penalties: generate() would take from it whatever it is not given
    model.generation_config = GenerationConfig(eos_token_id=told.eos_token_id, pad_token_id=told.pad_token_id or 0)
    try:
        out: Tensor = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, **options
        )
    finally:
        model.generation_config = told
    return out
