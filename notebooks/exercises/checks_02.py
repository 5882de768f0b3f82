"""Checks for the exercises of lesson 2: each tries an answer on layers, and brute force finds the right ones.

Nothing of comp_lib is used: `torch.linalg.lstsq` on the tokens themselves decides.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count, islice

import torch
from checking import Wrong, accept, alike, call, check_shape, dense_layer, spot
from torch import Tensor


def check_gram(gram: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Exercise 1."""
    for n in (5, 8):
        x, w = dense_layer(n)
        xtx = x.T @ x
        a = _contributions(x, w)
        answer = call(gram, xtx.clone(), w.clone())
        check_shape("G", answer, (n, n))
        spot(answer, xtx, "this is C, the inner products of the inputs: the weights are missing")
        spot(answer, w @ w.T, "these are the inner products of the weight rows: the inputs are missing")
        product = xtx @ (w @ w.T)
        spot(answer, product, "this is a matrix product: multiply the two matrices element by element")
        if not alike(answer, a @ a.T):
            raise Wrong(
                "G is not the inner products of the contributions: compare `G[0, 1]` with them, by hand"
            )
    accept("G is what all pairs of contributions give, and none was built")


def check_condition(condition: Callable[[Tensor], Tensor]) -> None:
    """Exercise 2."""
    for n in (5, 8):
        a = _contributions(*dense_layer(n))
        gram = a @ a.T
        energy = gram.diagonal()
        price = torch.stack([_residual(torch.cat([a[:i], a[i + 1 :]]).T, a[i]) for i in range(n)])
        right = (energy / price).sqrt()
        answer = call(condition, gram.clone())
        check_shape("the conditions", answer, (n,))
        spot(answer, energy / price, "this is the condition squared: take the root")
        spot(answer, price, "this is the price: the condition compares the energy with it")
        spot(answer, energy, "this is the energy: what can the others reproduce of it?")
        spot(
            answer,
            1 / price,
            "the energy is missing: a neuron that is twice as loud has the same condition",
        )
        spot(
            answer,
            (price / energy).sqrt(),
            "upside down: 1 means that no other neuron helps, and nothing is below 1",
        )
        if not alike(answer, right):
            raise Wrong(f"neuron 0 has the condition {right[0]:.4g} by brute force, got {answer[0]:.4g}")
    accept("energy / condition² is what brute force loses, for each neuron")


