"""Wrong answers to the exercises of lesson 3, and words of the sentence that tells each."""

from __future__ import annotations

import importlib

from lessons import LESSONS, functions

CHECKS = LESSONS["03"].checks
checks = importlib.import_module("checks_03")
SOLVED = functions(LESSONS["03"].solutions)


def steps(*taken):
    return lambda curves, harm, at: list(taken)


PAIRS = {
    "fool": [
        (steps(4, 4, 4, 4, 4, 4), "the curves see"),
        (steps(1, 2, 8, 8, 4, 1), "the model likes your widths better"),
        (steps(8, 8, 0, 0, 0, 0), "expected 24 steps in all"),
        (steps(4, 4, 4), "expected the steps of each of 6 layers"),
        (steps(9, 3, 3, 3, 3, 3), "the end of the curves"),
        (steps(3, 4, 4, 4, 4, 5), "nobody is fooled yet"),
    ]
}
MISTAKES = [(name, wrong, words) for name, pairs in PAIRS.items() for wrong, words in pairs]
