"""Wrong answers to the exercises of lesson 3, and words of the sentence that tells each.

Those to `missed_least` are in test_exercises_on_models.py, on a small model.
"""

from __future__ import annotations

import numpy as np
from lessons import LESSONS

CHECKS = LESSONS["03"].checks


def steps(expected):
    """The loop, by some other expectation: harm, curves, curves at `at` -> (L, S + 1)."""

    def widths(harm, curves, at, total):
        rows, taken = expected(harm[:, None], curves, curves[:, [at]]), [0] * len(harm)
        for _ in range(total):
            rises = [
                row[s + 1] - row[s] if s + 1 < len(row) else np.inf
                for row, s in zip(rows, taken, strict=True)
            ]
            taken[int(np.argmin(rises))] += 1
        return taken

    return widths


MISTAKES = [
    ("widths", steps(lambda harm, curves, at: curves), "asks the curves alone"),
    ("widths", steps(lambda harm, curves, at: harm * curves), "divide by the curve there"),
    ("widths", steps(lambda harm, curves, at: curves / at), "the harm is missing"),
    ("widths", steps(lambda harm, curves, at: curves / harm), "turned round"),
    ("widths", lambda *_: [4, 4, 3, 3], r"would do 0\.\d+"),
    ("widths", lambda *_: [4, 4, 4, 3], "expected 14 steps in all"),
    (
        "widths",
        lambda h, c, at, total: steps(lambda *_: h[:, None] * c / c[:, [at + 1]])(h, c, at, total),
        "would do",
    ),
    ("widths", lambda *_: [4, 4, 4], "expected the steps of each of 4 layers"),
]
