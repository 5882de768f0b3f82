"""Which texts calibrate, and how many sequences each of them has.

A source is a text (`texts.load_text`), "self" for what the model writes by itself (`written`), one of
MIXTURES, or several of them with "+" between: "mine.txt+general" draws half of the sequences from the file.
The texts take turns, so that any part of the sequences holds every text. Or it is texts in memory (`given`),
which count as one.

A fit to one kind of text spoils the others: calibrated on prose alone SmolLM2 loses 0.93 nats a token on
code, on every kind 0.37 (benchmarks/RESULTS.md). So the mixture "general" takes some of every kind that
ships, and text that the model writes itself. "shipped" leaves out what the model writes, for a model that is
not in memory, and "written" is only what the model writes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from ..utils.errors import InputError
from ..utils.hashes import hash_of_value
from .in_memory import GivenTexts, Source, read_judging_texts
from .self_generated import WRITERS
from .texts import KINDS, TEXTS, read_text

# text -> how many sequences it has, relative to the others of the mixture
SHIPPED = {"calibration": 2.0}
SHIPPED |= {f"calibration:{kind}": 1.0 for kind in KINDS[1:]}
SHIPPED["calibration:questions"] = 2.0
WRITTEN = dict.fromkeys(WRITERS, 1.0)
MIXTURES = {"general": SHIPPED | WRITTEN, "shipped": SHIPPED, "written": WRITTEN}
SOURCES = (*MIXTURES, *WRITTEN, *TEXTS)  # all names of sources


def shares_of(source: Source) -> dict[str, float]:
    """The texts of a source, and the share of each; the shares add up to 1.

    Where there is a file of that name, it is one text, even with "+" in its name. The name of a mixture wins
    over a file: write `./general` for the file.

    Raises InputError for an empty name beside a "+".

    >>> shares_of("notes.txt+self")
    {'notes.txt': 0.5, 'self': 0.5}
    """
    if isinstance(source, GivenTexts):
        return {str(source): 1.0}
    names = [str(source)] if os.path.exists(str(source)) else str(source).split("+")
    if len(names) > 1 and "" in names:
        raise InputError(
            expected='the name of a text on each side of a "+"',
            got=repr(str(source)),
            hint="check the spelling",
        )
    weights: dict[str, float] = {}
    for name in names:
        mixture = MIXTURES.get(name, {name: 1.0})
        for text_name, weight in mixture.items():
            weights[text_name] = weights.get(text_name, 0.0) + weight / sum(mixture.values())
    total = sum(weights.values())
    return {text_name: weight / total for text_name, weight in weights.items()}


def texts_of(source: Source) -> dict[str, str]:
    """The texts of a source that can be read, by name: all but what the model writes.

    Raises InputError for a text that cannot be read.
    """
    if isinstance(source, GivenTexts):
        return {str(source): source.joined}
    names = [name for name in shares_of(source) if name not in WRITTEN]
    return {name: read_text(name, SOURCES, joined=True) for name in names}


def text_hashes(source: Source) -> tuple[str, ...]:
    """16 hex digits for each text of a source, by which it is recognised under any name.

    Text that the model writes has no such digits.

    Raises InputError for a text that cannot be read.
    """
    return tuple(hash_of_value(text)[:16] for text in texts_of(source).values())


def load_apart_from(judged_on: Source | None, source: Source) -> dict[str, str]:
    """The texts of a source that can be read, by name.

    judged_on: name or path of the text that judges, or texts in memory; None: no text judges.

    Raises InputError where one of the texts contains the text that judges, or is a part of it.
    """
    judging: list[str] = []
    if judged_on is not None:
        judging = [text.strip() for text in read_judging_texts(judged_on).values()]
    texts = texts_of(source)
    for text_name, text in texts.items():
        if any(judge and (judge in text or text.strip() in judge) for judge in judging):
            raise InputError(
                expected="calibration text apart from the text that judges",
                got=f"{text_name!r} and {str(judged_on)!r}, which are the same",
                hint="calibrate on another text, or 'self'",
            )
    return texts


def sequence_limits(shares: Mapping[str, float], window_counts: Mapping[str, int]) -> dict[str, int]:
    """The most sequences that a text of a mixture may have, for those texts that have a limit.

    A text that ships has no more sequences than windows can be cut from it. If its share is larger, other
    texts have the rest. What the model writes could be as long as one likes. In a mixture with all texts that
    ship it gets a limit all the same, so that its proportion to them stays.

    Args:
        shares: the share of each text of the mixture.
        window_counts: how many windows can be cut from each text that can be read.
    """
    if len(shares) == 1:  # no mixture
        return {}
    limits = {text_name: count for text_name, count in window_counts.items() if text_name in SHIPPED}
    if limits.keys() == SHIPPED.keys():
        windows_per_share = sum(limits[text] for text in SHIPPED) / sum(shares[text] for text in SHIPPED)
        for text_name in WRITTEN.keys() & shares.keys():
            limits[text_name] = round(windows_per_share * shares[text_name])
    return limits


def allot(
    shares: Mapping[str, float], sequences: int, limits: Mapping[str, int], source: Source
) -> list[str]:
    """The text of each of the `sequences`: by the shares of the texts, and within the limits of some of them.

    Every text has at least one sequence. One of MIXTURES is an exception: where the sequences are fewer than
    its texts, the texts with the largest shares have them. The texts take turns, as evenly as can be.

    Raises InputError for too few sequences, or for more than the limits allow.
    """
    counts = dict.fromkeys(shares, 0 if str(source) in MIXTURES else 1)
    minimum = sum(counts.values())
    maximum = sum(limits.get(text_name, sequences) for text_name in shares)
    if not minimum <= sequences <= maximum:
        bound = f"at least {minimum}" if sequences < minimum else f"at most {maximum}"
        raise InputError(
            expected=f"{bound} sequences of the {len(shares)} texts in {str(source)!r}",
            got=sequences,
            hint="ask for as many, or for other texts",
        )

    def arrears(text_name: str) -> float:
        """How far a text lags behind its share, by the method of Sainte-Lague."""
        return shares[text_name] / (counts[text_name] + 0.5)

    for _ in range(sequences - minimum):
        below_limit = [name for name in shares if counts[name] < limits.get(name, sequences)]
        counts[max(below_limit, key=arrears)] += 1
    # a slot is (position, text name); the positions of each text are spread evenly from 0 to 1
    slots: list[tuple[float, str]] = []
    for text_name, count in counts.items():
        slots += [((number + 0.5) / count, text_name) for number in range(count)]
    slots.sort(key=lambda slot: slot[0])
    return [text_name for _, text_name in slots]
