"""Checks for the exercises of lesson 2: each tries your answer on layers whose right answers come from brute force.

Nothing of comp_lib is used: `torch.linalg.lstsq` on the tokens themselves decides.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count, islice

import torch
from checking import Wrong, accept, alike, call, check_shape, dense_layer, spot
from torch import Tensor


def check_gram(gram: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Exercise 1."""
    for n in (5, 8):
        x, w = dense_layer(n)
        xtx, a = x.T @ x, _contributions(x, w)
        got = call(gram, xtx.clone(), w.clone())
        check_shape("G", got, (n, n))
        spot(got, xtx, "this is C, the inner products of the inputs: the weights are missing")
        spot(got, w @ w.T, "these are the inner products of the weight rows: the inputs are missing")
        spot(got, xtx @ (w @ w.T), "this is a matrix product: multiply the two matrices element by element")
        if not alike(got, a @ a.T):
            raise Wrong(
                "G is not the inner products of the contributions: compare `G[0, 1]` with them, by hand"
            )
    accept("G is what all pairs of contributions give, and none was built")


def check_condition(condition: Callable[[Tensor], Tensor]) -> None:
    """Exercise 2."""
    for n in (5, 8):
        a = _contributions(*dense_layer(n))
        gram, price = (
            a @ a.T,
            torch.stack([_residual(torch.cat([a[:i], a[i + 1 :]]).T, a[i]) for i in range(n)]),
        )
        energy = gram.diagonal()
        got = call(condition, gram.clone())
        check_shape("the conditions", got, (n,))
        spot(got, energy / price, "this is the condition squared: take the root")
        spot(got, price, "this is the price: the condition compares the energy with it")
        spot(got, energy, "this is the energy: what can the others reproduce of it?")
        spot(got, 1 / price, "the energy is missing: a neuron that is twice as loud has the same condition")
        spot(
            got,
            (price / energy).sqrt(),
            "upside down: 1 means that no other neuron helps, and nothing is below 1",
        )
        if not alike(got, (energy / price).sqrt()):
            raise Wrong(
                f"neuron 0 has the condition {(energy / price)[0].sqrt():.4g} by brute force, got {got[0]:.4g}"
            )
    accept("energy / condition² is what brute force loses, for each neuron")


