"""Calibration batches: the few thousand tokens that tell a pruning method what the model does with real input.

Every statistic of a run is a sum over these tokens, so they are drawn under a seed, and never from the text on which
the result will be judged. Without any text at hand the model can write its own: a language model sampled at
temperature 1 draws from the very distribution that it was trained to imitate,

    x_1 = start token,    x_{t+1} ~ p(. | x_1 ... x_t),

so its samples are a stand-in for its training data, at the price of its own errors.

Sources can be mixed: "notes.txt+self" draws one half of the sequences from the file and lets the model write the other.
A text of one kind leaves idle what other kinds use; the model's own samples keep that at work (benchmarks/RESULTS.md).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from .errors import InputError
from .text import encode, load_text

SELF = "self"
SAMPLE_BATCH = 16  # the keys and values of so many sequences are in memory at once


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
    tokenizer,
    *,
    model: nn.Module | None = None,
    sequences: int = 32,
    length: int = 256,
    seed: int = 0,
    evaluated: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
    """`sequences` windows of `length` tokens, (S, L), that do not overlap.

    Args:
        source: name or path of a text (see `load_text`), or "self" to let `model` write it; several joined by "+" give
            as many sequences each (the first ones one more where it does not divide), taking turns.
        model: needed for "self" only.
        seed: decides which windows, and in which order.
        evaluated: name or path of the text that will judge the result; refused if it is the calibration text.
        progress: called with (tokens done, tokens in all) while `model` writes.

    Raises:
        InputError: not enough text, the evaluated text, or "self" without a model.
    """
    _check_sizes(sequences, length)
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
                part, tokenizer, model=model, sequences=share, length=length, seed=seed, evaluated=evaluated,
                progress=progress,
            )  # fmt: skip
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


@torch.no_grad()  # not inference mode: the ids are an ordinary tensor, good for training too
def sample_from_model(
    model: nn.Module,
    tokenizer,
    sequences: int,
    length: int,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
    """`sequences` texts of `length` tokens written by the model itself, (S, L), on the CPU.

    Plain ancestral sampling: temperature 1, no truncation of the distribution, and no end of text, so that a sample
    runs on into the next document as training data does. The first token is the tokenizer's start token, else its
    end token, else a random one. The global random state is neither read nor changed.
    """
    _check_sizes(sequences, length)
    # drawing on the CPU gives one seed one text, whatever device the model is on
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    # transformers renamed this argument within the range that we support, and ignores the name that it does not know
    cache_name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    samples = []
    for done in range(0, sequences, SAMPLE_BATCH):
        rows = min(SAMPLE_BATCH, sequences - done)
        token = torch.randint(model.config.vocab_size, (rows, 1), generator=generator)  # (B, 1)
        if start is not None:
            token.fill_(start)
        sample, cache = [token], None
        for position in range(1, length):
            output = model(input_ids=token.to(device), use_cache=True, **{cache_name: cache})
            cache = output[cache_name]
            probabilities = output.logits[:, -1].float().softmax(-1).cpu()  # (B, V)
            token = torch.multinomial(probabilities, 1, generator=generator)
            sample.append(token)
            if progress is not None:
                progress(done * length + rows * (position + 1), sequences * length)
        samples.append(torch.cat(sample, dim=1))  # (B, L)
    return torch.cat(samples)


def _check_sizes(sequences: int, length: int) -> None:
    if sequences < 1 or length < 2:
        raise InputError(f"expected at least 1 sequence of at least 2 tokens, got {sequences} x {length}; raise them")


def _overlap(one: str, other: str) -> bool:
    """Whether one of two texts holds the whole of the other."""
    return one.strip() in other or other.strip() in one
