"""Wrong answers to the exercises of lesson 4, and words of the sentence that tells each."""

from __future__ import annotations

import sys

import torch
from lessons import LESSONS

CHECKS = LESSONS["04"].checks
module = sys.modules[CHECKS["two_to_remove"].__module__]
solve = torch.linalg.solve


def mask(gram, kept, ridge, right=None, penalty=None, anchor=1.0):
    """The right mask, unless something else is asked for."""
    energy = ridge * gram.diagonal()[kept] if penalty is None else penalty
    right = gram[kept].sum(1) if right is None else right
    return solve(gram[kept][:, kept] + torch.diag(energy), right + anchor * energy)


def gone(gram, kept):
    others = [i for i in range(len(gram)) if i not in kept.tolist()]
    return gram[kept][:, others].sum(1)


def mean(gram, kept, ridge):
    return (ridge * gram.diagonal().mean()).expand(len(kept))


MISTAKES = [
    (
        "mask_from_gram",
        lambda g, k, lam: mask(g, k, lam, right=g[k][:, k].sum(1)),
        "imitates the neurons that stay",
    ),
    ("mask_from_gram", lambda g, k, lam: mask(g, k, lam, right=gone(g, k)), "only what went"),
    ("mask_from_gram", lambda g, k, lam: mask(g, k, 0.0), "lambda does nothing"),
    ("mask_from_gram", lambda g, k, lam: mask(g, k, lam, anchor=0.0), "draws the factors to 0"),
    ("mask_from_gram", lambda g, k, lam: mask(g, k, lam, penalty=mean(g, k, lam)), r"its \*own\* G_ii"),
    (
        "mask_from_gram",
        lambda g, k, lam: mask(g, k, lam, penalty=mean(g, k, lam), anchor=0.0),
        r"its \*own\* G_ii",
    ),
    ("two_to_remove", lambda g: g.diagonal().argsort()[:2], "least energy"),
    ("two_to_remove", lambda g: g.diagonal().argsort()[[-1, -3]], "not the third"),
    ("two_to_remove", lambda g: g.diagonal().argsort()[-4:-2], "the mask stays calm"),
]


INSTEAD = {"real_layer": lambda: module.loud_layer(1)}  # a small layer in the place of the real one
