"""Wrong answers to the exercises of lesson 7, and words of the sentence that tells each."""

from __future__ import annotations

import sys

import numpy as np
from lessons import LESSONS

CHECKS = LESSONS["07"].checks
checks = sys.modules["checks_07"]


def interval(ours, theirs, level=0.95, paired=True, means=True, sign=1):
    random, count = np.random.default_rng(SEED), len(ours)
    first = random.integers(count, size=(4000, count))
    second = first if paired else random.integers(count, size=(4000, count))
    drawn = sign * (ours[first] - theirs[second])
    low, high = np.quantile(drawn.mean(1) if means else drawn, [(1 - level) / 2, (1 + level) / 2])
    return low, high


SEED = 1  # of the draws


def one_twin(x, w, one, other, much=1000.0):
    w = w.clone()
    w[one] += much
    w[other] -= 2 * much
    return w


MIDDLE = -0.95  # enough for one twin to lead, not for both
MISTAKES = [
    ("paired_interval", lambda a, b: interval(a, b, paired=False), "read different texts"),
    ("paired_interval", lambda a, b: interval(a, b, means=False), r"\*mean\* of windows"),
    ("paired_interval", lambda a, b: interval(a, b, level=0.9), "90% interval"),
    ("paired_interval", lambda a, b: interval(a, b, level=0.5), "times as wide as it should be"),
    ("paired_interval", lambda a, b: interval(a, b, sign=-1), "the sign is turned"),
    ("paired_interval", lambda a, b: interval(a, b)[::-1], "the lower end comes first"),
    ("fool_wanda", lambda x, w, i, j: w.clone(), "nothing has changed yet"),
    ("fool_wanda", lambda x, w, i, j: 100 * w, "output has changed"),
    ("fool_wanda", lambda x, w, i, j: one_twin(x, w, i, j, 0.1), "still ranks neuron"),
    ("fool_wanda", lambda x, w, i, j: one_twin(x, w, i, j, MIDDLE), "the other does not yet"),
    ("fool_wanda", lambda x, w, i, j: w[:3], r"shape \(8, 5\), got \(3, 5\)"),
]


CASES = [
    ((14, 0.3, "prose", "prose"), "both calibrates and judges"),
    ((1, 0.3, "prose", "code"), "fits the luck of the text"),  # loses on both
    ((2, 0.3, "prose", "code"), "hardly changes anything"),  # wins on both
    ((3, 0.3, "prose", "code"), "no difference is found"),
]


def fake_errors(layer, ridge, calibrates, judges):
    """COMP's and FLAP's errors by window: what the numbers of the layers above stand for."""
    same, noise = judges == calibrates, np.linspace(-1, 1, 8)
    gap = {1: 0.1, 2: -0.1, 3: -0.001 if same else 0.1}.get(layer, -0.1 if same else 0.1)
    return 0.2 + gap + 0.01 * noise, np.full(8, 0.2)


INSTEAD = {"layer_errors": fake_errors}
MISTAKES += [("losing_case", lambda case=case: case, words) for case, words in CASES]
