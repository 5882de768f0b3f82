"""Wrong answers to the exercises of lesson 0, and words of the sentence that tells each."""

from __future__ import annotations

from statistics import mean, median

import torch
from lessons import LESSONS, functions

CHECKS = LESSONS["00"].checks
SOLVED = functions(LESSONS["00"].solutions)


def target_moved(log_p, targets):
    return log_p.flip(-1)


def only_the_right_ones(log_p, targets):
    """Changes q only where the first choice was right already."""
    right = log_p.argmax(-1) == targets
    return torch.where(right[:, None], SOLVED["same_perplexity"](log_p, targets), log_p)


MISTAKES = [
    ("same_perplexity", lambda log_p, targets: log_p.clone(), "q is p"),
    (
        "same_perplexity",
        lambda log_p, targets: SOLVED["same_perplexity"](log_p, targets).exp(),
        "no logarithms",
    ),
    ("same_perplexity", lambda log_p, targets: log_p - 0.1, "do not add up to 1"),
    ("same_perplexity", target_moved, "leave the targets alone"),
    ("same_perplexity", only_the_right_ones, "still the same"),
    ("without_neuron", lambda gate, up, down, n: (gate[:, 1:], up, down), "a neuron is a row"),
    ("without_neuron", lambda gate, up, down, n: (gate, up, down), "gate has its old shape"),
    ("without_neuron", lambda gate, up, down, n: (gate[1:], up[1:], down[:, 1:]), "gate lost another neuron"),
    (
        "speed_ratio",
        lambda dense, pruned: median(d / p for d, p in zip(dense, pruned, strict=True)),
        "above 1",
    ),
    ("speed_ratio", lambda dense, pruned: pruned[4] / dense[4], "expected the median of the five"),
    ("speed_ratio", lambda dense, pruned: mean(pruned) / mean(dense), "ratio of the means"),
    ("speed_ratio", lambda dense, pruned: median(pruned) / median(dense), "ratio of the medians"),
    (
        "speed_ratio",
        lambda dense, pruned: mean(p / d for d, p in zip(dense, pruned, strict=True)),
        "mean of the ratios",
    ),
]
