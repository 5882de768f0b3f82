"""The checks of lesson 10's exercises: they refuse plausible mistakes by name."""

from __future__ import annotations

import torch
from lessons import LESSONS, names_the_mistake

CHECKS = LESSONS["10"].checks


def soft(logits, temperature=1.0):
    return (logits / temperature).softmax(-1)


def parts(change, rank, power=1.0, last=False):
    u, s, v = torch.linalg.svd(change, full_matrices=False)
    which = slice(len(s) - rank, None) if last else slice(rank)
    return u[:, which] * s[which] ** power, v[which]


def in_place(w, a, b, alpha):
    w += alpha / len(a) * b @ a
    return w


MISTAKES = [
    ("softened_gradient", lambda t, z, T: (soft(t, T) - soft(z, T)) / T, "sign is turned"),
    ("softened_gradient", lambda t, z, T: soft(z) - soft(t), "the temperature does nothing"),
    ("softened_gradient", lambda t, z, T: soft(z, T) - soft(t), "teacher is not softened"),
    ("softened_gradient", lambda t, z, T: (z - t) / T, "difference of logits"),
    ("softened_gradient", lambda t, z, T: soft(z, T) - soft(t, T), "chain rule: "),
    ("softened_gradient", lambda t, z, T: (soft(z, T) - soft(t, T)) * T, "1 / T, not T"),
    ("softened_gradient", lambda t, z, T: (soft(z, T) - soft(t, T)) / T / len(z), "gradient of the .sum."),
    ("softened_gradient", lambda t, z, T: (soft(z, T) - soft(t, T)) / 7, r"not \(q - p\) / T"),
    ("softened_gradient", lambda t, z, T: z[0], r"of shape \(5, 12\)"),
    ("merged", in_place, "what was given is changed"),
    ("merged", lambda w, a, b, alpha: w.clone(), "nothing is added"),
    ("merged", lambda w, a, b, alpha: w + b @ a, "scale is missing"),
    ("merged", lambda w, a, b, alpha: w + alpha * b @ a, "alpha is divided by r"),
    ("merged", lambda w, a, b, alpha: w + alpha / a.shape[1] * b @ a, "divided by the inputs"),
    ("merged", lambda w, a, b, alpha: alpha / len(a) * b @ a, "only the change"),
    ("merged", lambda w, a, b, alpha: w - alpha / len(a) * b @ a, "added, not taken off"),
    ("merged", lambda w, a, b, alpha: w + 0.5 * b @ a, "another matrix"),
    ("best_of_rank", lambda d, r: parts(d, r, power=0.0), "singular values are missing"),
    ("best_of_rank", lambda d, r: parts(d, r, power=2.0), "once is enough"),
    ("best_of_rank", lambda d, r: parts(d, r, last=True), "smallest. directions"),
    ("best_of_rank", lambda d, r: (d[:, :r], torch.eye(9, dtype=d.dtype)[:r]), "is left out"),
    ("best_of_rank", lambda d, r: parts(d, r)[0], "two matrices"),
    ("best_of_rank", lambda d, r: parts(d, r)[::-1], "of shape"),
]


def test_autograd_finds_the_gradient_too(capsys):
    def by_autograd(t, z, T):
        p, q = (logits.div(T).log_softmax(-1) for logits in (t, z))
        return torch.autograd.grad((p.exp() * (p - q)).sum(), z)[0]

    CHECKS["softened_gradient"](by_autograd)
    assert "Right: (q - p) / T" in capsys.readouterr().out


test_a_check_names_the_mistake = names_the_mistake(CHECKS, MISTAKES)
