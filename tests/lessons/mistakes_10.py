"""Wrong answers to the exercises of lesson 10, and what their checks say to each."""

from __future__ import annotations

import torch


def soft(logits, temperature=1.0):
    return (logits / temperature).softmax(-1)


def factors(change, rank, power=1.0, smallest=False):
    """The right two factors, unless the singular values get another power or the smallest are taken."""
    u, s, v = torch.linalg.svd(change, full_matrices=False)
    chosen = slice(len(s) - rank, None) if smallest else slice(rank)
    return u[:, chosen] * s[chosen] ** power, v[chosen]


# (function that the learner writes, a wrong answer, pattern that the check's sentence matches)
# `t` and `z` are the logits of the teacher and of the student, `T` is the temperature.
MISTAKES = [
    ("softened_gradient", lambda t, z, T: (soft(t, T) - soft(z, T)) / T, "sign is turned"),
    ("softened_gradient", lambda t, z, T: soft(z) - soft(t), "the temperature does nothing"),
    ("softened_gradient", lambda t, z, T: soft(z, T) - soft(t), "teacher is not softened"),
    ("softened_gradient", lambda t, z, T: (z - t) / T, "difference of logits"),
    ("softened_gradient", lambda t, z, T: soft(z, T) - soft(t, T), "chain rule: "),
    ("softened_gradient", lambda t, z, T: (soft(z, T) - soft(t, T)) * T, "1 / tau, not tau"),
    ("softened_gradient", lambda t, z, T: (soft(z, T) - soft(t, T)) / T / len(z), "gradient of the .sum."),
    ("softened_gradient", lambda t, z, T: (soft(z, T) - soft(t, T)) / 7, "not the gradient"),
    ("best_of_rank", lambda d, r: factors(d, r, power=0.0), "singular values are missing"),
    ("best_of_rank", lambda d, r: factors(d, r, power=2.0), "once is enough"),
    ("best_of_rank", lambda d, r: factors(d, r, smallest=True), "smallest. directions"),
    ("best_of_rank", lambda d, r: (d[:, :r], torch.eye(9, dtype=d.dtype)[:r]), "is left out"),
]
