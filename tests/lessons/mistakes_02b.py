"""Wrong answers to the exercises of lesson 2b, and what their checks say to each."""

from __future__ import annotations

import torch


def norms(c):
    return c.diagonal().sqrt()


def energy(c, w):
    return c.diagonal() * w.square().sum(1)


def what_moves(score, c, w, weights_too=True, orthogonal=True, orders=True, units_power=2):
    """The right answer, unless an argument makes it wrong.

    Args:
        weights_too: whether the weights shrink where the inputs grow.
        orthogonal: whether the outputs are turned, or mixed by any matrix.
        orders: whether orders are compared, or values.
        units_power: how often a factor stands in a diagonal entry of C.
    """
    generator = torch.Generator().manual_seed(3)
    units = torch.randn(len(w), generator=generator, dtype=w.dtype).exp()
    turn = torch.randn(w.shape[1], w.shape[1], generator=generator, dtype=w.dtype)
    if orthogonal:
        turn = torch.linalg.qr(turn).Q
    in_units = c * units[:, None] * units if units_power == 2 else c * units[:, None]
    moved = []
    for changed in ((in_units, w / units[:, None] if weights_too else w), (c, w @ turn)):
        before, after = score(c, w), score(*changed)
        if orders:
            moved.append(not torch.equal(before.argsort(), after.argsort()))
        else:
            moved.append(not torch.allclose(before, after))
    return tuple(moved)


# (function that the learner writes, a wrong answer, pattern that the check's sentence matches)
MISTAKES = [
    ("fooling_units", lambda c, w: norms(c)[:3], r"shape \(9,\), got \(3,\)"),
    ("fooling_units", lambda c, w: 1 / norms(c), "all activations are equal"),
    ("fooling_units", lambda c, w: energy(c, w) / norms(c), "agrees with energy"),
    ("fooling_units", lambda c, w: 1 / norms(c) ** 2, "own order is turned round"),
    ("fooling_units", lambda c, w: torch.linspace(1, 1e6, len(w)), "of most energy"),
    ("what_moves", lambda s, c, w: what_moves(s, c, w, weights_too=False), "its weights shrink"),
    ("what_moves", lambda s, c, w: what_moves(s, c, w, units_power=1), "two inputs in each entry"),
    ("what_moves", lambda s, c, w: what_moves(s, c, w, orthogonal=False), "keeps all lengths"),
    ("what_moves", lambda s, c, w: what_moves(s, c, w, orders=False), "compare orders, not values"),
    ("what_moves", lambda s, c, w: what_moves(s, c, w)[::-1], "are swapped"),
    ("what_moves", lambda s, c, w: (False, False), "each score gets the same answer"),
    ("what_moves", lambda s, c, w: (what_moves(s, c, w)[0], False), "Wanda-sp removes other neurons"),
    ("what_moves", lambda s, c, w: torch.ones(2), "expected two answers"),
    ("what_moves", lambda s, c, w: (0, 1), "expected True or False twice"),
]
