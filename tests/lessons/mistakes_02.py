"""Wrong answers to the exercises of lesson 2, and what their checks say to each."""

from __future__ import annotations

import torch

inv = torch.linalg.inv


def rounds(price):
    """Removal in rounds by another price.

    `price` takes four arguments on the kept neurons: diagonal of C (k,), W (k, d), diagonal of C^-1 (k,), and
    the refitted rows V (k, d).
    """

    def removed_in_rounds(c, w, k):
        kept = list(range(len(c)))
        for _ in range(k):
            c_kept = c[kept][:, kept]
            v = torch.linalg.solve(c_kept, c[kept] @ w)
            prices = price(c_kept.diagonal(), w[kept], inv(c_kept).diagonal(), v)
            kept.pop(int(prices.argmin()))
        return [i for i in range(len(c)) if i not in kept]

    return removed_in_rounds


def one_look(c, w, k):
    """Removes the k cheapest neurons at once, without rounds."""
    return (w.square().sum(1) / inv(c).diagonal()).argsort()[:k].tolist()


def loudest_first(c, w, k):
    return (-c.diagonal()).argsort()[:k].tolist()


def refit_to(c, w, kept, right_side):
    """New rows for the kept neurons, with another right side of the normal equations."""
    v = torch.zeros_like(w)
    v[kept] = torch.linalg.solve(c[kept][:, kept], right_side)
    return v


# (function that the learner writes, a wrong answer, pattern that the check's sentence matches)
MISTAKES = [
    ("gram", lambda c, w: c.clone(), "the weights are missing"),
    ("gram", lambda c, w: w @ w.T, "the inputs are missing"),
    ("gram", lambda c, w: c @ (w @ w.T), "element by element"),
    ("gram", lambda c, w: c * (w @ w.T).abs(), "not the inner products"),
    ("gram", lambda c, w: w.T @ c @ w, r"expected G of shape \(5, 5\), got \(4, 4\)"),
    ("condition", lambda g: g.diagonal() * inv(g).diagonal(), "take the root"),
    ("condition", lambda g: 1 / inv(g).diagonal(), "this is the price"),
    ("condition", lambda g: g.diagonal().clone(), "this is the energy"),
    ("condition", lambda g: inv(g).diagonal().clone(), "twice as loud"),
    ("condition", lambda g: (g.diagonal() * inv(g).diagonal()).rsqrt(), "upside down"),
    ("condition", lambda g: torch.ones_like(g[0]), "by brute force"),
    ("refit", lambda c, w, kept: torch.zeros_like(w).index_copy(0, kept, w[kept]), "nothing is refitted"),
    ("refit", lambda c, w, kept: refit_to(c, w, kept, 2 * c[kept] @ w), "the least is"),
    ("refit", lambda c, w, kept: refit_to(c, w, kept, c[kept] @ w) + 1, "is zero"),
    ("removed_in_rounds", one_look, "one look"),
    ("removed_in_rounds", rounds(lambda c, w, p, v: w.square().sum(1) / p), "the old rows"),
    ("removed_in_rounds", rounds(lambda c, w, p, v: 1 / p), "the rows are missing"),
    ("removed_in_rounds", rounds(lambda c, w, p, v: v.square().sum(1) * c), "this is the energy"),
    ("removed_in_rounds", rounds(lambda c, w, p, v: v.square().sum(1) * p), "divide by it"),
    (
        "removed_in_rounds",
        rounds(lambda c, w, p, v: v.square().sum(1) / p.sqrt()),
        "the root is one too many",
    ),
    ("removed_in_rounds", loudest_first, "removing one at a time leaves"),
]
