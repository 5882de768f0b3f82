"""The checks of lesson 4's exercises: they refuse plausible mistakes by name."""

from __future__ import annotations

import pytest
import torch
from lessons import LESSON_04, Wrong

CHECKS = LESSON_04.checks
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


def guard(solve_for, ridge, bound, factor=4.0, unbiased=False, first=False):
    found = solve_for(ridge)
    while first or found.var(unbiased=unbiased) > bound:
        ridge, first = ridge * factor, False
        found = solve_for(ridge)
    return found, ridge


def stale(solve_for, ridge, bound):
    found = solve_for(ridge)
    while solve_for(ridge).var(unbiased=False) > bound:
        ridge *= 4.0
    return found, ridge


def endless(solve_for, ridge, bound):
    while solve_for(ridge).var() > bound:
        pass


def in_place(weight, kept, mask):
    weight[:, kept] *= mask
    return weight[:, kept]


def least_squares(c, b, w, k, lam, right=None, anchor=1.0, even=None):
    pull = torch.diag(lam * c.diagonal()[k] if even is None else torch.full((len(k),), float(even)).to(c))
    return solve(c[k][:, k] + pull, (b[k] if right is None else right) + anchor * pull @ w[k])


MISTAKES = [
    ("mask_from_gram", lambda g, k, lam: mask(g, k, lam, right=g[k][:, k].sum(1)), "imitates the neurons that stay"),
    ("mask_from_gram", lambda g, k, lam: mask(g, k, lam, right=gone(g, k)), "only what went"),
    ("mask_from_gram", lambda g, k, lam: mask(g, k, 0.0), "lambda does nothing"),
    ("mask_from_gram", lambda g, k, lam: mask(g, k, lam, anchor=0.0), "draws the factors to 0"),
    ("mask_from_gram", lambda g, k, lam: mask(g, k, lam, penalty=mean(g, k, lam)), r"its \*own\* G_ii"),
    ("mask_from_gram", lambda g, k, lam: mask(g, k, lam, penalty=mean(g, k, lam), anchor=0.0), r"its \*own\* G_ii"),
    ("mask_from_gram", lambda g, k, lam: 2 * mask(g, k, lam), "set the derivative"),
    ("mask_from_gram", lambda g, k, lam: torch.ones(len(g)), r"shape \(4,\), got \(7,\)"),
    ("mask_from_gram", lambda g, k, lam: mask(g, k, lam).tolist(), "as a tensor, got list"),
    ("guarded_mask", lambda s, lam, bound: s(lam), "two values"),
    ("guarded_mask", lambda s, lam, bound: (s(lam), lam), "let a variance of"),
    ("guarded_mask", lambda s, lam, bound: guard(s, lam, bound, unbiased=True), "unbiased=False"),
    ("guarded_mask", lambda s, lam, bound: guard(s, lam, bound, factor=2.0), "four times as large"),
    ("guarded_mask", lambda s, lam, bound: guard(s, lam, bound, first=lam == 1.0), "look before you raise"),
    ("guarded_mask", stale, "does not belong to the lambda"),
    ("guarded_mask", endless, "the loop goes on"),
    ("fold", lambda w, k, m: w * torch.zeros(6, dtype=w.dtype).index_put((k,), m), r"got \(6, 6\): nothing shrinks"),
    ("fold", lambda w, k, m: w[k] * m[:, None], "neurons are columns"),
    ("fold", lambda w, k, m: w[:, k], "not in them yet"),
    ("fold", lambda w, k, m: w[:, k] / m, "divided by the mask"),
    ("fold", lambda w, k, m: w[:, k] * m.flip(0), "its own factor"),
    ("fold", in_place, "own weight was changed"),
    ("fit", lambda c, b, w, k, lam: least_squares(c, b, w, k, lam, anchor=0.0), "hold them at W"),
    ("fit", lambda c, b, w, k, lam: least_squares(c, b, w, k, 0.0), "no ridge yet"),
    ("fit", lambda c, b, w, k, lam: least_squares(c, b, w, k, lam, even=lam), r"own\* C_ii"),
    ("fit", lambda c, b, w, k, lam: least_squares(c, b, w, k, lam, even=lam * c.diagonal().mean()), r"own\* C_ii"),
    ("fit", lambda c, b, w, k, lam: least_squares(c, c @ w, w, k, lam), "use `target`"),
    ("fit", lambda c, b, w, k, lam: least_squares(c, b, w, k, lam, right=c[k][:, k] @ w[k]), "so nothing changes"),
    ("fit", lambda c, b, w, k, lam: -least_squares(c, b, w, k, lam), "not what least squares"),
    ("fit", lambda c, b, w, k, lam: w, r"shape \(4, 3\), got \(7, 3\)"),
]


@pytest.mark.parametrize("name, mistake, words", MISTAKES)
def test_a_check_names_the_mistake(name, mistake, words):
    with pytest.raises(Wrong, match=words):
        CHECKS[name](mistake)
