"""Tokens that a model can take: of its vocabulary, in sequences that are no longer than its context."""

from __future__ import annotations

import torch
from torch import Tensor

from ..utils.errors import InputError
from .types import Model


def checked_tokens(ids: object, vocabulary: int) -> Tensor:
    """The tokens ids (S, L) as int64.

    Raises InputError unless they are a plain tensor of whole numbers below `vocabulary`.
    """
    expected = "tokens, a tensor (S, L) with L of at least 2"
    hint = "Calibration(...).tokens(tokenizer) draws them"
    if not isinstance(ids, Tensor):
        raise InputError(expected=expected, got=type(ids).__name__, hint=hint)
    if ids.is_nested or ids.is_meta or ids.layout != torch.strided:
        kind = "nested one" if ids.is_nested else f"tensor of {ids.layout} on {ids.device}"
        raise InputError(expected=expected, got=f"a {kind}", hint=hint)
    if ids.ndim != 2 or not len(ids) or ids.shape[1] < 2:
        raise InputError(expected=expected, got=f"shape {tuple(ids.shape)}", hint=hint)
    expected = f"tokens from 0 to {vocabulary - 1}"
    hint = "use the tokenizer of this model"
    if ids.is_floating_point() or ids.is_complex() or ids.is_quantized or ids.dtype == torch.bool:
        raise InputError(expected=expected, got=str(ids.dtype), hint=hint)
    tokens = ids.long()
    if int(tokens.min()) < 0 or int(tokens.max()) >= vocabulary:
        raise InputError(expected=expected, got=f"{tokens.min():g} to {tokens.max():g}", hint=hint)
    return tokens


def check_below_vocabulary(ids: Tensor, vocabulary: int) -> None:
    """Raises InputError for a token of which the model has no embedding."""
    if ids.numel() and int(ids.max()) >= vocabulary:
        raise InputError(
            expected=f"tokens below {vocabulary}, of which the model has embeddings",
            got=int(ids.max()),
            hint="take the tokenizer that belongs to the model, or another text",
        )


def check_same_vocabulary(model: Model, parent: Model) -> None:
    """Raises InputError for two models that choose among different numbers of tokens."""
    vocabulary = model.get_output_embeddings().out_features
    parent_vocabulary = parent.get_output_embeddings().out_features
    if vocabulary != parent_vocabulary:
        raise InputError(
            expected="two models with one vocabulary",
            got=f"{vocabulary} and {parent_vocabulary} tokens",
            hint="compare a model with its parent",
        )


def check_length(length: int, context: int) -> None:
    """Raises InputError for sequences of more tokens than `context`, the most that a model takes."""
    if length > context:
        raise InputError(
            expected=f"sequences of at most {context} tokens, the model's", got=length, hint="shorten them"
        )
