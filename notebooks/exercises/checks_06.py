"""Checks for the exercises of lesson 6: a ratio for a file size, and how many windows it takes.

Exercise 1 reads the parameter counts of the real model (its shape, no computing); the rest needs nothing of comp_lib.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from checking import Wrong, accept, call, real_outline

MEGABYTES = (230.0, 200.0, 150.0)  # of the embedded model in 16 bits, which has 269


# --- 1: a ratio for a file --------------------------------------------------------------------------------------------


def check_ratio_for(ratio_for: Callable[[int, int, float, float], float]) -> None:
    """Exercise 1."""
    for total, decoder, each, megabytes in ((1_000_000, 600_000, 2.0, 0.9), (5_000_000, 4_000_000, 4.0, 9.0)):
        got = _number(call(ratio_for, total, decoder, each, megabytes))
        left = megabytes * 1e6 / each  # parameters
        want = (total - left) / decoder
        if abs(got - want) < 1e-9:
            continue
        mistakes = {
            (total - left) / total: "that is a share of *all* parameters: the ratio refers to the decoder's",
            (decoder - left) / decoder: "embeddings and head are in the file too, and they stay",
            left / decoder: "that is what stays: the ratio is what goes",
            1 - want: "that is what stays of the decoder: the ratio is what goes",
            (total - megabytes * 2**20 / each) / decoder: "a megabyte is a million bytes here, not 2²⁰",
            (total - megabytes * 1e6) / decoder: "a parameter takes several bytes: divide the budget by them",
            (total - left * each * each) / decoder: "divide the budget by the bytes of a parameter, once",
        }
        for wrong, sentence in mistakes.items():
            if abs(got - wrong) < 1e-9:
                raise Wrong(sentence)
        raise Wrong(
            f"expected a ratio of {want:.4f} for {total:,} parameters and {megabytes:g} MB, got {got:.4f}"
        )
    if (got := _number(call(ratio_for, 1_000, 600, 2.0, 1.0))) != 0.0:
        raise Wrong(f"it fits as it is: then nothing has to go, got a ratio of {got:g}")
    words = []
    for megabytes, (ratio, size, wider) in real_plans(
        lambda *sizes: _number(call(ratio_for, *sizes))
    ).items():
        if size > megabytes * 1e6:
            raise Wrong(
                f"planned with your ratio the real model still has {size / 1e6:.1f} MB, not {megabytes:g}"
            )
        if wider <= megabytes * 1e6:
            raise Wrong(f"{megabytes:g} MB would hold a wider model than your ratio of {ratio:.3f} leaves")
        words.append(f"{megabytes:g} MB at {ratio:.1%}")
    accept(f"of the real model: {', '.join(words)}")


def real_plans(
    ratio_for: Callable[[int, int, float, float], float],
) -> dict[float, tuple[float, float, float]]:
    """Megabytes -> ratio, bytes of the plan that has it, bytes of one with 16 neurons more in each layer."""
    from comp_lib.hybrid_granularity.uniform import uniform_plan
    from comp_lib.plan import PlanRequest
    from comp_lib.shape import Shape

    shape, found = Shape.of(real_outline()), {}
    for megabytes in MEGABYTES:
        ratio = ratio_for(shape.total, shape.decoder, 2.0, megabytes)
        plan = uniform_plan(PlanRequest(shape, ratio, multiple=16))
        sizes = [
            2 * shape.with_widths([n + more for n in plan.neurons], plan.kv_groups).total for more in (0, 16)
        ]
        found[megabytes] = (ratio, *sizes)
    return found


def _number(got: object) -> float:
    if not isinstance(got, int | float) or not math.isfinite(got):
        raise Wrong(f"expected one number, got {got!r}")
    return float(got)


# --- 2: how many windows ----------------------------------------------------------------------------------------------


def check_windows_needed(windows_needed: Callable[[list[float], float], int]) -> None:
    """Exercise 2. One number may be that of two mistakes; all three together are of one."""
    random = np.random.default_rng(3)
    cases = [(random.normal(0.4, 0.2, count), half) for count, half in ((8, 0.05), (12, 0.02), (10, 0.1))]
    answers = [call(windows_needed, values.tolist(), half) for values, half in cases]
    for got in answers:
        if not isinstance(got, int):
            raise Wrong(f"expected a whole number (int), got {got!r}")
    right = [_windows(*case) for case in cases]
    if answers != right:
        for sentence, mistake in MISCOUNTED.items():
            if answers == [mistake(*case) for case in cases]:
                raise Wrong(sentence)
        for got, want, (values, half) in zip(answers, right, cases, strict=True):
            if got != want:
                raise Wrong(
                    f"expected {want} windows for {len(values)} increases and a half of {half:g}, got {got}"
                )
    accept("now you know what a thinner whisker costs: half the width, four times the windows")


def _windows(values: np.ndarray, half: float, ddof: int = 1, errors: float = 1.96, power: float = 2.0) -> int:
    """The number of windows; by some mistake if asked for."""
    return math.ceil((errors * values.std(ddof=ddof) / half) ** power)


# Sentence -> the number of windows by that mistake.
MISCOUNTED: dict[str, Callable[[np.ndarray, float], int]] = {
    "the spread of a *sample* divides by n - 1": lambda values, half: _windows(values, half, ddof=0),
    "round up: one window less is too few": lambda values, half: _windows(values, half) - 1,
    "the error falls with the *root* of n: square the quotient": lambda values, half: _windows(
        values, half, power=1
    ),
    "divided by the windows so far: what is needed is the spread of *one* window, not that of their mean": (
        lambda values, half: math.ceil((1.96 * values.std(ddof=1) / half) ** 2 / len(values))
    ),
    "`half` is half of the interval's width already": lambda values, half: _windows(
        values, half, errors=3.92
    ),
    "95% are 1.96 standard errors on each side, not one": lambda values, half: _windows(
        values, half, errors=1.0
    ),
}
