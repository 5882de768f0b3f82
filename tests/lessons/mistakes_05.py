"""Wrong answers to the exercises of lesson 5, and what their checks say to each."""

from __future__ import annotations

import torch


def price(v, p):
    """The price of a group: its rows V (size, d), P of its columns (size, size)."""
    return (v * torch.linalg.solve(p, v)).sum()


def rounds(price_of_group, new_rows=True, fresh=True):
    """Removal in rounds, unless an argument makes it wrong.

    Args:
        price_of_group: of rows (size, d) and a block of P (size, size).
        new_rows: whether the price takes the refitted rows.
        fresh: whether the groups that went are left out of P.
    """

    def removed_groups(c, w, size, remove):
        blocks = torch.arange(len(w)).split(size)
        removed = []
        for _ in range(remove):
            left = [i for i in range(len(blocks)) if i not in removed]
            kept = torch.cat([blocks[i] for i in left])
            p = torch.zeros_like(c)
            p[kept[:, None], kept] = torch.linalg.inv(c[kept][:, kept])
            v = w.clone()
            if new_rows:
                v = p @ c @ w
            if not fresh:
                p = torch.linalg.inv(c)
            removed.append(min(left, key=lambda i: price_of_group(v[blocks[i]], p[blocks[i]][:, blocks[i]])))
        return removed

    return removed_groups


def one_look(c, w, size, remove):
    p = torch.linalg.inv(c)
    blocks = torch.arange(len(w)).split(size)
    return torch.stack([price(w[b], p[b][:, b]) for b in blocks]).argsort()[:remove].tolist()


# (function that the learner writes, a wrong answer, pattern that the check's sentence matches)
MISTAKES = [
    ("removed_groups", one_look, "one look"),
    ("removed_groups", rounds(price, new_rows=False), "the old rows W"),
    ("removed_groups", rounds(price, fresh=False), "still in P"),
    ("removed_groups", rounds(lambda v, p: (v.square().sum(1) / p.diagonal()).sum()), "single columns"),
    ("removed_groups", rounds(lambda v, p: (v * (p @ v)).sum()), "multiplied by the block"),
    ("removed_groups", rounds(lambda v, p: torch.linalg.inv(p).trace()), "the rows are missing"),
    ("removed_groups", lambda *given: rounds(price)(*given)[::-1], "in the wrong order"),
    ("removed_groups", lambda *given: [0, 0, 0], "3 different groups from 0 to 5"),
    ("my_plan", lambda request: request.plan_with([1536] * 30), "got 0.0%: change the widths"),
    ("my_plan", lambda request: request.plan_with([1120] * 29 + [1128]), "expected one width for all layers"),
    ("my_plan", lambda request: request.plan_with([1600] * 30), "expected at most 1536 neurons in layer 0"),
    ("my_plan", lambda request: [1120] * 30, "expected a plan, got list"),
]
