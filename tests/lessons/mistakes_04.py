"""Wrong answers to the exercises of lesson 4, and what their checks say to each."""

from __future__ import annotations

import torch
from lessons import checks_module

checks_04 = checks_module("04")


def gram(x, w, weights):
    return (x.T @ (weights[:, None] * x)) * (w @ w.T)


def weighted_mask(x, w, kept, weights, power=1.0, target_weights=None, target_columns=None):
    """The right mask, unless an argument makes it wrong.

    Args:
        power: of the weights in G.
        target_weights: the weights in the right side; by default those of G.
        target_columns: the columns of G in the sums of the right side; by default all.
    """
    weights = weights**power
    g = gram(x, w, weights)
    g_target = g if target_weights is None else gram(x, w, target_weights)
    columns = range(len(g)) if target_columns is None else target_columns
    return torch.linalg.solve(g[kept][:, kept], g_target[kept][:, list(columns)].sum(1))


def removed(x, kept):
    return [i for i in range(x.shape[1]) if i not in kept.tolist()]


# (function that the learner writes, a wrong answer, pattern that the check's sentence matches)
MISTAKES = [
    ("weighted_mask", lambda x, w, k, u: weighted_mask(x, w, k, u, power=0.0), "do nothing yet"),
    ("weighted_mask", lambda x, w, k, u: weighted_mask(x, w, k, u, power=2.0), "are squared"),
    ("weighted_mask", lambda x, w, k, u: weighted_mask(x, w, k, u, power=0.5), "each weight stands once"),
    (
        "weighted_mask",
        lambda x, w, k, u: weighted_mask(x, w, k, u, target_weights=torch.ones_like(u)),
        "no weights yet",
    ),
    (
        "weighted_mask",
        lambda x, w, k, u: weighted_mask(x, w, k, u, target_columns=k.tolist()),
        "imitate themselves",
    ),
    (
        "weighted_mask",
        lambda x, w, k, u: weighted_mask(x, w, k, u, target_columns=removed(x, k)),
        "only what went",
    ),
    ("weighted_mask", lambda x, w, k, u: 2 * weighted_mask(x, w, k, u), "the least is"),
    ("weighted_mask", lambda x, w, k, u: torch.ones(7), r"shape \(4,\), got \(7,\)"),
    ("two_to_remove", lambda g: g.diagonal().argsort()[:2], "least energy"),
    ("two_to_remove", lambda g: g.diagonal().argsort()[[-1, -3]], "not the third"),
    ("two_to_remove", lambda g: g.diagonal().argsort()[-4:-2], "the mask stays calm"),
    ("choose_ridge", lambda error, ridges: min(ridges, key=lambda r: error(r)[0]), "always the smallest"),
    (
        "choose_ridge",
        lambda error, ridges: sorted(ridges, key=lambda r: error(r)[1])[1],
        "on the held-out tokens",
    ),
    ("choose_ridge", lambda error, ridges: 0.5, "expected one of the ridges"),
]

# Name in checks_04 -> what stands there during the test: a small layer in the place of the real one.
REPLACEMENTS = {"real_layer": lambda: checks_04.loud_layer(1)}
