"""Wrong answers to the exercises of lesson 2, and what their checks say to each."""

from __future__ import annotations

from itertools import combinations

import torch

inv = torch.linalg.inv


def price_after(c, w, removed, judged, leave_out=True, refitted=True):
    """The right price, unless an argument makes it wrong.

    Args:
        leave_out: whether the neuron that has left is left out of the inverse.
        refitted: whether the others have new rows.
    """
    kept = [i for i in range(len(c)) if i != removed]
    v = w.clone()
    if refitted:
        v[kept] = torch.linalg.solve(c[kept][:, kept], c[kept] @ w)
    p = inv(c)[judged, judged]
    if leave_out:
        p = inv(c[kept][:, kept])[kept.index(judged), kept.index(judged)]
    return v[judged].square().sum() / p


def both(c, w, removed, judged):
    """The price of the two together."""
    r = [removed, judged]
    return (w[r] * torch.linalg.solve(inv(c)[r][:, r], w[r])).sum()


def prices(p, w):
    return w.square().sum(1) / p.diagonal()


def block_price(p, w, pair):
    r = list(pair)
    return (w[r] * torch.linalg.solve(p[r][:, r], w[r])).sum()


def cheapest(price):
    """The pair of lowest `price` (a function of P, W and the pair)."""
    return lambda p, w: min(combinations(range(len(w)), 2), key=lambda pair: float(price(p, w, pair)))


def one_after_the_other(p, w):
    first = int(prices(p, w).argmin())
    candidates = [i for i in range(len(w)) if i != first]
    return first, min(candidates, key=lambda other: float(block_price(p, w, (first, other))))


def wrong_sign(p, w, pair):
    """The price of a pair in which one neuron writes the opposite."""
    turned = w.clone()
    turned[pair[0]] *= -1
    return block_price(p, turned, pair)


# (function that the learner writes, a wrong answer, pattern that the check's sentence matches)
MISTAKES = [
    ("price_after", lambda c, w, g, a: price_after(c, w, g, a, False, False), "still there"),
    ("price_after", lambda c, w, g, a: price_after(c, w, g, a, refitted=False), "the row is the old one"),
    ("price_after", lambda c, w, g, a: price_after(c, w, g, a, leave_out=False), "still in this inverse"),
    ("price_after", both, "the price of both"),
    ("price_after", lambda c, w, g, a: 0.0, "brute force loses"),
    ("price_after", lambda c, w, g, a: prices(inv(c), w), "as one number"),
    ("cheapest_pair", lambda p, w: prices(p, w).argsort()[:2].tolist(), "one by one"),
    ("cheapest_pair", one_after_the_other, "its best partner"),
    ("cheapest_pair", cheapest(wrong_sign), "the wrong sign"),
    (
        "cheapest_pair",
        cheapest(lambda p, w, r: (w[list(r)] * (p[list(r)][:, list(r)] @ w[list(r)])).sum()),
        "multiplied by the block",
    ),
    ("cheapest_pair", cheapest(lambda *arguments: -block_price(*arguments)), "costs most"),
    ("cheapest_pair", lambda p, w: (3, 3), "two different neurons"),
    ("cheapest_pair", lambda p, w: 3, "end with `return i, j`"),
]
