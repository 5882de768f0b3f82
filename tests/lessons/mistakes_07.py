"""Wrong answers to the exercises of lesson 7, and what their checks say to each."""

from __future__ import annotations

import numpy as np


def interval(ours, theirs, level=0.95, paired=True, means=True, sign=1):
    """The right bootstrap interval, unless an argument makes it wrong."""
    random = np.random.default_rng(1)
    count = len(ours)
    our_windows = random.integers(count, size=(4000, count))
    their_windows = our_windows if paired else random.integers(count, size=(4000, count))
    differences = sign * (ours[our_windows] - theirs[their_windows])
    if means:
        differences = differences.mean(1)
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    return low, high


def shifted_interval(ours, theirs):
    return tuple(np.add(interval(ours, theirs), (ours - theirs).std() / 5))


def one_twin(x, w, first, second, leads=True):
    """Lets the first twin send what both sent, and a share more that the second takes away again.

    The output stays the same. With `leads` the first twin gets a higher score than all other neurons, and the
    second none to speak of; without, the first falls short of the highest score.
    """
    both = w[first] + w[second] / 2
    rest = [i for i in range(len(w)) if i not in (first, second)]
    scores = w.abs().sum(1) * x.norm(dim=0)
    highest = float(scores[rest].max() / x[:, first].norm())  # as a sum of |w| of the first twin
    factor = 0.5 if leads else 1.5
    share = (highest - float(both.abs().sum()) * factor) / len(both)
    w = w.clone()
    w[first] = both + share * both.sign()
    w[second] = -2 * share * both.sign()
    return w


# (function that the learner writes, a wrong answer, pattern that the check's sentence matches)
MISTAKES = [
    ("paired_interval", lambda a, b: interval(a, b, paired=False), "read different texts"),
    ("paired_interval", lambda a, b: interval(a, b, means=False), r"\*mean\* of windows"),
    ("paired_interval", lambda a, b: interval(a, b, level=0.9), "90% interval"),
    ("paired_interval", lambda a, b: interval(a, b, level=0.5), "times as wide as it should be"),
    ("paired_interval", lambda a, b: interval(a, b, sign=-1), "the sign is turned"),
    ("paired_interval", shifted_interval, "the interval is shifted"),
    ("paired_interval", lambda a, b: interval(a, b)[::-1], "the lower end comes first"),
    ("fool_wanda", lambda x, w, i, j: w.clone(), "nothing has changed yet"),
    ("fool_wanda", lambda x, w, i, j: 100 * w, "output has changed"),
    ("fool_wanda", lambda x, w, i, j: one_twin(x, w, i, j, leads=False), "still ranks neuron"),
    ("fool_wanda", one_twin, "the other does not yet"),
    ("fool_wanda", lambda x, w, i, j: w[:3], r"shape \(8, 5\), got \(3, 5\)"),
]


def search(errors, layers, kinds, factor=2.365, wins_on_prose=True, loses_on_kind=True, paired=True):
    """The right search for a losing case, unless an argument makes it wrong.

    A difference is found where its mean is larger than `factor` standard errors. Without `wins_on_prose` or
    `loses_on_kind` that half of the condition is not looked at; without `paired` the standard error is that
    of the errors, not of their differences.
    """

    def is_larger(layer, kind, sign):
        """Whether our error is larger than theirs (sign 1) or smaller (sign -1)."""
        ours, theirs = errors(layer, kind)
        differences = sign * (ours - theirs)
        spread = differences if paired else np.concatenate([ours, theirs])
        return differences.mean() > factor * spread.std(ddof=1) / len(differences) ** 0.5

    for layer in layers:
        for kind in kinds:
            if wins_on_prose and not is_larger(layer, "prose", -1):
                continue
            if loses_on_kind and not is_larger(layer, kind, 1):
                continue
            return layer, kind
    return layers[-1], kinds[0]


def without_significance(errors, layers, kinds):
    return search(errors, layers, kinds, factor=0.0)


def without_significance_from_layer_2(errors, layers, kinds):
    return search(errors, [2, 3], kinds, factor=0.0)


def looking_at_prose_only(errors, layers, kinds):
    return search(errors, layers, kinds[::-1], loses_on_kind=False)


def looking_at_kind_only(errors, layers, kinds):
    return search(errors, layers, kinds, wins_on_prose=False)


def unpaired(errors, layers, kinds):
    return search(errors, layers, kinds, paired=False)


MISTAKES += [
    ("losing_case", without_significance, "lower on prose, but the interval holds 0"),
    ("losing_case", looking_at_kind_only, "layer 0"),
    ("losing_case", lambda errors, layers, kinds: (1, "code"), "loses on prose too"),
    ("losing_case", without_significance_from_layer_2, "higher on code, but the interval"),
    ("losing_case", looking_at_prose_only, "does not lose in layer 2"),
    ("losing_case", unpaired, "does not lose in layer 3"),
    ("losing_case", lambda errors, layers, kinds: 3, r"\(layer, kind\)"),
]
