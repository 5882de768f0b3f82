"""Wrong answers to the exercises of lesson 6, and words of the sentence that tells each."""

from __future__ import annotations

import math
import statistics
import sys

checks_06 = sys.modules["checks_06"]


def planned(ratio_for):
    """In place of the real model: any ratio is planned in steps of a hundredth."""
    found = {}
    for megabytes in checks_06.MEGABYTES:
        ratio = ratio_for(134_000_000, 106_000_000, 2.0, megabytes)
        reached = math.ceil(ratio * 100) / 100
        found[megabytes] = (ratio, *(268e6 - 212e6 * max(0.0, reached - more) for more in (0.0, 0.01)))
    return found


INSTEAD = {"real_plans": planned}


def ratio(total, decoder, each, megabytes, whole=None, floor=True, left=None):
    left = megabytes * 1e6 / each if left is None else left
    value = (total - left) / (decoder if whole is None else whole)
    return max(0.0, value) if floor else value


def windows(
    values, half, spread=statistics.stdev, factor=1.96, power=2, round_to=math.ceil, scale=lambda n: 1.0
):
    return round_to((factor * spread(values) / half) ** power * scale(len(values)))


MISTAKES = [
    ("ratio_for", lambda t, d, e, m: ratio(t, d, e, m, whole=t), r"a share of \*all\* parameters"),
    ("ratio_for", lambda t, d, e, m: ratio(d, d, e, m), "embeddings and head are in the file too"),
    ("ratio_for", lambda t, d, e, m: m * 1e6 / e / d, "that is what stays"),
    ("ratio_for", lambda t, d, e, m: ratio(t, d, e, m * 2**20 / 1e6), "not 2²⁰"),
    ("ratio_for", lambda t, d, e, m: ratio(t, d, 1.0, m, floor=False), "takes several bytes"),
    ("ratio_for", lambda t, d, e, m: ratio(t, d, e, m, floor=False), "it fits as it is"),
    ("windows_needed", lambda v, h: windows(v, h, statistics.pstdev), "divides by n - 1"),
    ("windows_needed", lambda v, h: windows(v, h, round_to=math.floor), "round up"),
    ("windows_needed", lambda v, h: windows(v, h, power=1), "square the quotient"),
    ("windows_needed", lambda v, h: windows(v, h, factor=1.0), "not one"),
    ("windows_needed", lambda v, h: windows(v, h, scale=lambda n: 1 / n), "divided by the windows so far"),
    ("windows_needed", lambda v, h: windows(v, h) + 1, "expected .* windows for 8 increases"),
    ("windows_needed", lambda v, h: float(windows(v, h)), "a whole number"),
    ("windows_needed", lambda v, h: windows(v, h, factor=3.92), "half of the interval's width already"),
]
