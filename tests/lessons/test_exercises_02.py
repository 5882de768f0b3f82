"""The checks of lesson 2's exercises: they refuse plausible mistakes by name."""

from __future__ import annotations

import pytest
import torch
from lessons import LESSON_02, Wrong

CHECKS = LESSON_02.checks
inv = torch.linalg.inv


def no_downdate(p, v, i):
    keep = torch.arange(len(p)) != i
    return p[keep][:, keep], v[keep] - torch.outer(p[keep, i], v[i]) / p[i, i], v[i].square().sum() / p[i, i]


def downdate(p, v, i, sign=-1.0):
    keep = torch.arange(len(p)) != i
    return p[keep][:, keep] + sign * torch.outer(p[keep, i], p[keep, i]) / p[i, i], keep


def sign_of_v(p, v, i):
    left, keep = downdate(p, v, i)
    return left, v[keep] + torch.outer(p[keep, i], v[i]) / p[i, i], v[i].square().sum() / p[i, i]


def not_retuned(p, v, i):
    left, keep = downdate(p, v, i)
    return left, v[keep], v[i].square().sum() / p[i, i]


def wrong_error(p, v, i):
    left, keep = downdate(p, v, i)
    return left, v[keep] - torch.outer(p[keep, i], v[i]) / p[i, i], v[i].square().sum()


def per_block(matrix, w, b, between):
    return torch.stack(
        [(w[s : s + b] * (between(matrix[s : s + b, s : s + b]) @ w[s : s + b])).sum() for s in range(0, len(w), b)]
    )


MISTAKES = [
    ("gram_of_contributions", lambda c, w: c @ (w @ w.T), "element by element"),
    ("gram_of_contributions", lambda c, w: c, "C alone"),
    ("gram_of_contributions", lambda c, w: w @ w.T, "not looked at any data"),
    ("gram_of_contributions", lambda c, w: w.T @ w, r"shape \(7, 7\), got \(4, 4\)"),
    ("gram_of_contributions", lambda c, w: c * (w @ w.T).abs(), "diagonal .* is right"),
    ("gram_of_contributions", lambda c, w: 2 * c * (w @ w.T), "one inner product"),
    ("gram_of_contributions", lambda c, w: (c * (w @ w.T)).tolist(), "as a tensor, got list"),
    ("condition_and_cost", lambda g: g.diagonal() * inv(g).diagonal(), "two tensors"),
    ("condition_and_cost", lambda g: (g.diagonal() * inv(g).diagonal(), 1 / inv(g).diagonal()), "square root"),
    ("condition_and_cost", lambda g: ((g.diagonal() / g.diagonal()).sqrt(), g.diagonal()), "invert the whole matrix"),
    ("condition_and_cost", lambda g: (inv(g).diagonal().sqrt(), 1 / inv(g).diagonal()), "orthogonal to all others"),
    ("condition_and_cost", lambda g: ((g.diagonal() * inv(g).diagonal()).sqrt(), g.diagonal()), "the energy"),
    ("condition_and_cost", lambda g: ((k := (g.diagonal() * inv(g).diagonal()).sqrt()), g.diagonal() / k), "one power"),
    ("condition_and_cost", lambda g: ((g.diagonal() * inv(g).diagonal()).sqrt(), inv(g).diagonal()), "best mask"),
    ("block_cost", lambda c, w, b: (w.square().sum(1) / inv(c).diagonal()).reshape(-1, b).sum(1), "single inputs"),
    ("block_cost", lambda c, w, b: per_block(c, w, b, lambda m: m), "not been re-tuned"),
    ("block_cost", lambda c, w, b: per_block(inv(c), w, b, lambda m: m), "itself stands between"),
    ("block_cost", lambda c, w, b: 2 * per_block(inv(c), w, b, inv), "lstsq leaves without it"),
    ("block_cost", lambda c, w, b: per_block(inv(c), w, 2, inv), "wrong for blocks of 1"),
    ("block_cost", lambda c, w, b: per_block(inv(c), w, 1, inv), r"shape \(3,\), got \(6,\)"),
    ("remove_one", lambda p, v, i: p, "three values"),
    ("remove_one", lambda p, v, i: (p, v, 0.0), r"P of shape \(5, 5\), got \(6, 6\)"),
    ("remove_one", no_downdate, "Schur complement too"),
    ("remove_one", lambda p, v, i: (downdate(p, v, i, 1.0)[0], v[1:], 0.0), "mind the sign"),
    ("remove_one", not_retuned, "not re-tuned yet"),
    ("remove_one", sign_of_v, "V is not what lstsq finds"),
    ("remove_one", wrong_error, "do not add up"),
]


@pytest.mark.parametrize("name, mistake, words", MISTAKES)
def test_a_check_names_the_mistake(name, mistake, words):
    with pytest.raises(Wrong, match=words):
        CHECKS[name](mistake)
