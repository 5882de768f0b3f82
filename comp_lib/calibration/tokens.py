"""Calibration batches: the few thousand tokens that tell a pruning method what the model does with real input.

Every statistic of a run is a sum over these tokens, so they are drawn under a seed, and never from the text on which
the result will be judged. A source is a text (`text.load_text`), "self" for what the model writes by itself
(`written`), a mixture that ships (`general.MIXTURES`), or several of them with "+" between, each with its share:
"mine.txt:3+general:1" draws three quarters of the sequences from the file. Texts take turns, so that any part of the
sequences holds every text.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..errors import InputError, suggestion
from ..families.protocol import Model
from ..report import Progress, no_progress
from .general import MIXTURES, SHIPPED, WRITTEN
from .text import encode, load_text, opening
from .written import WAYS, written

SELF = "self"
MOST_TOKENS = 100_000_000  # of a run; their hidden states alone are more than any machine has


def sources(source: str | Path) -> dict[str, float]:
    """The texts of a source, and the share of each; they add up to 1.

    A file of the whole name is one text, but a mixture's name wins over a file: write `./general` for that.

    Raises InputError for a share that is no number above 0.

    >>> sources("notes.txt:3+self")
    {'notes.txt': 0.75, 'self': 0.25}
    """
    asked: dict[str, float] = {}
    for name, share in _parts(source):
        inside = MIXTURES.get(name, {"calibration" if name == "calibration:prose" else name: 1.0})
        for text, weight in inside.items():
            asked[text] = asked.get(text, 0.0) + share * weight / sum(inside.values())
    return {text: share / sum(asked.values()) for text, share in asked.items()}


def _parts(source: str | Path) -> list[tuple[str, float]]:
    """The texts and mixtures between the "+" signs, each with its weight; a file of the whole name is one."""
    if str(source) not in MIXTURES and os.path.exists(source):
        return [(str(source), 1.0)]
    return [_share(part) for part in str(source).split("+")]


def _share(part: str) -> tuple[str, float]:
    """A text and its weight in a mixture: 1 unless a number follows the last colon."""
    name, _, share = part.rpartition(":")
    try:
        weight = float(share) if name and not os.path.exists(part) else None
    except ValueError:
        weight = None
    if weight is None:
        return part, 1.0
    if not 0.0 < weight < float("inf"):
        got = f"{share}: write {name}:1, or leave the text out"
        raise InputError(f"expected a share above 0, and finite, in {part!r}, got {got}")
    return name, weight


def needs_model(source: str | Path) -> bool:
    """Whether some of `source` is for the model to write, which then must be in memory."""
    return any(_way(text) is not None for text in sources(source))


def _way(text: str) -> str | None:
    """How the model is to write `text`, one of WAYS; None: it is not to."""
    name, _, way = text.partition(":")
    if name != SELF:
        return None
    way = way or WAYS[0]
    if way not in WAYS:
        got = f"{text!r}: {suggestion(way, WAYS)}"
        raise InputError(f"expected {SELF} or {SELF}:WAY with one of {', '.join(WAYS)}, got {got}")
    return way


def check_source(source: str | Path) -> None:
    """Raises InputError unless every part of `source` is for the model to write, or a text that can be read."""
    for text in sources(source):
        if _way(text) is None:
            load_text(text)


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
    """`sequences` windows of `length` tokens, (S, L), that do not overlap, each with the tokenizer's beginning.

    Args:
        source: name or path of a text, "self", a mixture, or several with "+" between (see above).
        model: needed where it is to write some of the text (`needs_model`).
        seed: decides which windows, in which order, and what the model writes.
        evaluated: name or path of the text that will judge the result; refused if it is among the calibration texts.
        progress: called while `model` writes.

    Raises:
        InputError: not enough text, the evaluated text, or text to be written without a model.
    """
    if sequences < 1 or length < 2:
        raise InputError(f"expected at least 1 sequence of at least 2 tokens, got {sequences} x {length}; raise them")
    if sequences * length > MOST_TOKENS:
        got = f"{sequences:,} x {length:,}; lower one of them"
        raise InputError(f"expected at most {MOST_TOKENS:,} tokens of calibration text, got {got}")
    shares, first = sources(source), opening(tokenizer)
    ids, room = {}, {}
    for text in shares:
        if _way(text) is None:
            ids[text] = encode(tokenizer, _text(text, evaluated))
            # of a shipped text there may be less than its share: the others take over
            room[text] = (
                len(ids[text]) // (length - len(first))
                if len(shares) > 1 and text in MIXTURES["general"]
                else sequences
            )
        elif model is None:
            raise InputError(f"expected a model for calibration source {text!r}, got none; pass model=")
    if len(shares) > 1 and room.keys() >= SHIPPED.keys():  # what the model writes beside them is in proportion
        each = sum(room[text] for text in SHIPPED) / sum(shares[text] for text in SHIPPED)
        room |= {text: round(each * shares[text]) for text in WRITTEN.keys() & shares.keys()}
    counts = allotted(shares, sequences, room, source)
    places = _turns(counts)
    tokens = torch.empty(sequences, length, dtype=torch.long)
    for text, values in ids.items():
        if counts[text]:
            tokens[places[text]] = _windows(text, values, first, counts[text], length, seed)
    own = [(place, way) for text in shares if (way := _way(text)) is not None for place in places[text]]
    if own and model is not None:
        rows, ways = zip(*own, strict=True)
        tokens[list(rows)] = written(model, tokenizer, ways, length, seed, progress)
    return tokens


def allotted(
    shares: Mapping[str, float], sequences: int, room: Mapping[str, int], source: str | Path = ""
) -> dict[str, int]:
    """How many of the `sequences` each text gets: by its share, at most its `room` where that is known.

    At least one, but in a mixture that ships: few sequences of that are of the texts with the largest shares.
    Raises InputError where that cannot be.
    """
    counts = dict.fromkeys(shares, 0 if str(source) in MIXTURES else 1)
    if sequences < sum(counts.values()):
        wanted = f"at least a sequence for each of the {len(shares)} texts in {str(source)!r}"
        raise InputError(f"expected {wanted}, got {sequences} in all; raise them")
    for _ in range(sequences - sum(counts.values())):
        open_ones = [text for text in shares if counts[text] < room.get(text, sequences)]
        if not open_ones:
            most = sum(room.values())
            got = f"{sequences}; add a text of your own, or ask for fewer or shorter ones"
            raise InputError(f"expected at most the {most} sequences that {str(source)!r} has, got {got}")
        behind = max(open_ones, key=lambda text: shares[text] / (counts[text] + 0.5))  # Sainte-Lague
        counts[behind] += 1
    return counts


def _turns(counts: Mapping[str, int]) -> dict[str, list[int]]:
    """Which places each text has when the texts take turns, as evenly as can be."""
    order = sorted(
        ((place + 0.5) / count, number, text)
        for number, (text, count) in enumerate(counts.items())
        for place in range(count)
    )
    places: dict[str, list[int]] = {text: [] for text in counts}
    for place, (_, _, text) in enumerate(order):
        places[text].append(place)
    return places


def _text(source: str | Path, evaluated: str | Path | None) -> str:
    """The calibration text. Raises InputError when one of the two texts holds the whole of the other."""
    text, judged = load_text(source), None if evaluated is None else load_text(evaluated)
    if judged is not None and (text.strip() in judged or judged.strip() in text):
        got = f"{str(source)!r} and {str(evaluated)!r}, which are the same"
        advice = "calibrate on another text, another split, or 'self'"
        raise InputError(f"expected calibration text apart from the evaluated text, got {got}; {advice}")
    return text


def _windows(source: str | Path, ids: Tensor, first: Tensor, count: int, length: int, seed: int) -> Tensor:
    """`count` windows (S, L) out of the text ids (N,), drawn without replacement, `first` (k,) before each."""
    own = length - len(first)
    if len(ids) < count * own:
        expected = f"at least {count * own} tokens of calibration text for {count} x {length}"
        advice = "take a longer text, or fewer or shorter sequences"
        raise InputError(f"expected {expected}, got {len(ids)} from {str(source)!r}; {advice}")
    windows = ids[: len(ids) // own * own].view(-1, own)
    drawn = windows[torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed))[:count]]
    return torch.cat([first.expand(count, -1), drawn], 1)
