"""Text that a model writes, always the most likely token, so that two models can be compared."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from transformers import GenerationConfig

from ..calibration.texts import check_encodable
from ..decoder.run import evaluation_mode
from ..decoder.tokens import check_below_vocabulary
from ..decoder.types import CausalLM, Model
from ..utils.errors import InputError

EXAMPLE_PROMPT = "The water cycle begins when the sun"  # for a first look at what a model writes


def continuation(model: Model, tokenizer: Any, prompt: str, tokens: int) -> str:
    """Text that a model writes after `prompt`, at most `tokens` tokens.

    Each token is the most likely one, so the text is the same every time.

    Raises InputError for a prompt that is empty or anything but text, and for more tokens than the model's
    context holds.
    """
    check_encodable("a prompt", prompt)
    if not prompt.strip():
        raise InputError(
            expected="a prompt with some text",
            got="an empty one",
            hint="write what the model shall go on from",
        )
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"].to(model.device)  # (1, L)
    check_below_vocabulary(ids, model.config.vocab_size)
    length = ids.shape[1]
    context = model.config.max_position_embeddings
    if tokens < 1 or length + tokens > context:
        raise InputError(
            expected=f"a prompt and at least one new token within {context} tokens",
            got=f"{length} and {tokens}",
            hint="shorten the prompt, or ask for another number of tokens",
        )
    new_ids = generate_greedily(model, ids, tokens)[0, length:]
    text: str = tokenizer.decode(new_ids, skip_special_tokens=True)
    return text


@torch.inference_mode()
def generate_greedily(model: Model, ids: Tensor, tokens: int, **options: Any) -> Tensor:
    """Append at most `tokens` tokens to ids (1, L), each the most likely one: (1, L + tokens).

    options: further arguments of transformers' `generate`.
    """
    # generate() takes what it is not given from this config: beams, penalties
    original_config = model.generation_config
    model.generation_config = GenerationConfig(
        eos_token_id=original_config.eos_token_id, pad_token_id=original_config.pad_token_id or 0
    )
    try:
        with evaluation_mode(model):
            extended_ids: Tensor = cast("CausalLM", model).generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                do_sample=False,
                **options,
            )
    finally:
        model.generation_config = original_config
    return extended_ids
