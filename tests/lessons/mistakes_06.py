"""Wrong answers to the exercises of lesson 6, and what their checks say to each."""

from __future__ import annotations

import math
import statistics

from lessons import checks_module

checks_06 = checks_module("06")


def plans_in_hundredths(ratio_for):
    """Stands in for the plans of the real model: each ratio is rounded up to a hundredth.

    Returns megabytes -> (ratio, bytes of its plan, bytes of the plan with a hundredth less removed).
    """
    plans = {}
    for megabytes in checks_06.MEGABYTES:
        ratio = ratio_for(134_000_000, 106_000_000, 2.0, megabytes)
        planned = math.ceil(ratio * 100) / 100
        plans[megabytes] = (ratio, bytes_left(planned), bytes_left(planned - 0.01))
    return plans


def bytes_left(ratio):
    return 268e6 - 212e6 * max(0.0, ratio)


# Name in checks_06 -> what stands there during the test.
REPLACEMENTS = {"real_plans": plans_in_hundredths}


def ratio(total, decoder, bytes_each, megabytes, removable=None, floor=True):
    """The right ratio, unless `removable` is another number than `decoder`, or without the floor at 0."""
    kept = megabytes * 1e6 / bytes_each
    value = (total - kept) / (removable or decoder)
    return max(0.0, value) if floor else value


def windows(
    values,
    half_width,
    spread=statistics.stdev,
    factor=1.96,
    power=2,
    round_to=math.ceil,
    scale=lambda count: 1.0,
):
    """The right number of windows, unless an argument makes it wrong; `scale` multiplies it."""
    return round_to((factor * spread(values) / half_width) ** power * scale(len(values)))


# (function that the learner writes, a wrong answer, pattern that the check's sentence matches)
MISTAKES = [
    ("ratio_for", lambda t, d, e, m: ratio(t, d, e, m, removable=t), r"a share of \*all\* parameters"),
    ("ratio_for", lambda t, d, e, m: ratio(d, d, e, m), "embeddings and head are in the file too"),
    ("ratio_for", lambda t, d, e, m: m * 1e6 / e / d, "that is what stays"),
    ("ratio_for", lambda t, d, e, m: ratio(t, d, e, m * 2**20 / 1e6), "not 2²⁰"),
    ("ratio_for", lambda t, d, e, m: ratio(t, d, 1.0, m, floor=False), "takes several bytes"),
    ("ratio_for", lambda t, d, e, m: ratio(t, d, e, m, floor=False), "it fits as it is"),
    ("windows_needed", lambda v, h: windows(v, h, statistics.pstdev), "divides by n - 1"),
    ("windows_needed", lambda v, h: windows(v, h, round_to=math.floor), "round up"),
    ("windows_needed", lambda v, h: windows(v, h, power=1), "square the quotient"),
    ("windows_needed", lambda v, h: windows(v, h, factor=1.0), "not one"),
    (
        "windows_needed",
        lambda v, h: windows(v, h, scale=lambda count: 1 / count),
        "divided by the windows so far",
    ),
    ("windows_needed", lambda v, h: windows(v, h) + 1, "expected .* windows for 8 increases"),
    ("windows_needed", lambda v, h: float(windows(v, h)), "a whole number"),
    ("windows_needed", lambda v, h: windows(v, h, factor=3.92), "half of the interval's width already"),
]
