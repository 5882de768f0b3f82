"""Calibration batches: the few thousand tokens that tell a pruning method what the model does with real input.

Every statistic of a run is a sum over these tokens, so they are drawn under a seed, and never from the text on which
the result will be judged. A source is a text (`text.load_text`), "self" for what the model writes by itself
(`written`), one of MIXTURES, or several of them with "+" between: "mine.txt+general" draws half of the sequences from
the file. Texts take turns, so that any part of the sequences holds every text.

A fit to one kind of text spoils the others: calibrated on prose alone SmolLM2 loses 0.93 nats a token on code, on every
kind 0.37 (benchmarks/RESULTS.md). So the mixture "general" takes some of every kind that ships, and text that the model
writes itself; "shipped" leaves that out, for a model that is not in memory, and "written" is that alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..errors import InputError
from ..families.protocol import Model
from ..progress import Progress, no_progress
from ..system.files import hash_of_value
from .text import EVERY_KIND, KINDS, TEXTS, cut, encode, load_text, opening, start_token
from .written import WAYS, written

SHIPPED = (
    {"calibration": 2.0} | {f"calibration:{kind}": 1.0 for kind in KINDS[1:]} | {"calibration:questions": 2.0}
)
WRITTEN = dict.fromkeys(WAYS, 1.0)
# Mixture -> its texts and how many sequences each has, relative to the others.
MIXTURES = {"general": SHIPPED | WRITTEN, "shipped": SHIPPED, "written": WRITTEN}


def sources(source: str | Path) -> dict[str, float]:
    """The texts of a source, and the share of each; they add up to 1.

    A file of the whole name is one text, but a mixture's name wins over a file: write `./general` for that.

    >>> sources("notes.txt+self")
    {'notes.txt': 0.5, 'self': 0.5}
    """
    names = [str(source)] if os.path.exists(source) else str(source).split("+")
    weights: dict[str, float] = {}
    for name in names:
        inside = MIXTURES.get(name, {name: 1.0})
        for text, weight in inside.items():
            weights[text] = weights.get(text, 0.0) + weight / sum(inside.values())
    return {text: weight / sum(weights.values()) for text, weight in weights.items()}


def text_hashes(source: str | Path) -> tuple[str, ...]:
    """16 hex digits by which each text of a source is known again, whatever its name; none of what the model writes.

    Raises InputError for a text that cannot be read.
    """
    return tuple(hash_of_value(load_text(text))[:16] for text in sources(source) if text not in WRITTEN)


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

    Where neither it nor what the model writes has one, every other window of each text gets a start token, except in
    bare TEXTS: behind one never seen, a pruned Qwen2.5-Coder 0.5B loses 6 nats a sentence (benchmarks/RESULTS.md).

    Args:
        source: name or path of a text, "self", a mixture, or several with "+" between (see above).
        model: needed where it is to write some of the text (WRITTEN).
        seed: decides which windows, in which order, and what the model writes.
        evaluated: name or path of the text that will judge the result; refused if it is among the calibration texts.
        progress: called while `model` writes.

    Raises:
        InputError: not enough text, the evaluated text, or text to be written without a model.
    """
    if sequences < 1 or length < 2:
        raise InputError(
            f"expected at least 1 sequence of at least 2 tokens, got {sequences} x {length}; raise them"
        )
    shares, first, ids, room = sources(source), opening(tokenizer), {}, {}
    names = [f"evaluation:{kind}" for kind in KINDS] if str(evaluated) == EVERY_KIND else [evaluated]
    judged = [load_text(name).strip() for name in names if name is not None]
    for text in shares:
        if text not in WRITTEN:
            words = load_text(text)
            if any(one in words or words.strip() in one for one in judged if one):
                got = f"{text!r} and {str(evaluated)!r}, which are the same; calibrate on another text, or 'self'"
                raise InputError(f"expected calibration text apart from the evaluated text, got {got}")
            ids[text] = encode(tokenizer, words)
            # of a shipped text there may be less than its share: the others take over
            limited = len(shares) > 1 and text in SHIPPED
            room[text] = len(ids[text]) // (length - len(first)) if limited else sequences
        elif model is None:
            raise InputError(f"expected a model for calibration source {text!r}, got none; pass model=")
    if (
        len(shares) > 1 and room.keys() >= SHIPPED.keys()
    ):  # what the model writes beside them is in proportion
        each = sum(room[text] for text in SHIPPED) / sum(shares[text] for text in SHIPPED)
        room |= {text: round(each * shares[text]) for text in WRITTEN.keys() & shares.keys()}
    turns = allotted(shares, sequences, room, source)
    rows = {text: [row for row, turn in enumerate(turns) if turn == text] for text in shares}
    tokens, plain = (
        torch.empty(sequences, length, dtype=torch.long),
        {*TEXTS}.issuperset(str(source).split("+")),
    )
    for text, values in ids.items():
        windows = cut(values, first, length, len(rows[text]), f"calibration text in {text!r}")
        order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed))
        tokens[rows[text]] = windows[order[: len(rows[text])]]
    own = [row for text in shares if text in WRITTEN for row in rows[text]]
    if own and model is not None:
        tokens[own] = written(model, tokenizer, [turns[row] for row in own], length, seed, progress)
    if (
        not (plain or len(first))
        and (start := start_token(tokenizer)) is not None
        and start not in tokens[:, 0]
    ):
        begun = [row for place, each in enumerate(rows.values()) for row in each[place % 2 :: 2]]
        tokens[begun, 1:], tokens[begun, 0] = tokens[begun, :-1], start
    return tokens


def allotted(
    shares: Mapping[str, float], sequences: int, room: Mapping[str, int], source: str | Path
) -> list[str]:
    """The text of each of the `sequences`: by their shares, at most the `room` of a text where that is known.

    At least one each, but in a mixture that ships: few sequences of that are of the texts with the largest shares.
    Texts take turns, as evenly as can be. Raises InputError where that cannot be.
    """
    counts = dict.fromkeys(shares, 0 if str(source) in MIXTURES else 1)
    least, most = sum(counts.values()), sum(room.get(text, sequences) for text in shares)
    if not least <= sequences <= most:
        bound = f"at least {least}" if sequences < least else f"at most {most}"
        got = f"{sequences}: ask for as many, or for other texts"
        raise InputError(
            f"expected {bound} sequences of the {len(shares)} texts in {str(source)!r}, got {got}"
        )
    for _ in range(sequences - least):
        open_ones = [text for text in shares if counts[text] < room.get(text, sequences)]
        behind = max(open_ones, key=lambda text: shares[text] / (counts[text] + 0.5))  # Sainte-Lague
        counts[behind] += 1
    turns = [((place + 0.5) / count, text) for text, count in counts.items() for place in range(count)]
    return [text for _, text in sorted(turns, key=lambda turn: turn[0])]
