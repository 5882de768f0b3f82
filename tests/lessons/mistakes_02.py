"""Wrong answers to the exercises of lesson 2, and words of the sentence that tells each."""

from __future__ import annotations

import torch
from lessons import LESSONS

CHECKS = LESSONS["02"].checks
inv = torch.linalg.inv


def contributions(*columns):
    """A layer of one output whose contributions are these columns."""
    return torch.tensor(columns).T, torch.ones(len(columns), 1)


def one_look(c, w, k):
    return (w.square().sum(1) / inv(c).diagonal()).argsort()[:k].tolist()


def solved(c, w, kept, right):
    """New rows for the kept neurons, by some other right side."""
    v = torch.zeros_like(w)
    v[kept] = torch.linalg.solve(c[kept][:, kept], right)
    return v


QUIET, LOUD, NEAR = [1.0, 0.0, 0.0, 0.0], [0.0, 30.0, 0.0, 0.0], [0.0, 30.0, 3.0, 0.0]
MISTAKES = [
    ("gram", lambda c, w: c.clone(), "the weights are missing"),
    ("gram", lambda c, w: w @ w.T, "the inputs are missing"),
    ("gram", lambda c, w: c @ (w @ w.T), "element by element"),
    ("gram", lambda c, w: c * (w @ w.T).abs(), "not the inner products"),
    ("gram", lambda c, w: w.T @ c @ w, r"expected G of shape \(5, 5\), got \(4, 4\)"),
    ("prices", lambda g: g.diagonal().clone(), "this is the energy"),
    ("prices", lambda g: g.diagonal() * inv(g).diagonal(), "condition squared"),
    ("prices", lambda g: (g.diagonal() / inv(g).diagonal()).sqrt(), "square the condition"),
    ("prices", lambda g: 1 / g.diagonal(), "invert the matrix first"),
    ("prices", lambda g: inv(g).diagonal().clone(), "by brute force"),
    ("refit", lambda c, w, kept: torch.zeros_like(w).index_copy(0, kept, w[kept]), "nothing is refitted"),
    ("refit", lambda c, w, kept: solved(c, w, kept, 2 * c[kept] @ w), "the least is"),
    ("refit", lambda c, w, kept: solved(c, w, kept, c[kept] @ w) + 1, "is zero"),
    ("fooled_layer", lambda: contributions(QUIET, LOUD, LOUD), "a copy"),
    ("fooled_layer", lambda: contributions(QUIET, LOUD, NEAR), "energy is not fooled: it picks neuron 0"),
    (
        "fooled_layer",
        lambda: contributions(QUIET, [0.0, 1.5, 0.0, 0.0], [0.0, 1.5, 0.7, 0.0]),
        "condition is not fooled: it picks neuron 1",
    ),
    ("who_goes", one_look, "one look"),
    ("who_goes", lambda c, w, k: (c.diagonal() * w.square().sum(1)).argsort()[:k].tolist(), "order of energy"),
    ("who_goes", lambda c, w, k: (-c.diagonal()).argsort()[:k].tolist(), "removing one at a time leaves"),
]