def check_refit(refit: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """Exercise 3."""
    for n in (6, 9):
        x, w = dense_layer(n)
        kept, xtx, want = torch.arange(n)[::2], x.T @ x, torch.zeros_like(w)
        want[kept] = torch.linalg.lstsq(x[:, kept], x @ w).solution
        got = call(refit, xtx.clone(), w.clone(), kept.clone())
        check_shape("V", got, tuple(w.shape))
        spot(got[kept], w[kept], "the kept rows are the old ones: nothing is refitted")
        if not (got[torch.arange(n)[1::2]] == 0).all():
            raise Wrong("a removed neuron has weights: its row of V is zero")
        if not alike(got, want):
            error, least = ((x @ (w - v)).square().sum() for v in (got, want))
            raise Wrong(f"the error left is {error:.4g}, and the least is {least:.4g}")
    accept("no other weights leave less error")


def check_rounds(who_goes: Callable[[Tensor, Tensor, int], list[int]]) -> None:
    """Exercise 4."""
    for x, w, remove in islice(filter(_told_apart, map(_twins, count())), 4):
        n = len(w)
        got = call(who_goes, x.T @ x, w.clone(), remove)
        gone = sorted(int(place) for place in got)
        if len(set(gone)) != remove or not set(gone) <= set(range(n)):
            raise Wrong(f"expected {remove} different neurons from 0 to {n - 1}, got {gone}")
        left, best = _left(x, w, gone), _left(x, w, _greedy(x, w, remove))
        if left <= best * (1 + 1e-6):
            continue
        if gone == _one_look(x, w, remove):
            raise Wrong(
                "this is one look: both members of a pair go, each counting on the other; price anew each round"
            )
        for sentence, price in MISPRICED.items():
            if gone == _greedy(x, w, remove, price):
                raise Wrong(sentence)
        raise Wrong(f"the error left is {left:.3g}; removing one at a time leaves {best:.3g}")
    accept("one of each pair stays to stand in for the other, and the error is that of the rounds or less")


def _twins(seed: int) -> tuple[Tensor, Tensor, int]:
    """Tokens of 11 neurons: four pairs that are nearly alike, three that nobody can replace; four are to go."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *size: torch.randn(*size, generator=generator, dtype=torch.float64)  # noqa: E731
    base, sizes = draw(60, 4), torch.tensor([1.0, 1.3, 1.6, 2.0], dtype=torch.float64)
    pairs = torch.cat([base, base + 0.2 * draw(60, 4)], 1) * sizes.repeat(2)
    x = torch.cat([pairs, 0.45 * draw(60, 3)], 1)
    w = (
        torch.nn.functional.normalize(draw(11, 5), dim=1)
        * torch.linspace(1.0, 1.5, 11, dtype=torch.float64)[:, None]
    )
    order = torch.randperm(11, generator=generator)
    return x[:, order], w, 4


def _one_look(x: Tensor, w: Tensor, remove: int) -> list[int]:
    price = w.square().sum(1) / torch.linalg.inv(x.T @ x).diagonal()
    return sorted(price.argsort()[:remove].tolist())


def _told_apart(layer: tuple[Tensor, Tensor, int]) -> bool:
    """Whether each known mistake removes other neurons from this layer than the right price and the other mistakes."""
    answers = [_one_look(*layer), *(_greedy(*layer, price) for price in (_right, *MISPRICED.values()))]
    return len(set(map(tuple, answers))) == len(answers)


def _right(inverse: Tensor, fitted: Tensor, old: Tensor, sums: Tensor) -> Tensor:
    return fitted.square().sum(1) / inverse


# Sentence -> the price (k,) by that mistake: diagonals of C_KK^-1 and of C_KK (k,), rows V and W (k, d).
MISPRICED: dict[str, Callable[..., Tensor]] = {
    "the price takes the old rows W: after each round the kept neurons have new rows": (
        lambda inverse, fitted, old, sums: old.square().sum(1) / inverse
    ),
    "the rows are missing: a neuron that nobody reads costs nothing": lambda inverse, *_: 1 / inverse,
    "this is the energy: what can the others reproduce of it?": (
        lambda inverse, fitted, old, sums: fitted.square().sum(1) * sums
    ),
    "the root is one too many: divide by the entry of the inverse itself": (
        lambda inverse, fitted, *_: fitted.square().sum(1) / inverse.sqrt()
    ),
    "multiplied by the entry of the inverse: divide by it": (
        lambda inverse, fitted, *_: fitted.square().sum(1) * inverse
    ),
}


def _greedy(x: Tensor, w: Tensor, remove: int, price: Callable[..., Tensor] = _right) -> list[int]:
    """The removed neurons when the cheapest of each round is removed."""
    kept = list(range(len(w)))
    for _ in range(remove):
        sums, fitted = x[:, kept].T @ x[:, kept], torch.linalg.lstsq(x[:, kept], x @ w).solution
        kept.pop(int(price(torch.linalg.inv(sums).diagonal(), fitted, w[kept], sums.diagonal()).argmin()))
    return [place for place in range(len(w)) if place not in kept]


def _contributions(x: Tensor, w: Tensor) -> Tensor:
    """The contribution of each neuron: (n, T m)."""
    return torch.stack([torch.outer(x[:, i], w[i]).flatten() for i in range(len(w))])


def _left(x: Tensor, w: Tensor, gone: list[int] | tuple[int, ...]) -> float:
    """||X W - X V||² for the best V without the inputs `gone`."""
    return float(_residual(x[:, [place for place in range(len(w)) if place not in gone]], x @ w))


def _residual(columns: Tensor, target: Tensor) -> Tensor:
    """||target - columns c||² for the best c."""
    target = target.reshape(len(columns), -1)
    return (target - columns @ torch.linalg.lstsq(columns, target).solution).square().sum()
