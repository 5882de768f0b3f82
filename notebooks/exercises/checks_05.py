"""Checks for the exercises of lesson 5: KV groups in rounds, and the capstone's plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import count, islice
from pathlib import Path

import torch
from teaching.rank import SHARE, check, in_words
from torch import Tensor

from comp_lib.checkpoints.wheels import INCLUDED_MODEL
from comp_lib.decoder.shape import Shape
from comp_lib.hybrid_granularity.plan import Plan, PlanRequest
from comp_lib.utils.errors import InputError
from course.checking import Wrong, accept, call, error_without, real_outline

# --- 1: KV groups in rounds ---------------------------------------------------------------------------------

# The price of one group: its rows V (size, d), P of its columns (size, size), and its old rows W (size, d).
GroupPrice = Callable[[Tensor, Tensor, Tensor], Tensor]


def check_removed_groups(removed_groups: Callable[[Tensor, Tensor, int, int], list[int]]) -> None:
    """Exercise 1: least squares on the tokens finds which group costs least in each round."""
    layers = filter(_mistakes_differ, map(_twin_groups, count()))
    for x, w, size, remove in islice(layers, 4):
        groups = len(w) // size
        answer = call(removed_groups, x.T @ x, w.clone(), size, remove)
        if not isinstance(answer, list | tuple):
            raise Wrong(f"expected a list of {remove} groups, got {type(answer).__name__}")
        removed = [int(group) for group in answer]
        if len(removed) != remove or len(set(removed)) != remove or not set(removed) <= set(range(groups)):
            raise Wrong(f"expected {remove} different groups from 0 to {groups - 1}, got {removed}")
        expected = _by_brute_force(x, w, size, remove)
        if removed == expected:
            continue
        if sorted(removed) == sorted(expected):
            raise Wrong(f"the right groups in the wrong order: they go as {expected}, got {removed}")
        for sentence, mistake in MISTAKES.items():
            if removed == mistake(x, w, size, remove):
                raise Wrong(sentence)
        raise Wrong(
            f"the error left is {error_without(x, w, _columns(removed, size)):.3g}; "
            "the group that costs least in each round leaves "
            f"{error_without(x, w, _columns(expected, size)):.3g}"
        )
    accept("one of two groups that say the same stays, and no group was built or removed to find that out")


def _twin_groups(seed: int) -> tuple[Tensor, Tensor, int, int]:
    """X (60, 18) and W (18, 5) of six groups of 3 columns, the size of a group, and how many go.

    Two pairs of groups read nearly the same.
    """
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    base = draw(60, 2, 3) @ (torch.eye(3, dtype=torch.float64) + 0.6 * draw(3, 3))
    x = torch.cat([base, base + 0.2 * draw(60, 2, 3), 0.4 * draw(60, 2, 3)], 1)
    x = x[:, torch.randperm(6, generator=generator)].flatten(1)
    return x, torch.nn.functional.normalize(draw(18, 5), dim=1), 3, 3


def _columns(groups: Iterable[int], size: int) -> list[int]:
    """The columns of some groups."""
    return [group * size + place for group in groups for place in range(size)]


def _by_brute_force(x: Tensor, w: Tensor, size: int, remove: int) -> list[int]:
    """The groups that go, in order: in each round the one without which least is lost."""
    removed: list[int] = []
    for _ in range(remove):
        left = [group for group in range(len(w) // size) if group not in removed]
        removed.append(min(left, key=lambda group: error_without(x, w, _columns([*removed, group], size))))
    return removed


def _in_rounds(price: GroupPrice, fresh: bool = True) -> Callable[..., list[int]]:
    """The removal in rounds by a price; without `fresh` P stays what it was with all groups."""

    def remove_groups(x: Tensor, w: Tensor, size: int, remove: int) -> list[int]:
        c = x.T @ x
        left = list(range(len(w) // size))
        removed = []
        for _ in range(remove):
            kept = _columns(left, size)
            p = torch.linalg.inv(c[kept][:, kept])
            v = p @ c[kept] @ w
            if not fresh:
                p = torch.linalg.inv(c)[kept][:, kept]
            blocks = torch.arange(len(kept)).split(size)
            prices = [float(price(v[block], p[block][:, block], w[kept][block])) for block in blocks]
            removed.append(left.pop(prices.index(min(prices))))
        return removed

    return remove_groups


def _price(v: Tensor, p: Tensor, _: Tensor) -> Tensor:
    """tr(V_G^T (P_GG)^-1 V_G)."""
    return (v * torch.linalg.solve(p, v)).sum()


def _one_look(x: Tensor, w: Tensor, size: int, remove: int) -> list[int]:
    """The groups that are cheapest before any is removed, the cheapest first."""
    p = torch.linalg.inv(x.T @ x)
    blocks = torch.arange(len(w)).split(size)
    prices = torch.stack([_price(w[block], p[block][:, block], w[block]) for block in blocks])
    return prices.argsort()[:remove].tolist()


MISTAKES: dict[str, Callable[..., list[int]]] = {
    "this is one look: two groups that say the same both go, each counts on the other; price anew": _one_look,
    "the price takes the old rows W: after each round the groups that are left have new rows": _in_rounds(
        lambda _, p, old: _price(old, p, old)
    ),
    "the group that went is still in P: leave its rows and columns out of C, then invert": _in_rounds(
        _price, fresh=False
    ),
    "these are the prices of single columns, added up: the columns of a group go together": _in_rounds(
        lambda v, p, _: (v.square().sum(1) / p.diagonal()).sum()
    ),
    "multiplied by the block of P: divide by it, as a matrix": _in_rounds(
        lambda v, p, _: (v * (p @ v)).sum()
    ),
    "the rows are missing: a group that nobody reads costs nothing": _in_rounds(
        lambda _, p, old: torch.linalg.inv(p).trace()
    ),
}
"""Sentence -> the groups that this mistake removes, from X, W, the size of a group and how many go."""


def _mistakes_differ(layer: tuple[Tensor, Tensor, int, int]) -> bool:
    """Whether the right price and all known mistakes remove different groups from this layer."""
    answers = [frozenset(_by_brute_force(*layer))]
    for mistake in MISTAKES.values():
        answers.append(frozenset(mistake(*layer)))
    return len(set(answers)) == len(answers)


# --- 2: the capstone ----------------------------------------------------------------------------------------


def check_my_plan(my_plan: Callable[[PlanRequest], Plan]) -> None:
    """Exercise 2."""
    accept(f"the plan keeps {in_words(_allowed(my_plan))}, and can be ranked. `hand_in` saves it")


def _allowed(my_plan: Callable[[PlanRequest], Plan]) -> Plan:
    """The plan that a learner's function makes. Raises Wrong unless the teacher's `rank.py` allows it."""
    plan = call(my_plan, request())
    if not isinstance(plan, Plan):
        raise Wrong(f"expected a plan, got {type(plan).__name__}: `asked.plan_with(widths)` makes one")
    try:
        check(plan, real_outline())
    except InputError as error:
        raise Wrong(str(error)) from error
    return plan


def request() -> PlanRequest:
    """What the capstone asks for: a fifth of the model's decoder, in widths that are multiples of 8."""
    return PlanRequest(Shape.of(real_outline()), SHARE, multiple=8, parent=INCLUDED_MODEL)


def hand_in(my_plan: Callable[[PlanRequest], Plan], name: str) -> None:
    """Save the plan as plans/NAME.json, for the teacher."""
    if not name.isalnum():
        print(
            "Not saved: write your name between the quotes, in letters and digits, and run this cell again."
        )
        return
    plan = _allowed(my_plan)
    path = Path("plans") / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    plan.save(path)
    print(f"Saved as {path.resolve()}: give this file to your teacher.")
