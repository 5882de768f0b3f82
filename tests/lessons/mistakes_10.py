"""Wrong answers to the exercises of lesson 10, and words of the sentence that tells each."""

from __future__ import annotations

import torch
from lessons import LESSONS

CHECKS = LESSONS["10"].checks


def soft(logits, temperature=1.0):
    return (logits / temperature).softmax(-1)


def parts(change, rank, power=1.0, last=False):
    u, s, v = torch.linalg.svd(change, full_matrices=False)
    which = slice(len(s) - rank, None) if last else slice(rank)
    return u[:, which] * s[which] ** power, v[which]


MISTAKES = [
    ("softened_gradient", lambda t, z, T: (soft(t, T) - soft(z, T)) / T, "sign is turned"),
    ("softened_gradient", lambda t, z, T: soft(z) - soft(t), "the temperature does nothing"),
    ("softened_gradient", lambda t, z, T: soft(z, T) - soft(t), "teacher is not softened"),
    ("softened_gradient", lambda t, z, T: (z - t) / T, "difference of logits"),
    ("softened_gradient", lambda t, z, T: soft(z, T) - soft(t, T), "chain rule: "),
    ("softened_gradient", lambda t, z, T: (soft(z, T) - soft(t, T)) * T, "1 / tau, not tau"),
    ("softened_gradient", lambda t, z, T: (soft(z, T) - soft(t, T)) / T / len(z), "gradient of the .sum."),
    ("softened_gradient", lambda t, z, T: (soft(z, T) - soft(t, T)) / 7, "not the gradient"),
    ("best_of_rank", lambda d, r: parts(d, r, power=0.0), "singular values are missing"),
    ("best_of_rank", lambda d, r: parts(d, r, power=2.0), "once is enough"),
    ("best_of_rank", lambda d, r: parts(d, r, last=True), "smallest. directions"),
    ("best_of_rank", lambda d, r: (d[:, :r], torch.eye(9, dtype=d.dtype)[:r]), "is left out"),
]
