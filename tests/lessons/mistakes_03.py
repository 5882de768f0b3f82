"""Wrong answers to the exercises of lesson 3, and what their checks say to each.

Those to `missed_least` are in test_exercises_on_models.py, on a small model.
"""

from __future__ import annotations

import numpy as np


def rise(row, step):
    """How much the harm grows with the next step; infinite after the last one."""
    if step + 1 == len(row):
        return np.inf
    return row[step + 1] - row[step]


def steps(expectation):
    """The greedy loop with another expectation of the harm.

    `expectation` takes the harm (L, 1), the curves (L, S + 1) and their values at `at` (L, 1), and returns
    the harm after each number of steps (L, S + 1).
    """

    def widths(harm, curves, at, total):
        rows = expectation(harm[:, None], curves, curves[:, [at]])
        counts = [0] * len(harm)
        for _ in range(total):
            rises = [rise(row, count) for row, count in zip(rows, counts, strict=True)]
            counts[int(np.argmin(rises))] += 1
        return counts

    return widths


def measured_one_step_later(harm, curves, at, total):
    """Divides by the curve at the step after `at`."""
    return steps(lambda h, c, _: h * c / c[:, [at + 1]])(harm, curves, at, total)


# (function that the learner writes, a wrong answer, pattern that the check's sentence matches)
MISTAKES = [
    ("widths", steps(lambda harm, curves, at: curves), "asks the curves alone"),
    ("widths", steps(lambda harm, curves, at: harm * curves), "divide by the curve there"),
    ("widths", steps(lambda harm, curves, at: curves / at), "the harm is missing"),
    ("widths", steps(lambda harm, curves, at: curves / harm), "turned round"),
    ("widths", lambda *_: [4, 4, 3, 3], r"would do 0\.\d+"),
    ("widths", lambda *_: [4, 4, 4, 3], "expected 14 steps in all"),
    ("widths", measured_one_step_later, "would do"),
    ("widths", lambda *_: [4, 4, 4], "expected the steps of each of 4 layers"),
]
