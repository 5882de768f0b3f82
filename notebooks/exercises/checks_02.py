"""Checks for the exercises of lesson 2: each tries your answer on layers whose right answers come from brute force.

Nothing of comp_lib is used: `torch.linalg.lstsq` on the tokens themselves decides.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from checking import Wrong, accept, alike, call, check_shape, dense_layer, spot
from torch import Tensor


def check_gram(gram: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Exercise 1."""
    for n in (5, 8):
        x, w = dense_layer(n)
        xtx, a = x.T @ x, torch.stack([torch.outer(x[:, i], w[i]).flatten() for i in range(n)])  # (n, T m)
        got = call(gram, xtx.clone(), w.clone())
        check_shape("G", got, (n, n))
        spot(got, xtx, "this is C, the inner products of the inputs: the weights are missing")
        spot(got, w @ w.T, "these are the inner products of the weight rows: the inputs are missing")
        spot(got, xtx @ (w @ w.T), "this is a matrix product: multiply the two matrices element by element")
        if not alike(got, a @ a.T):
            raise Wrong("G is not the inner products of the contributions: compare `G[0, 1]` with them, by hand")
    accept("G is what all pairs of contributions give, and none was built")


def check_prices(prices: Callable[[Tensor], Tensor]) -> None:
    """Exercise 2."""
    for n in (5, 8):
        x, w = dense_layer(n)
        a = torch.stack([torch.outer(x[:, i], w[i]).flatten() for i in range(n)])
        gram, want = a @ a.T, torch.stack([_residual(torch.cat([a[:i], a[i + 1 :]]).T, a[i]) for i in range(n)])
        got = call(prices, gram.clone())
        check_shape("the prices", got, (n,))
        spot(got, gram.diagonal(), "this is the energy, what is lost if the others stay as they are")
        spot(got, gram.diagonal() / want, "this is the condition squared: divide the energy by it")
        spot(got, (gram.diagonal() * want).sqrt(), "the energy is divided by the condition: square the condition")
        spot(got, 1 / gram.diagonal(), "these are the inverses of single entries: invert the matrix first")
        if not alike(got, want):
            raise Wrong(f"neuron 0 costs {want[0]:.4g} by brute force, you say {got[0]:.4g}")
    accept("each price is what brute force loses")


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


def check_fooled(fooled_layer: Callable[[], tuple[Tensor, Tensor]]) -> None:
    """Exercise 4."""
    answer = call(fooled_layer)
    if not isinstance(answer, tuple | list) or len(answer) != 2 or not all(isinstance(part, Tensor) for part in answer):
        raise Wrong("expected two tensors: end with `return X, W`")
    x, w = (part.double() for part in answer)
    if x.ndim != 2 or w.ndim != 2 or x.shape[1] != len(w):
        raise Wrong(f"expected X (T, n) and W (n, m) of the same n, got {tuple(x.shape)} and {tuple(w.shape)}")
    if not 3 <= len(w) <= 8:
        raise Wrong(f"expected 3 to 8 neurons, got {len(w)}")
    a = torch.stack([torch.outer(x[:, i], w[i]).flatten() for i in range(len(w))])  # (n, T m)
    energy = a.square().sum(1)
    cost = torch.stack([_residual(torch.cat([a[:i], a[i + 1 :]]).T, a[i]) for i in range(len(w))])
    if float((cost / energy).min()) < 1e-9:
        raise Wrong("a neuron costs nothing: the others reach it exactly (a copy?), turn it a little")
    condition, right = energy / cost, int(cost.argmin())  # squared
    highest = condition > (1 - 1e-6) * condition.max()  # two that stand in for each other alone have the same
    by_condition = int(cost.masked_fill(~highest, torch.inf).argmin())
    for name, pick in (("energy", int(energy.argmin())), ("condition", by_condition)):
        if pick == right or float(cost[pick]) < 1.05 * float(cost[right]):
            place = f"it picks neuron {pick}, at a cost of {cost[pick]:.3g}, and the least is {cost[right]:.3g}"
            raise Wrong(f"{name} is not fooled: {place}")
    accept(f"energy and condition both pick a wrong neuron; the quotient picks neuron {right}")


def check_rounds(who_goes: Callable[[Tensor, Tensor, int], list[int]]) -> None:
    """Exercise 5."""
    for seed in range(4):
        x, w, remove = _twins(seed)
        n = len(w)
        got = call(who_goes, x.T @ x, w.clone(), remove)
        gone = sorted(int(place) for place in got)
        if len(set(gone)) != remove or not set(gone) <= set(range(n)):
            raise Wrong(f"expected {remove} different neurons from 0 to {n - 1}, got {gone}")
        left, best = _left(x, w, gone), _left(x, w, _greedy(x, w, remove))
        if left <= best * (1 + 1e-6):
            continue
        inverse = torch.linalg.inv(x.T @ x)
        look = (w.square().sum(1) / inverse.diagonal()).argsort()[:remove]
        energy = (x.square().sum(0) * w.square().sum(1)).argsort()[:remove]
        if gone == sorted(look.tolist()):
            raise Wrong("this is one look: both members of a pair go, each counting on the other; remove one at a time")
        if gone == sorted(energy.tolist()):
            raise Wrong("this is the order of energy: nobody asked who can stand in")
        if gone == sorted(_greedy(x, w, remove, retuned=False)):
            raise Wrong("the others were not re-tuned between removals: the cost of the next takes V, not W")
        raise Wrong(f"the error left is {left:.3g}; removing one at a time leaves {best:.3g}")
    accept("one of each pair stays to stand in for the other, and the error is that of the rounds or less")


def _twins(seed: int) -> tuple[Tensor, Tensor, int]:
    """Tokens of 11 neurons: four pairs that are nearly alike, three that nobody can replace; four are to go."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *size: torch.randn(*size, generator=generator, dtype=torch.float64)  # noqa: E731
    base, sizes = draw(60, 4), torch.tensor([1.0, 1.3, 1.6, 2.0], dtype=torch.float64)
    pairs = torch.cat([base, base + 0.2 * draw(60, 4)], 1) * sizes.repeat(2)
    x = torch.cat([pairs, 0.45 * draw(60, 3)], 1)
    w = torch.nn.functional.normalize(draw(11, 5), dim=1)
    order = torch.randperm(11, generator=generator)
    return x[:, order], w, 4


def _greedy(x: Tensor, w: Tensor, remove: int, retuned: bool = True) -> list[int]:
    """Who goes when the cheapest goes, one at a time; without re-tuning in between, a known mistake."""
    stay = list(range(len(w)))
    for _ in range(remove):
        inverse = torch.linalg.inv(x[:, stay].T @ x[:, stay])
        fitted = torch.linalg.lstsq(x[:, stay], x @ w).solution if retuned else w[stay]
        stay.pop(int((fitted.square().sum(1) / inverse.diagonal()).argmin()))
    return [place for place in range(len(w)) if place not in stay]


def _left(x: Tensor, w: Tensor, gone: list[int] | tuple[int, ...]) -> float:
    """||X W - X V||² for the best V without the inputs `gone`."""
    return float(_residual(x[:, [place for place in range(len(w)) if place not in gone]], x @ w))


def _residual(columns: Tensor, target: Tensor) -> Tensor:
    """||target - columns c||² for the best c."""
    target = target.reshape(len(columns), -1)
    return (target - columns @ torch.linalg.lstsq(columns, target).solution).square().sum()