def check_refit(refit: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """Exercise 3."""
    for n in (6, 9):
        x, w = dense_layer(n)
        kept = torch.arange(n)[::2]
        removed = torch.arange(n)[1::2]
        expected = torch.zeros_like(w)
        expected[kept] = torch.linalg.lstsq(x[:, kept], x @ w).solution
        answer = call(refit, x.T @ x, w.clone(), kept.clone())
        check_shape("V", answer, tuple(w.shape))
        spot(answer[kept], w[kept], "the kept rows are the old ones: nothing is refitted")
        if not (answer[removed] == 0).all():
            raise Wrong("a removed neuron has weights: its row of V is zero")
        if not alike(answer, expected):
            error = (x @ (w - answer)).square().sum()
            least_error = (x @ (w - expected)).square().sum()
            raise Wrong(f"the error left is {error:.4g}, and the least is {least_error:.4g}")
    accept("no other weights leave less error")


def check_rounds(who_goes: Callable[[Tensor, Tensor, int], list[int]]) -> None:
    """Exercise 4."""
    layers = filter(_mistakes_differ, map(_twins, count()))
    for x, w, remove in islice(layers, 4):
        n = len(w)
        answer = call(who_goes, x.T @ x, w.clone(), remove)
        removed = sorted(int(neuron) for neuron in answer)
        if len(set(removed)) != remove or not set(removed) <= set(range(n)):
            raise Wrong(f"expected {remove} different neurons from 0 to {n - 1}, got {removed}")
        error = _error_without(x, w, removed)
        greedy_error = _error_without(x, w, _greedy(x, w, remove))
        if error <= greedy_error * (1 + 1e-6):
            continue
        if removed == _one_look(x, w, remove):
            raise Wrong(
                "this is one look: both members of a pair go, each counting on the other; "
                "price anew each round"
            )
        for sentence, price in MISTAKEN_PRICES.items():
            if removed == _greedy(x, w, remove, price):
                raise Wrong(sentence)
        raise Wrong(f"the error left is {error:.3g}; removing one at a time leaves {greedy_error:.3g}")
    accept("one of each pair stays to stand in for the other, and the error is that of the rounds or less")


def _twins(seed: int) -> tuple[Tensor, Tensor, int]:
    """X (60, 11) and W (11, 5) of a layer, and how many neurons to remove.

    Four pairs of neurons are nearly alike, and three neurons cannot be replaced.
    """
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    base = draw(60, 4)
    sizes = torch.tensor([1.0, 1.3, 1.6, 2.0], dtype=torch.float64)
    pairs = torch.cat([base, base + 0.2 * draw(60, 4)], 1) * sizes.repeat(2)
    x = torch.cat([pairs, 0.45 * draw(60, 3)], 1)
    directions = torch.nn.functional.normalize(draw(11, 5), dim=1)
    w = directions * torch.linspace(1.0, 1.5, 11, dtype=torch.float64)[:, None]
    order = torch.randperm(11, generator=generator)
    return x[:, order], w, 4


def _one_look(x: Tensor, w: Tensor, remove: int) -> list[int]:
    """The removed neurons when the cheapest of the first round are removed at once."""
    price = w.square().sum(1) / torch.linalg.inv(x.T @ x).diagonal()
    return sorted(price.argsort()[:remove].tolist())


def _mistakes_differ(layer: tuple[Tensor, Tensor, int]) -> bool:
    """Whether the right price and all known mistakes remove different neurons from this layer."""
    answers = [_one_look(*layer)]
    for price in (_right_price, *MISTAKEN_PRICES.values()):
        answers.append(_greedy(*layer, price))
    return len(set(map(tuple, answers))) == len(answers)


def _right_price(inverse: Tensor, fitted: Tensor, old: Tensor, sums: Tensor) -> Tensor:
    """The price (k,) from the diagonals of C_KK^-1 and of C_KK (k,), and from the rows V and W (k, d)."""
    return fitted.square().sum(1) / inverse


# Sentence -> the price by that mistake, from the same arguments.
MISTAKEN_PRICES: dict[str, Callable[..., Tensor]] = {
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


def _greedy(x: Tensor, w: Tensor, remove: int, price: Callable[..., Tensor] = _right_price) -> list[int]:
    """The removed neurons when the cheapest of each round is removed."""
    kept = list(range(len(w)))
    for _ in range(remove):
        sums = x[:, kept].T @ x[:, kept]
        fitted = torch.linalg.lstsq(x[:, kept], x @ w).solution
        prices = price(torch.linalg.inv(sums).diagonal(), fitted, w[kept], sums.diagonal())
        kept.pop(int(prices.argmin()))
    return [neuron for neuron in range(len(w)) if neuron not in kept]


def _contributions(x: Tensor, w: Tensor) -> Tensor:
    """The contribution of each neuron: (n, T m)."""
    return torch.stack([torch.outer(x[:, i], w[i]).flatten() for i in range(len(w))])


def _error_without(x: Tensor, w: Tensor, removed: list[int]) -> float:
    """||X W - X V||² for the best V without the inputs `removed`."""
    kept = [neuron for neuron in range(len(w)) if neuron not in removed]
    return float(_residual(x[:, kept], x @ w))


def _residual(columns: Tensor, target: Tensor) -> Tensor:
    """||target - columns c||² for the best c."""
    target = target.reshape(len(columns), -1)
    return (target - columns @ torch.linalg.lstsq(columns, target).solution).square().sum()
