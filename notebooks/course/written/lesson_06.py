"""Check of what the reader writes in lesson 06, on rises of the loss whose intervals are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from course.checking import Wrong, accept, call, checks

LIMIT = 0.3  # nats per token
SPREAD = np.array([-3.0, -2.0, -1.0, 0.0, 0.0, 1.0, 2.0, 3.0])  # of eight windows, with the mean 0
NARROW = 0.02  # times SPREAD: the interval reaches 0.03 to each side of the mean
WIDE = 0.1  # times SPREAD: the interval reaches 0.17 to each side
Rises = Mapping[float, np.ndarray]


@checks("recommend")
def check_recommend(recommend: Callable) -> None:
    first = {  # the ratios are in no order
        0.2: 0.2 + NARROW * SPREAD,  # the largest that passes
        0.4: 0.4 + WIDE * SPREAD,  # only the low end is below the limit
        0.1: 0.1 + NARROW * SPREAD,
        0.3: 0.25 + WIDE * SPREAD,  # the mean is below the limit, the high end is not
    }
    agreeing = {ratio: 0.1 + NARROW * SPREAD for ratio in first}  # fresh windows would let any ratio pass
    answer, ratios_asked = _ask(recommend, first, agreeing)
    if answer is None:
        raise Wrong("`recommend` returns nothing: end it with `return`, and with the ratio where one passes")
    _check_first(answer)
    _check_asked(ratios_asked)
    refusing = agreeing | {0.2: 0.25 + WIDE * SPREAD}  # the mean is below the limit here too
    answer, ratios_asked = _ask(recommend, first, refusing)
    _check_refused(answer, ratios_asked)
    answer, ratios_asked = _ask(recommend, {0.3: first[0.3], 0.4: first[0.4]}, agreeing)
    if answer is not None or ratios_asked:
        raise Wrong("no ratio keeps the limit on the first windows: then the answer is None, without asking")
    accept("the first windows choose, the fresh ones judge what was chosen, and only that")


def _ask(recommend: Callable, first: Rises, fresh: Rises) -> tuple[float | None, list[float]]:
    """Her recommendation, and the ratios for which she asked for fresh windows."""
    ratios_asked = []

    def rises_on_fresh_windows(ratio: float) -> np.ndarray:
        ratios_asked.append(ratio)
        return fresh[ratio].copy()

    rises = {ratio: values.copy() for ratio, values in first.items()}
    answer = call(recommend, rises, rises_on_fresh_windows, LIMIT, returns=False)
    if answer is not None and not (isinstance(answer, float) and answer in first):
        ratios = ", ".join(map(str, sorted(first)))
        raise Wrong(f"expected one of the ratios ({ratios}) or None, got {answer!r}")
    return answer, ratios_asked


def _check_first(answer: float) -> None:
    """Raises Wrong unless the largest ratio that passes on the first windows is chosen."""
    sentences = {
        0.1: "this ratio passes, but a larger one passes too: take the largest",
        0.3: "the mean keeps the limit there, the whole interval does not: compare its high end",
        0.4: "only the low end of the interval lies below the limit there: compare its high end",
    }
    if answer in sentences:
        raise Wrong(f"got {answer}: {sentences[answer]}")


def _check_asked(ratios_asked: list[float]) -> None:
    """Raises Wrong unless fresh windows judged the chosen ratio, and no other."""
    other_ratios = sorted(set(ratios_asked) - {0.2})
    if other_ratios:
        raise Wrong(
            f"the fresh windows were asked about {', '.join(map(str, other_ratios))} too: who chooses with "
            "them has no fresh windows left to judge"
        )
    if not ratios_asked:
        raise Wrong("the fresh windows were not asked: the choice was made on the windows that praise it")


def _check_refused(answer: float | None, ratios_asked: list[float]) -> None:
    """Raises Wrong unless a choice that fresh windows refuse ends in None."""
    if answer == 0.2:
        raise Wrong(
            "on the fresh windows the interval of the chosen ratio reaches beyond the limit, and it is "
            "recommended all the same: its high end has to lie below the limit there too"
        )
    if answer is not None or set(ratios_asked) != {0.2}:
        raise Wrong(
            "the fresh windows refuse the chosen ratio, and a smaller one is taken: return None, since a "
            "second choice needs new windows"
        )
