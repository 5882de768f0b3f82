"""Wrong answers to the exercises of lesson 7, and what their checks say to each."""

from __future__ import annotations

import numpy as np
from scipy import stats


def chance(ours, theirs, size, windows, paired=True, shift=None, of_mean=True, factor=None, trials=6000):
    """The right chance, unless an argument makes it wrong.

    Args:
        paired: whether both losses of a trial come from the same windows.
        shift: what is added to the differences; by default what makes `size` of their mean.
        of_mean: whether the interval is that of the mean.
        factor: standard errors on each side; by default Student's t.
    """
    random = np.random.default_rng(1)
    window_draws = random.integers(len(ours), size=(2, trials, windows))
    gap = ours[window_draws[0]] - theirs[window_draws[0 if paired else 1]]
    gap = gap + (size - (ours - theirs).mean() if shift is None else shift)
    spread = gap.std(1, ddof=1) / (windows**0.5 if of_mean else 1)
    factor = factor or stats.t.ppf(0.975, windows - 1)
    return float((abs(gap.mean(1)) > factor * spread).mean())


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
    ("chance_to_show", lambda *given: 1 - chance(*given), "the other way round"),
    ("chance_to_show", lambda *given: chance(*given, paired=False), "the pairs are broken"),
    ("chance_to_show", lambda *given: chance(*given, shift=0.0), "that was measured"),
    ("chance_to_show", lambda a, b, size, n: chance(a, b, size, n, shift=size), "on top of the measured"),
    ("chance_to_show", lambda *given: chance(*given, of_mean=False), "where single windows lie"),
    ("chance_to_show", lambda a, b, size, n: chance(a, b, size, len(a)), "as many as are asked for"),
    ("chance_to_show", lambda *given: chance(*given, factor=1.96), "1.96 is for many windows"),
    ("chance_to_show", lambda *given: 2000 * chance(*given), "divide by their number"),
    ("chance_to_show", lambda *given: 0.25, "of the trials, got 25%"),
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
