"""Wrong answers to the exercises of lesson 2b, and words of the sentence that tells each."""

from __future__ import annotations

import torch
from lessons import LESSONS

CHECKS = LESSONS["02b"].checks


def norms(c):
    return c.diagonal().sqrt()


def energy(c, w):
    return c.diagonal() * w.square().sum(1)


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
