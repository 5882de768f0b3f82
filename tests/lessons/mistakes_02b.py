"""Wrong answers to the exercises of lesson 2b, and what their checks say to each."""

from __future__ import annotations

import torch


def norms(c):
    return c.diagonal().sqrt()


def energy(c, w):
    return c.diagonal() * w.square().sum(1)


# (function that the learner writes, a wrong answer, pattern that the check's sentence matches)
MISTAKES = [
    ("fooling_units", lambda c, w: norms(c)[:3], r"shape \(9,\), got \(3,\)"),
    ("fooling_units", lambda c, w: 1 / norms(c), "all activations are equal"),
    ("fooling_units", lambda c, w: energy(c, w) / norms(c), "agrees with energy"),
    ("fooling_units", lambda c, w: 1 / norms(c) ** 2, "own order is turned round"),
    ("fooling_units", lambda c, w: torch.linspace(1, 1e6, len(w)), "of most energy"),
    ("choose_ridge", lambda error, ridges: min(ridges, key=lambda r: error(r)[0]), "always the smallest"),
    (
        "choose_ridge",
        lambda error, ridges: sorted(ridges, key=lambda r: error(r)[1])[1],
        "on the held-out tokens",
    ),
]
