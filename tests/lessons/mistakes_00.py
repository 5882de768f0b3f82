"""Wrong answers to the exercises of lesson 0, and words of the sentence that tells each."""

from __future__ import annotations

from statistics import mean, median

import torch
from lessons import LESSONS, functions

CHECKS = LESSONS["00"].checks
SOLVED = functions(LESSONS["00"].solutions)


def changed_in_place(log_p, targets):
    log_p.copy_(SOLVED["same_perplexity"](log_p, targets))
    return log_p


def target_moved(log_p, targets):
    return log_p.flip(-1)


def only_the_right_ones(log_p, targets):
    """Changes q only where the first choice was right already."""
    right = log_p.argmax(-1) == targets
    return torch.where(right[:, None], SOLVED["same_perplexity"](log_p, targets), log_p)


def barely(log_p, targets):
    """The two likeliest of the tokens that did not come change places."""
    others = log_p.scatter(1, targets[:, None], -torch.inf).topk(2, dim=1).indices
    return log_p.scatter(1, others, log_p.gather(1, others.flip(1)))


def cut(rows=None, columns=None, up=None, keep=False):
    """A solution that cuts gate by `rows` (or all by the wrong side), and up by another neuron."""

    def function(gate, up_, down, neuron):
        kept = [i for i in range(len(gate)) if i != neuron]
        if keep:
            kept = [neuron]
        other = [i for i in range(len(gate)) if i != (neuron + 1) % len(gate)] if up else kept
        if columns:
            return gate[:, 1:], up_[kept], down[:, kept]
        if rows:
            return gate[kept], up_[kept], down[1:]
        return gate[kept], up_[other], down[:, kept]

    return function


def zeroed(gate, up, down, neuron):
    gate = gate.clone()
    gate[neuron] = 0
    return gate, up, down


MISTAKES = [
    ("same_perplexity", lambda log_p, targets: log_p.clone(), "q is p"),
    ("same_perplexity", changed_in_place, "work on a copy"),
    ("same_perplexity", lambda log_p, targets: SOLVED["same_perplexity"](log_p, targets).exp(), "no logarithms"),
    ("same_perplexity", lambda log_p, targets: log_p - 0.1, "do not add up to 1"),
    ("same_perplexity", target_moved, "leave the targets alone"),
    ("same_perplexity", only_the_right_ones, "still the same"),
    ("same_perplexity", barely, "expected more than 0.5"),
    ("same_perplexity", lambda log_p, targets: log_p[:, 1:], r"got \(60, 49\)"),
    ("without_neuron", zeroed, "gate has its old shape"),
    ("without_neuron", cut(columns=True), "a neuron is a row"),
    ("without_neuron", cut(rows=True), "a neuron is a column"),
    ("without_neuron", cut(keep=True), "the one to remove"),
    ("without_neuron", cut(up=True), "up lost another neuron than 2"),
    ("without_neuron", lambda gate, up, down, neuron: (gate[1:], up[1:], down[:, 1:]), "gate lost another neuron"),
    ("speed_ratio", lambda dense, pruned: median(d / p for d, p in zip(dense, pruned, strict=True)), "above 1"),
    ("speed_ratio", lambda dense, pruned: mean(pruned) / mean(dense), "ratio of the means"),
    ("speed_ratio", lambda dense, pruned: median(pruned) / median(dense), "ratio of the medians"),
    (
        "speed_ratio",
        lambda dense, pruned: mean(p / d for d, p in zip(dense, pruned, strict=True)),
        "mean of the ratios",
    ),
    ("speed_ratio", lambda dense, pruned: max(p / d for d, p in zip(dense, pruned, strict=True)), "best round"),
    ("speed_ratio", lambda dense, pruned: 1.0, "the median of the five"),
]
