"""Wrong answers to the exercises of lesson 0, and what their checks say to each."""

from __future__ import annotations

from statistics import mean, median

import torch
from lessons import LESSONS, functions

SOLVED = functions(LESSONS["00"].solutions)


def without_logarithm(log_p, targets):
    return SOLVED["same_perplexity"](log_p, targets).exp()


def moves_the_target(log_p, targets):
    """Changes the probability of the target too."""
    return log_p.flip(-1)


def changes_right_choices_only(log_p, targets):
    """Changes q only where the first choice was right already."""
    is_right = log_p.argmax(-1) == targets
    return torch.where(is_right[:, None], SOLVED["same_perplexity"](log_p, targets), log_p)


def median_of_dense_over_pruned(dense, pruned):
    return median(d / p for d, p in zip(dense, pruned, strict=True))


def mean_of_pruned_over_dense(dense, pruned):
    return mean(p / d for d, p in zip(dense, pruned, strict=True))


# (function that the learner writes, a wrong answer, pattern that the check's sentence matches)
MISTAKES = [
    ("same_perplexity", lambda log_p, targets: log_p.clone(), "q is p"),
    ("same_perplexity", without_logarithm, "no logarithms"),
    ("same_perplexity", lambda log_p, targets: log_p - 0.1, "do not add up to 1"),
    ("same_perplexity", moves_the_target, "leave the targets alone"),
    ("same_perplexity", changes_right_choices_only, "still the same"),
    ("without_neuron", lambda gate, up, down, n: (gate[:, 1:], up, down), "a neuron is a row"),
    ("without_neuron", lambda gate, up, down, n: (gate, up, down), "gate has its old shape"),
    ("without_neuron", lambda gate, up, down, n: (gate[1:], up[1:], down[:, 1:]), "gate lost another neuron"),
    ("speed_ratio", median_of_dense_over_pruned, "above 1"),
    ("speed_ratio", lambda dense, pruned: pruned[4] / dense[4], "expected the median of the five"),
    ("speed_ratio", lambda dense, pruned: mean(pruned) / mean(dense), "ratio of the means"),
    ("speed_ratio", lambda dense, pruned: median(pruned) / median(dense), "ratio of the medians"),
    ("speed_ratio", mean_of_pruned_over_dense, "mean of the ratios"),
]
