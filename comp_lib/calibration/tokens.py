"""Calibration batches: the few thousand tokens that tell a pruning method what the model does with real input.

Every statistic of a run is a sum over these tokens, so they are drawn under a seed, and never from the text on which
the result will be judged. Without any text at hand the model can write its own (`self_written`).

Sources can be mixed: "notes.txt+self" draws one half of the sequences from the file and lets the model write the other.
A text of one kind leaves idle what other kinds use; the model's own samples keep that at work (benchmarks/RESULTS.md).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..errors import InputError
from ..report import Progress, no_progress
from .self_written import check_sizes, sample_from_model
from .text import encode, load_text

SELF = "self"


def sources(source: str | Path) -> tuple[str | Path, ...]:
    """The parts of a mixture such as "notes.txt+self"; what exists under the whole name is one part."""
    return (source,) if Path(source).exists() else tuple(str(source).split("+"))


def check_source(source: str | Path) -> None:
    """Raises InputError unless every part of `source` is "self" or a text that can be read."""
    for part in sources(source):
        if part != SELF:
            load_text(part)


def calibration_tokens(
    source: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    model: nn.Module | None = None,
    sequences: int = 32,
    length: int = 256,
    seed: int = 0,
    evaluated: str | Path | None = None,
    progress: Progress = no_progress,
) -> torch.Tensor:
    """`sequences` windows of `length` tokens, (S, L), that do not overlap.

    Args:
        source: name or path of a text (see `load_text`), or "self" to let `model` write it; several joined by "+" give
            as many sequences each (the first ones one more where it does not divide), taking turns.
        model: needed for "self" only.
        seed: decides which windows, and in which order.
        evaluated: name or path of the text that will judge the result; refused if it is the calibration text.
        progress: called while `model` writes.

    Raises:
        InputError: not enough text, the evaluated text, or "self" without a model.
    """
    check_sizes(sequences, length)
    parts = sources(source)
    if len(parts) > 1:
        shares = [len(range(place, sequences, len(parts))) for place in range(len(parts))]
        if min(shares) < 1:
            raise InputError(
                f"expected at least a sequence for each of the {len(parts)} texts in {source!r}, got {sequences} in"
                " all; raise them"
            )
        mixed = torch.empty(sequences, length, dtype=torch.long)
        for place, (part, share) in enumerate(zip(parts, shares, strict=True)):
            mixed[place :: len(parts)] = calibration_tokens(
                part,
                tokenizer,
                model=model,
                sequences=share,
                length=length,
                seed=seed,
                evaluated=evaluated,
                progress=progress,
            )
        return mixed
    if source == SELF:
        if model is None:
            raise InputError('expected a model for calibration source "self", got none; pass model=')
        return sample_from_model(model, tokenizer, sequences, length, seed, progress)
    text = load_text(source)
    if evaluated is not None and (str(source) == str(evaluated) or _overlap(text, load_text(evaluated))):
        raise InputError(
            f"expected calibration text apart from the evaluated text, got {str(source)!r} and {str(evaluated)!r},"
            " which are the same; calibrate on another text, another split, or 'self'"
        )
    ids = encode(tokenizer, text)  # (N,)
    if len(ids) < sequences * length:
        raise InputError(
            f"expected at least {sequences * length} tokens of calibration text ({sequences} x {length}), got"
            f" {len(ids)} from {str(source)!r}; take a longer text, or fewer or shorter sequences"
        )
    windows = ids[: len(ids) // length * length].view(-1, length)  # (N // L, L)
    drawn = torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed))[:sequences]
    return windows[drawn]


def _overlap(one: str, other: str) -> bool:
    """Whether one of two texts holds the whole of the other."""
    return one.strip() in other or other.strip() in one
