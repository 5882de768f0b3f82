"""Calibration batches: the few thousand tokens that tell a pruning method what the model does with real input.

Every statistic of a run is a sum over these tokens, so they are drawn under a seed, and never from the text on which
the result will be judged. A source is a text (`text.load_text`), "self" for what the model writes by itself
(`written`), one of MIXTURES, or several of them with "+" between, each with its share: "mine.txt:3+general:1" draws
three quarters of the sequences from the file. Texts take turns, so that any part of the sequences holds every text.

A fit to one kind of text spoils the others: calibrated on prose alone SmolLM2 loses 0.88 nats a token on code, on the
same number of tokens of every kind 0.35 (benchmarks/RESULTS.md). So the mixture "general" takes some of every kind that
ships, and text that the model writes itself; "shipped" leaves that out, for a model that is not in memory, and
"written" is that alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..errors import InputError, suggestion
from ..families.protocol import Model
from ..report import Progress, no_progress
from .text import KINDS, encode, load_text, opening
from .written import WAYS, written

SELF = "self"
SHARE = re.compile(r"(.+):(\d+\.?\d*)")  # of a text in a mixture
SHIPPED = {"calibration": 2.0} | {f"calibration:{kind}": 1.0 for kind in KINDS[1:]} | {"calibration:questions": 2.0}
WRITTEN = {f"{SELF}:{way}": 1.0 for way in WAYS}
ALIASES = {"calibration:prose": "calibration", SELF: f"{SELF}:{WAYS[0]}"}
# Mixture -> its texts and how many sequences each has, relative to the others. Shares: benchmarks/RESULTS.md.
MIXTURES = {"general": SHIPPED | WRITTEN, "shipped": SHIPPED, "written": WRITTEN}


def sources(source: str | Path) -> dict[str, float]:
    """The texts of a source, and the share of each; they add up to 1.

    A file of the whole name is one text, but a mixture's name wins over a file: write `./general` for that.

    Raises InputError for a share of 0, or another way to write than WAYS.

    >>> sources("notes.txt:3+self")
    {'notes.txt': 0.75, 'self:start': 0.25}
    """
    weights: dict[str, float] = {}
    for name, share in _parts(source):
        if name.startswith(f"{SELF}:") and name not in WRITTEN:
            raise InputError(f"expected one of {', '.join(WRITTEN)}, got {name!r}: {suggestion(name, WRITTEN)}")
        inside = MIXTURES.get(name, {ALIASES.get(name, name): 1.0})
        for text, weight in inside.items():
            weights[text] = weights.get(text, 0.0) + share * weight / sum(inside.values())
    return {text: weight / sum(weights.values()) for text, weight in weights.items()}


def _parts(source: str | Path) -> list[tuple[str, float]]:
    """The texts and mixtures between the "+" signs, each with its share, 1 unless a number follows the last colon."""
    if str(source) not in MIXTURES and os.path.exists(source):
        return [(str(source), 1.0)]
    parts = []
    for part in str(source).split("+"):
        match = None if os.path.exists(part) else SHARE.fullmatch(part)
        name, share = (match[1], float(match[2])) if match else (part, 1.0)
        if not share:
            raise InputError(f"expected a share above 0 in {part!r}, got 0: write {name}:1, or leave the text out")
        parts.append((name, share))
    return parts


def needs_model(source: str | Path) -> bool:
    """Whether some of `source` is for the model to write, which then must be in memory."""
    return not WRITTEN.keys().isdisjoint(sources(source))


def check_source(source: str | Path) -> None:
    """Raises InputError unless every part of `source` is for the model to write, or a text that can be read."""
    for text in sources(source):
        if text not in WRITTEN:
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
    shares, first, ids, room = sources(source), opening(tokenizer), {}, {}
    judged = "" if evaluated is None else load_text(evaluated).strip()
    for text in shares:
        if text not in WRITTEN:
            words = load_text(text)
            if judged and (judged in words or words.strip() in judged):
                got = f"{text!r} and {str(evaluated)!r}, which are the same; calibrate on another text, or 'self'"
                raise InputError(f"expected calibration text apart from the evaluated text, got {got}")
            ids[text] = encode(tokenizer, words)
            # of a shipped text there may be less than its share: the others take over
            limited = len(shares) > 1 and text in SHIPPED
            room[text] = len(ids[text]) // (length - len(first)) if limited else sequences
        elif model is None:
            raise InputError(f"expected a model for calibration source {text!r}, got none; pass model=")
    if len(shares) > 1 and room.keys() >= SHIPPED.keys():  # what the model writes beside them is in proportion
        each = sum(room[text] for text in SHIPPED) / sum(shares[text] for text in SHIPPED)
        room |= {text: round(each * shares[text]) for text in WRITTEN.keys() & shares.keys()}
    turns = _turns(allotted(shares, sequences, room, source))
    rows = {text: [row for row, turn in enumerate(turns) if turn == text] for text in shares}
    tokens = torch.empty(sequences, length, dtype=torch.long)
    for text, values in ids.items():
        tokens[rows[text]] = _windows(text, values, first, len(rows[text]), length, seed)
    own = [row for text in shares if text in WRITTEN for row in rows[text]]
    if own and model is not None:
        ways = [turns[row].removeprefix(f"{SELF}:") for row in own]
        tokens[own] = written(model, tokenizer, ways, length, seed, progress)
    return tokens


def allotted(
    shares: Mapping[str, float], sequences: int, room: Mapping[str, int], source: str | Path = ""
) -> dict[str, int]:
    """How many of the `sequences` each text gets: by its share, at most its `room` where that is known.

    At least one, but in a mixture that ships: few sequences of that are of the texts with the largest shares.
    Raises InputError where that cannot be.
    """
    counts = dict.fromkeys(shares, 0 if str(source) in MIXTURES else 1)
    least, most = sum(counts.values()), sum(room.get(text, sequences) for text in shares)
    if not least <= sequences <= most:
        bound = f"at least {least}" if sequences < least else f"at most {most}"
        got = f"{sequences}: ask for as many, or for other texts"
        raise InputError(f"expected {bound} sequences of the {len(shares)} texts in {str(source)!r}, got {got}")
    for _ in range(sequences - least):
        open_ones = [text for text in shares if counts[text] < room.get(text, sequences)]
        behind = max(open_ones, key=lambda text: shares[text] / (counts[text] + 0.5))  # Sainte-Lague
        counts[behind] += 1
    return counts


def _turns(counts: Mapping[str, int]) -> list[str]:
    """The text of each place when the texts take turns, as evenly as can be."""
    turns = (
        ((place + 0.5) / count, number, text)
        for number, (text, count) in enumerate(counts.items())
        for place in range(count)
    )
    return [text for _, _, text in sorted(turns)]


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
