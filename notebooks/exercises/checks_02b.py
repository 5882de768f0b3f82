"""Checks for the exercises of lesson 2b: on made-up layers, brute force decides."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from course.checking import Wrong, accept, call, check_shape


def check_units(fooling_units: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Exercise 1."""
    for seed in range(3):
        xtx, weight = _layer(seed)
        scale = call(fooling_units, xtx.clone(), weight.clone())
        check_shape("the factors", scale, (len(weight),))
        if not torch.isfinite(scale).all() or float(scale.min()) <= 0:
            raise Wrong("expected positive factors: a unit is never zero or negative")
        norms = xtx.diagonal().sqrt()
        energy = xtx.diagonal() * weight.square().sum(1)  # the same in all units
        activation = norms * scale.to(norms)
        order = activation.argsort()
        most_energy_first = energy.argsort(descending=True)
        if torch.equal(order, most_energy_first):
            continue
        if float(activation.max() / activation.min()) < 1 + 1e-9:
            raise Wrong(
                "all activations are equal now, and the metric picks at random: "
                "most energy needs least activation"
            )
        if torch.equal(order, energy.argsort()):
            raise Wrong("now activation agrees with energy: you have mended it; turn the order round")
        if torch.equal(order, norms.argsort(descending=True)):
            raise Wrong("activation's own order is turned round, not that of energy: its weights count, too")
        raise Wrong(
            "the first to go by activation should be the neuron of most energy, "
            "the next the second, and so on"
        )
    accept("the layer is the same, and activation would remove its most valuable neurons first")


# (C (n, n), W (n, d)) -> the score of each neuron (n,); the lowest is removed first
Score = Callable[[Tensor, Tensor], Tensor]

SCORES: dict[str, Score] = {
    "energy": lambda c, w: c.diagonal() * w.square().sum(1),
    "energy times the mean weight": lambda c, w: c.diagonal() * w.square().sum(1) * w.abs().mean(),
    "price": lambda c, w: w.square().sum(1) / torch.linalg.inv(c).diagonal(),
    "activation": lambda c, w: c.diagonal().sqrt(),
    "Wanda-sp": lambda c, w: c.diagonal().sqrt() * w.abs().sum(1),
    "magnitude": lambda c, w: w.abs().sum(1),
}
MOVES = {  # by other units of the inputs, by turned outputs
    "energy": (False, False),
    "energy times the mean weight": (False, False),
    "price": (False, False),
    "activation": (True, False),
    "Wanda-sp": (False, True),
    "magnitude": (True, True),
}


def check_what_moves(what_moves: Callable[[Score, Tensor, Tensor], tuple[bool, bool]]) -> None:
    """Exercise 2."""
    xtx, weight = _even_layer()
    found = {}
    for name, score in SCORES.items():
        answer = call(what_moves, score, xtx.clone(), weight.clone())
        if not isinstance(answer, tuple | list) or len(answer) != 2:
            raise Wrong("expected two answers, `(by_units, by_turning)`, each True or False")
        if not all(isinstance(moved, bool) for moved in answer):
            raise Wrong(f"expected True or False twice, got {tuple(answer)!r}")
        found[name] = tuple(answer)
    if found == MOVES:
        accept(
            "energy and price depend on what the layer computes; each other score on how it is written down"
        )
        return
    if found == {name: moves[::-1] for name, moves in MOVES.items()}:
        raise Wrong("the two answers are swapped: that for the units comes first")
    if len(set(found.values())) == 1:
        raise Wrong(
            f"each score gets the same answer, {found['energy']}: does the changed layer reach the score?"
        )
    by_units, by_turning = found["energy"]
    if by_units:
        raise Wrong(
            "energy is said to move with the units: the layer must compute what it did before, so where an "
            "input grows its weights shrink, and C has two inputs in each entry"
        )
    if by_turning:
        raise Wrong(
            "energy is said to move when the outputs are turned: turn every row of W by one *orthogonal* "
            "matrix, which keeps all lengths"
        )
    if found["energy times the mean weight"] != (False, False):
        raise Wrong(
            "all scores of a layer times one number remove the same neurons: compare orders, not values"
        )
    for name, moves in MOVES.items():
        for place, change in enumerate(("in other units", "with turned outputs")):
            if found[name][place] != moves[place]:
                does = "removes other neurons" if moves[place] else "removes the same neurons"
                raise Wrong(f"{name} {does} {change}: your answer says the opposite")


def _even_layer(n: int = 12) -> tuple[Tensor, Tensor]:
    """C (n, n) and W (n, 6) of a layer whose neurons are about equally loud."""
    generator = torch.Generator().manual_seed(8)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    x = draw(80, n)
    return x.T @ x, draw(n, 6)


def _layer(seed: int, n: int = 9) -> tuple[Tensor, Tensor]:
    """C (n, n) and W (n, 4) in which the orders of activation and energy differ."""
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    x = draw(40, n) * torch.linspace(1, 3, n, dtype=torch.float64)
    weight = draw(n, 4) * torch.linspace(4, 1, n)[:, None]
    return x.T @ x, weight
