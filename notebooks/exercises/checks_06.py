"""Checks for the exercises of lesson 6: a ratio for a file size, and how many windows it takes.

Exercise 1 reads the parameter counts of the real model, from its shape; the rest needs nothing of comp_lib.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from course.checking import Wrong, accept, call, real_outline

MEGABYTES = (230.0, 200.0, 150.0)  # of the included model in 16 bits, which has 269


# --- 1: a ratio for a file ----------------------------------------------------------------------------------


def check_ratio_for(ratio_for: Callable[[int, int, float, float], float]) -> None:
    """Exercise 1."""

    def checked_ratio(total: int, decoder: int, parameter_bytes: float, megabytes: float) -> float:
        return _number(call(ratio_for, total, decoder, parameter_bytes, megabytes))

    for sizes in ((1_000_000, 600_000, 2.0, 0.9), (5_000_000, 4_000_000, 4.0, 9.0)):
        _check_ratio(checked_ratio(*sizes), *sizes)
    ratio = checked_ratio(1_000, 600, 2.0, 1.0)
    if ratio != 0.0:
        raise Wrong(f"it fits as it is: then nothing has to go, got a ratio of {ratio:g}")
    phrases = []
    for megabytes, (ratio, size, wider_size) in real_plans(checked_ratio).items():
        if size > megabytes * 1e6:
            raise Wrong(
                f"planned with your ratio the real model still has {size / 1e6:.1f} MB, not {megabytes:g}"
            )
        if wider_size <= megabytes * 1e6:
            raise Wrong(f"{megabytes:g} MB would hold a wider model than your ratio of {ratio:.3f} leaves")
        phrases.append(f"{megabytes:g} MB at {ratio:.1%}")
    accept(f"of the real model: {', '.join(phrases)}")


def _check_ratio(ratio: float, total: int, decoder: int, parameter_bytes: float, megabytes: float) -> None:
    """Raises Wrong unless the ratio leaves a file of so many megabytes.

    total, decoder: parameters of the model, and those of its decoder, which alone can be removed.
    """
    parameters_left = megabytes * 1e6 / parameter_bytes
    right = (total - parameters_left) / decoder
    if abs(ratio - right) < 1e-9:
        return
    share_of_all = (total - parameters_left) / total
    decoder_alone = (decoder - parameters_left) / decoder
    binary_megabytes = (total - megabytes * 2**20 / parameter_bytes) / decoder
    one_byte_each = (total - megabytes * 1e6) / decoder
    multiplied = (total - parameters_left * parameter_bytes**2) / decoder
    mistakes = {
        "that is a share of *all* parameters: the ratio refers to the decoder's": share_of_all,
        "embeddings and head are in the file too, and they stay": decoder_alone,
        "that is what stays: the ratio is what goes": parameters_left / decoder,
        "that is what stays of the decoder: the ratio is what goes": 1 - right,
        "a megabyte is a million bytes here, not 2²⁰": binary_megabytes,
        "a parameter takes several bytes: divide the budget by them": one_byte_each,
        "divide the budget by the bytes of a parameter, once": multiplied,
    }
    for sentence, mistake in mistakes.items():
        if abs(ratio - mistake) < 1e-9:
            raise Wrong(sentence)
    raise Wrong(
        f"expected a ratio of {right:.4f} for {total:,} parameters and {megabytes:g} MB, got {ratio:.4f}"
    )


def real_plans(
    ratio_for: Callable[[int, int, float, float], float],
) -> dict[float, tuple[float, float, float]]:
    """Megabytes -> ratio, bytes of the plan that has it, bytes of one with 16 neurons more in each layer."""
    from comp_lib.decoder.shape import Shape
    from comp_lib.hybrid_granularity.plan import PlanRequest
    from comp_lib.hybrid_granularity.uniform import uniform_plan

    shape = Shape.of(real_outline())
    plans = {}
    for megabytes in MEGABYTES:
        ratio = ratio_for(shape.total_parameters, shape.decoder_parameters, 2.0, megabytes)
        plan = uniform_plan(PlanRequest(shape, ratio, multiple=16))
        wider_neurons = [neurons + 16 for neurons in plan.neurons]
        size = 2 * shape.with_widths(plan.neurons, plan.kv_groups).total_parameters
        wider_size = 2 * shape.with_widths(wider_neurons, plan.kv_groups).total_parameters
        plans[megabytes] = (ratio, size, wider_size)
    return plans


def _number(answer: object) -> float:
    """An answer that has to be one number. Raises Wrong for any other."""
    if not isinstance(answer, int | float) or not math.isfinite(answer):
        raise Wrong(f"expected one number, got {answer!r}")
    return float(answer)


# --- 2: how many windows ------------------------------------------------------------------------------------


def check_windows_needed(windows_needed: Callable[[list[float], float], int]) -> None:
    """Exercise 2. Two mistakes may give the same answer to one case, but not to all three."""
    random = np.random.default_rng(3)
    cases = [(random.normal(0.4, 0.2, count), half) for count, half in ((8, 0.05), (12, 0.02), (10, 0.1))]
    answers = [call(windows_needed, values.tolist(), half) for values, half in cases]
    for answer in answers:
        if not isinstance(answer, int):
            raise Wrong(f"expected a whole number (int), got {answer!r}")
    expected = [_windows(*case) for case in cases]
    if answers != expected:
        for sentence, mistake in MISTAKEN_COUNTS.items():
            if answers == [mistake(*case) for case in cases]:
                raise Wrong(sentence)
        for answer, count, (values, half) in zip(answers, expected, cases, strict=True):
            if answer != count:
                raise Wrong(
                    f"expected {count} windows for {len(values)} increases and a half of {half:g}, "
                    f"got {answer}"
                )
    accept("now you know what a thinner whisker costs: half the width, four times the windows")


def _windows(
    values: np.ndarray, half: float, ddof: int = 1, standard_errors: float = 1.96, power: float = 2.0
) -> int:
    """The right number of windows, unless an argument makes it wrong.

    half: half of the width that the interval is to have.
    """
    return math.ceil((standard_errors * values.std(ddof=ddof) / half) ** power)


# Sentence -> the number of windows by that mistake.
MISTAKEN_COUNTS: dict[str, Callable[[np.ndarray, float], int]] = {
    "the spread of a *sample* divides by n - 1": lambda values, half: _windows(values, half, ddof=0),
    "round up: one window less is too few": lambda values, half: _windows(values, half) - 1,
    "the error falls with the *root* of n: square the quotient": (
        lambda values, half: _windows(values, half, power=1)
    ),
    "divided by the windows so far: what is needed is the spread of *one* window, not that of their mean": (
        lambda values, half: math.ceil((1.96 * values.std(ddof=1) / half) ** 2 / len(values))
    ),
    "`half` is half of the interval's width already": (
        lambda values, half: _windows(values, half, standard_errors=3.92)
    ),
    "95% are 1.96 standard errors on each side, not one": (
        lambda values, half: _windows(values, half, standard_errors=1.0)
    ),
}
