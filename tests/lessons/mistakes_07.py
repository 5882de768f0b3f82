"""Wrong answers to the exercises of lesson 7, and words of the sentence that tells each."""

from __future__ import annotations

import sys

import numpy as np
from lessons import LESSONS

CHECKS = LESSONS["07"].checks
checks = sys.modules["checks_07"]


def interval(ours, theirs, level=0.95, paired=True, means=True, sign=1):
    random, count = np.random.default_rng(1), len(ours)
    first = random.integers(count, size=(4000, count))
    second = first if paired else random.integers(count, size=(4000, count))
    drawn = sign * (ours[first] - theirs[second])
    low, high = np.quantile(drawn.mean(1) if means else drawn, [(1 - level) / 2, (1 + level) / 2])
    return low, high


def one_twin(x, w, one, other, leads=True):
    """One twin sends what both sent, and `leads` or falls short of the highest score by as much as the other has."""
    both, others = w[one] + w[other] / 2, [i for i in range(len(w)) if i not in (one, other)]
    highest = float((w.abs().sum(1) * x.norm(dim=0))[others].max() / x[:, one].norm())  # in sums of |w| of `one`
    share = (highest - float(both.abs().sum()) * (0.5 if leads else 1.5)) / len(both)
    w = w.clone()
    w[one], w[other] = both + share * both.sign(), -2 * share * both.sign()
    return w


MISTAKES = [
    ("paired_interval", lambda a, b: interval(a, b, paired=False), "read different texts"),
    ("paired_interval", lambda a, b: interval(a, b, means=False), r"\*mean\* of windows"),
    ("paired_interval", lambda a, b: interval(a, b, level=0.9), "90% interval"),
    ("paired_interval", lambda a, b: interval(a, b, level=0.5), "times as wide as it should be"),
    ("paired_interval", lambda a, b: interval(a, b, sign=-1), "the sign is turned"),
    ("paired_interval", lambda a, b: tuple(np.add(interval(a, b), (a - b).std() / 5)), "the interval is shifted"),
    ("paired_interval", lambda a, b: interval(a, b)[::-1], "the lower end comes first"),
    ("fool_wanda", lambda x, w, i, j: w.clone(), "nothing has changed yet"),
    ("fool_wanda", lambda x, w, i, j: 100 * w, "output has changed"),
    ("fool_wanda", lambda x, w, i, j: one_twin(x, w, i, j, leads=False), "still ranks neuron"),
    ("fool_wanda", one_twin, "the other does not yet"),
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
