"""What a model says, always the most likely token, so that two models can be compared."""

from __future__ import annotations

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
        raise InputError(
            "expected a prompt with some text, got an empty one: write what the model shall go on from"
        )
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"].to(model.device)  # (1, L)
    check_ids(ids, model.config.vocab_size)
    length, context = ids.shape[1], model.config.max_position_embeddings
    if tokens < 1 or length + tokens > context:
        got = f"{length} and {tokens}: shorten the prompt, or ask for another number of tokens"
        raise InputError(f"expected a prompt and at least one new token within {context} tokens, got {got}")
    text: str = tokenizer.decode(greedy(model, ids, tokens)[0, length:], skip_special_tokens=True)
    return text


@torch.inference_mode()
def greedy(model: Model, ids: Tensor, tokens: int, **options: Any) -> Tensor:
    """ids (1, L) and at most `tokens` more, each the most likely one, (1, L + tokens); `options` are of generate()."""
    told = model.generation_config  # beams, penalties: generate() would take from it whatever it is not given
    model.generation_config = GenerationConfig(
        eos_token_id=told.eos_token_id, pad_token_id=told.pad_token_id or 0
    )
    options |= {"attention_mask": torch.ones_like(ids), "max_new_tokens": tokens, "do_sample": False}
    try:
        out: Tensor = model.generate(input_ids=ids, **options)
    finally:
        model.generation_config = told
    return out


def ratio(one: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """Median, smallest and largest of one / other, round by round.

    >>> ratio([4.0, 6.0, 8.0], [2.0, 2.0, 2.0])
    (3.0, 2.0, 4.0)
    """
    ratios = [a / b for a, b in zip(one, other, strict=True)]
    return median(ratios), min(ratios), max(ratios)
