"""From text to token ids, and the tokens with which a text begins."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> Tensor:
    """Token ids of a long text, (N,), without special tokens: windows are cut out of its middle."""
    # verbose=False: the text may well be longer than the model's context, but no window of it will be
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return torch.tensor(ids, dtype=torch.long)


def opening_tokens(tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """What the tokenizer puts before each text: its beginning-of-sequence token, (1,), or nothing, (0,).

    A model that was taught with that token reads badly without: Gemma 3 270M loses 1.6 nats per token.
    """
    bos_token = tokenizer.bos_token_id
    ids_of_nothing = tokenizer("", verbose=False)["input_ids"]
    if bos_token is None or ids_of_nothing[:1] != [bos_token]:
        return torch.empty(0, dtype=torch.long)
    return torch.tensor([bos_token])


def start_token(tokenizer: Any) -> int | None:
    """The token with which a reader starts a text: the tokenizer's beginning of a sequence, else its end."""
    bos_token: int | None = tokenizer.bos_token_id
    return tokenizer.eos_token_id if bos_token is None else bos_token
