"""Wrong answers to the exercises of lesson 2, and words of the sentence that tells each."""

from __future__ import annotations

import sys
from itertools import combinations

import torch
from lessons import LESSONS, functions

CHECKS = LESSONS["02"].checks
checks_02 = sys.modules[CHECKS["fooled_layer"].__module__]
SOLUTIONS = functions(LESSONS["02"].solutions)
inv = torch.linalg.inv


def contributions(*columns):
    """A layer of one output whose contributions are these columns."""
    return torch.tensor(columns).T, torch.ones(len(columns), 1)


def best_pair(score):
    """The pair of most score(cost of a block, pair, P, W)."""

    def pick(p, w):
        def cost(block):
            rows = w[list(block)]
            return float((rows * torch.linalg.solve(p[list(block)][:, list(block)], rows)).sum())

        return max(combinations(range(len(w)), 2), key=lambda pair: score(cost, pair, p, w))

    return pick


def surprise(cost, pair):
    return cost(pair) - cost(pair[:1]) - cost(pair[1:])


def one_look(c, w, k):
    return (w.square().sum(1) / inv(c).diagonal()).argsort()[:k].tolist()


def by(score):
    """The layer of least score(C, W, energies, costs, neurons that go)."""

    def pick(problems):
        values = []
        for c, w in problems:
            costs = w.square().sum(1) / inv(c + 0.1 * torch.diag(c.diagonal())).diagonal()
            values.append(float(score(c, w, c.diagonal() * w.square().sum(1), costs, len(c) // 5)))
        return values.index(min(values))

    return pick


def output(c, w):
    return (w * (c @ w)).sum()


QUIET, LOUD, NEAR = [1.0, 0.0, 0.0, 0.0], [0.0, 30.0, 0.0, 0.0], [0.0, 30.0, 3.0, 0.0]
MISTAKES = [
    ("fooled_layer", lambda: contributions(QUIET, LOUD, LOUD), "a copy"),
    ("fooled_layer", lambda: contributions(QUIET, LOUD, NEAR), "energy is not fooled: it picks neuron 0"),
    (
        "fooled_layer",
        lambda: contributions(QUIET, [0.0, 1.5, 0.0, 0.0], [0.0, 1.5, 0.7, 0.0]),
        "condition is not fooled: it picks neuron 1",
    ),
    ("surprising_pair", best_pair(lambda cost, pair, p, w: cost(pair)), "costs most together"),
    (
        "surprising_pair",
        best_pair(lambda cost, pair, p, w: cost(pair) / (cost(pair[:1]) + cost(pair[1:]))),
        "largest quotient",
    ),
    ("surprising_pair", best_pair(lambda cost, pair, p, w: cost(pair[:1]) + cost(pair[1:])), "off the diagonal"),
    ("who_goes", one_look, "one look"),
    ("who_goes", lambda c, w, k: (c.diagonal() * w.square().sum(1)).argsort()[:k].tolist(), "order of energy"),
    ("who_goes", lambda c, w, k: (-c.diagonal()).argsort()[:k].tolist(), "removing one at a time leaves"),
    ("layer_to_thin", by(lambda c, w, e, s, k: s.sort().values[:k].sum()), "absolute numbers"),
    ("layer_to_thin", by(lambda c, w, e, s, k: e.sort().values[:k].sum() / output(c, w)), "nobody is re-tuned"),
    ("layer_to_thin", by(lambda c, w, e, s, k: -(e / s).median()), "median condition"),
]
