"""Wrong answers to the exercises of lesson 3, and words of the sentence that tells each."""

from __future__ import annotations

import importlib
import math

from lessons import LESSONS, functions

CHECKS = LESSONS["03"].checks
checks = importlib.import_module("checks_03")
SOLVED = functions(LESSONS["03"].solutions)


def width(fixed_stays=True, dropped_counts=True, how=math.floor, ends=True):
    """`width_for_time` with one mistake."""

    def width_for_time(ratio, line, layers, neurons, dropped, multiple):
        fixed, layer, neuron = line
        left = layers - dropped * dropped_counts
        allowed = (1 - ratio) * (fixed * fixed_stays + layer * layers + neuron * neurons * layers)
        got = how((allowed - fixed * fixed_stays - layer * left) / (neuron * left) / multiple + 1e-9) * multiple
        return max(0, min(got, neurons // multiple * multiple)) if ends else got

    return width_for_time


def steps(*taken):
    return lambda curves, harm, at: list(taken)


PAIRS = {
    "width_for_time": [
        (width(fixed_stays=False), "`fixed` takes time in both models"),
        (width(dropped_counts=False), "the layers that are gone save time as well"),
        (width(how=math.ceil), "round down, a budget is a lower bound"),
        (width(ends=False), "a layer has only 1536 neurons"),
        (lambda ratio, line, layers, neurons, dropped, multiple: -multiple, "the answer is 0"),
        (lambda ratio, line, layers, neurons, dropped, multiple: multiple, "are too, and keep more"),
        (lambda *wish: width()(*wish[:-1], 1), "is no multiple of 32"),
        (lambda *wish: float(width()(*wish)), "expected a whole number"),
        (lambda *wish: 1536, "expected .* neurons, got 1536"),
    ],
    "fool": [
        (steps(4, 4, 4, 4, 4, 4), "the curves see"),
        (steps(1, 2, 8, 8, 4, 1), "the model likes your widths better"),
        (steps(8, 8, 0, 0, 0, 0), "expected 24 steps in all"),
        (steps(4, 4, 4), "expected the steps of each of 6 layers"),
        (steps(9, 3, 3, 3, 3, 3), "the end of the curves"),
        (steps(3, 4, 4, 4, 4, 5), "nobody is fooled yet"),
    ],
}
MISTAKES = [(name, wrong, words) for name, pairs in PAIRS.items() for wrong, words in pairs]
