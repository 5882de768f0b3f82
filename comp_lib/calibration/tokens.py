"""Calibration batches: the few thousand tokens that tell a pruning method what the model does with real input.

Every statistic of a run is a sum over these tokens, so they are drawn under a seed, and never from the text on which
the result will be judged. Without any text at hand the model can write its own: sampled at temperature 1, it draws from
the very distribution that it was trained to imitate,

    x_1 = start token,    x_{t+1} ~ p(. | x_1 ... x_t),

so its samples are a stand-in for its training data, at the price of its own errors.

Sources can be mixed: "notes.txt+self" draws one half of the sequences from the file and lets the model write the other.
A text of one kind leaves idle what other kinds use; the model's own samples keep that at work (benchmarks/RESULTS.md).
"""

from __future__ import annotations

import inspect
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..errors import InputError
from ..families.protocol import Model
from ..report import Progress, no_progress
from .text import encode, load_text

SELF = "self"
SAMPLE_BATCH = 16  # the keys and values of so many sequences are in memory at once


def sources(source: str | Path) -> tuple[str | Path, ...]:
    """The parts of a mixture; what exists under the whole name is one part.

    >>> sources("notes.txt+self")
    ('notes.txt', 'self')
    """
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
    model: Model | None = None,
    sequences: int = 32,
    length: int = 256,
    seed: int = 0,
    evaluated: str | Path | None = None,
    progress: Progress = no_progress,
) -> Tensor:
    """`sequences` windows of `length` tokens, (S, L), that do not overlap.

    Args:
        source: name or path of a text (see `load_text`), or "self" to let `model` write it; several with "+" between
            them give as many sequences each (the first ones one more where it does not divide), taking turns.
        model: needed for "self" only.
        seed: decides which windows, and in which order.
        evaluated: name or path of the text that will judge the result; refused if it is the calibration text.
        progress: called while `model` writes.

    Raises:
        InputError: not enough text, the evaluated text, or "self" without a model.
    """
    if sequences < 1 or length < 2:
        raise InputError(f"expected at least 1 sequence of at least 2 tokens, got {sequences} x {length}; raise them")
    parts = sources(source)
    if sequences < len(parts):
        got = f"{sequences} in all; raise them"
        raise InputError(f"expected at least a sequence for each of the {len(parts)} texts in {source!r}, got {got}")
    tokens = torch.empty(sequences, length, dtype=torch.long)
    for place, part in enumerate(parts):
        rows = tokens[place :: len(parts)]  # a part of `tokens`, not a copy
        if part != SELF:
            rows[:] = _windows(part, encode(tokenizer, _text(part, evaluated)), len(rows), length, seed)
        elif model is None:
            raise InputError('expected a model for calibration source "self", got none; pass model=')
        else:
            rows[:] = sample_from_model(model, tokenizer, len(rows), length, seed, progress)
    return tokens


def _text(source: str | Path, evaluated: str | Path | None) -> str:
    """The calibration text. Raises InputError when one of the two texts holds the whole of the other."""
    text, judged = load_text(source), None if evaluated is None else load_text(evaluated)
    if judged is not None and (text.strip() in judged or judged.strip() in text):
        got = f"{str(source)!r} and {str(evaluated)!r}, which are the same"
        advice = "calibrate on another text, another split, or 'self'"
        raise InputError(f"expected calibration text apart from the evaluated text, got {got}; {advice}")
    return text


def _windows(source: str | Path, ids: Tensor, count: int, length: int, seed: int) -> Tensor:
    """`count` windows out of the text ids (N,), drawn without replacement."""
    if len(ids) < count * length:
        expected = f"at least {count * length} tokens of calibration text ({count} x {length})"
        advice = "take a longer text, or fewer or shorter sequences"
        raise InputError(f"expected {expected}, got {len(ids)} from {str(source)!r}; {advice}")
    windows = ids[: len(ids) // length * length].view(-1, length)  # (N // L, L)
    return windows[torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed))[:count]]


@torch.no_grad()  # not inference mode: the ids are an ordinary tensor, good for training too
def sample_from_model(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    sequences: int,
    length: int,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Tensor:
    """`sequences` texts of `length` tokens written by the model itself, (S, L), on the CPU.

    Plain ancestral sampling: temperature 1, no truncation of the distribution, and no end of text, so that a sample
    runs on into the next document as training data does. The first token is the tokenizer's start token, else its
    end token, else a random one. The global random state is neither read nor changed.
    """
    # drawing on the CPU gives one seed one text, whatever device the model is on
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    # transformers renamed this argument within the range that we support, and ignores the name that it does not know
    cache_name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    samples = torch.empty(sequences, length, dtype=torch.long)
    done = 0
    for batch in samples.split(SAMPLE_BATCH):  # (B, L) each: a part of `samples`, not a copy
        batch[:, :1] = torch.randint(model.config.vocab_size, (len(batch), 1), generator=generator)
        if start is not None:
            batch[:, 0] = start
        cache = None
        for position in range(1, length):
            token = batch[:, position - 1 : position].to(device)
            output = model(input_ids=token, use_cache=True, **{cache_name: cache})
            cache = output[cache_name]
            probabilities = output.logits[:, -1].float().softmax(-1).cpu()  # (B, V)
            batch[:, position] = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
            progress("sampling text", done + len(batch) * (position + 1), samples.numel())
        done += batch.numel()
    return samples
