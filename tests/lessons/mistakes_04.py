"""Wrong answers to the exercises of lesson 4, and what their checks say to each."""

from __future__ import annotations

import torch
from lessons import checks_module

checks_04 = checks_module("04")


def mask(gram, kept, ridge, target=None, penalty=None, anchor=1.0):
    """The right mask, unless an argument makes it wrong.

    Args:
        target: right side of the equations (k,); by default the sums over all neurons.
        penalty: of each factor (k,); by default `ridge` times its own energy.
        anchor: the factor to which the penalty draws.
    """
    if penalty is None:
        penalty = ridge * gram.diagonal()[kept]
    if target is None:
        target = gram[kept].sum(1)
    return torch.linalg.solve(gram[kept][:, kept] + torch.diag(penalty), target + anchor * penalty)


def sums_over_removed(gram, kept):
    removed = [i for i in range(len(gram)) if i not in kept.tolist()]
    return gram[kept][:, removed].sum(1)


def sums_over_kept(gram, kept):
    return gram[kept][:, kept].sum(1)


def mean_penalty(gram, kept, ridge):
    """The same penalty for every factor: `ridge` times the mean energy."""
    return (ridge * gram.diagonal().mean()).expand(len(kept))


def mean_penalty_to_zero(gram, kept, ridge):
    return mask(gram, kept, ridge, penalty=mean_penalty(gram, kept, ridge), anchor=0.0)


# (function that the learner writes, a wrong answer, pattern that the check's sentence matches)
MISTAKES = [
    (
        "mask_from_gram",
        lambda g, k, lam: mask(g, k, lam, target=sums_over_kept(g, k)),
        "imitates the neurons that stay",
    ),
    ("mask_from_gram", lambda g, k, lam: mask(g, k, lam, target=sums_over_removed(g, k)), "only what went"),
    ("mask_from_gram", lambda g, k, lam: mask(g, k, 0.0), "lambda does nothing"),
    ("mask_from_gram", lambda g, k, lam: mask(g, k, lam, anchor=0.0), "draws the factors to 0"),
    (
        "mask_from_gram",
        lambda g, k, lam: mask(g, k, lam, penalty=mean_penalty(g, k, lam)),
        r"its \*own\* G_ii",
    ),
    ("mask_from_gram", mean_penalty_to_zero, r"its \*own\* G_ii"),
    ("two_to_remove", lambda g: g.diagonal().argsort()[:2], "least energy"),
    ("two_to_remove", lambda g: g.diagonal().argsort()[[-1, -3]], "not the third"),
    ("two_to_remove", lambda g: g.diagonal().argsort()[-4:-2], "the mask stays calm"),
]

# Name in checks_04 -> what stands there during the test: a small layer in the place of the real one.
REPLACEMENTS = {"real_layer": lambda: checks_04.loud_layer(1)}
