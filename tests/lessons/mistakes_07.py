"""Wrong answers to the exercises of lesson 7, and words of the sentence that tells each."""

from __future__ import annotations

import numpy as np


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
    highest = float(
        (w.abs().sum(1) * x.norm(dim=0))[others].max() / x[:, one].norm()
    )  # in sums of |w| of `one`
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
    (
        "paired_interval",
        lambda a, b: tuple(np.add(interval(a, b), (a - b).std() / 5)),
        "the interval is shifted",
    ),
    ("paired_interval", lambda a, b: interval(a, b)[::-1], "the lower end comes first"),
    ("fool_wanda", lambda x, w, i, j: w.clone(), "nothing has changed yet"),
    ("fool_wanda", lambda x, w, i, j: 100 * w, "output has changed"),
    ("fool_wanda", lambda x, w, i, j: one_twin(x, w, i, j, leads=False), "still ranks neuron"),
    ("fool_wanda", one_twin, "the other does not yet"),
    ("fool_wanda", lambda x, w, i, j: w[:3], r"shape \(8, 5\), got \(3, 5\)"),
]


def search(errors, layers, kinds, factor=2.365, prose=True, other=True, paired=True):
    def differs(layer, kind, sign):
        ours, theirs = errors(layer, kind)
        gap = sign * (ours - theirs)
        spread = gap if paired else np.concatenate([ours, theirs])
        return gap.mean() > factor * spread.std(ddof=1) / len(gap) ** 0.5

    for layer in layers:
        for kind in kinds:
            if (not prose or differs(layer, "prose", -1)) and (not other or differs(layer, kind, 1)):
                return layer, kind
    return layers[-1], kinds[0]


MISTAKES += [
    ("losing_case", lambda *given: search(*given, factor=0.0), "lower on prose, but the interval holds 0"),
    ("losing_case", lambda *given: search(*given, prose=False), "layer 0"),
    ("losing_case", lambda *given: (1, "code"), "loses on prose too"),
    (
        "losing_case",
        lambda e, layers, kinds: search(e, [2, 3], kinds, factor=0.0),
        "higher on code, but the interval",
    ),
    (
        "losing_case",
        lambda e, layers, kinds: search(e, layers, kinds[::-1], other=False),
        "does not lose in layer 2",
    ),
    ("losing_case", lambda *given: search(*given, paired=False), "does not lose in layer 3"),
    ("losing_case", lambda *given: 3, r"\(layer, kind\)"),
]
