"""Checks for the exercises of lesson 2: each tries an answer on layers, and brute force finds the right ones.

Nothing of comp_lib is used: `torch.linalg.lstsq` on the tokens themselves decides.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import combinations, count, islice
from math import isclose

import torch
from torch import Tensor

from course.checking import Wrong, accept, call, check_number, dense_layer, error_without


def check_price_after(price_after: Callable[[Tensor, Tensor, int, int], float]) -> None:
    """Exercise 1."""
    for n, gone, asked in ((5, 1, 3), (8, 6, 2)):
        x, w = _with_twins(n, gone, asked)
        xtx = x.T @ x
        answer = call(price_after, xtx.clone(), w.clone(), gone, asked)
        check_number("the price", answer)
        kept = [neuron for neuron in range(n) if neuron != gone]
        place = kept.index(asked)
        inverse = torch.linalg.inv(xtx)[asked, asked]
        kept_inverse = torch.linalg.inv(xtx[kept][:, kept])[place, place]
        new_row = torch.linalg.lstsq(x[:, kept], x @ w).solution[place].square().sum()
        old_row = w[asked].square().sum()
        both = error_without(x, w, [gone, asked])
        expected = both - error_without(x, w, [gone])
        before = float(old_row / inverse)
        mistakes = {
            "this is its price while the twin is still there": before,
            "the row is the old one: after the twin has left, all others have new rows": old_row
            / kept_inverse,
            "the twin is still in this inverse: leave its row and column out of C, then invert": new_row
            / inverse,
            "this is the price of both: what the twin cost is paid already": both,
        }
        for sentence, mistake in mistakes.items():
            if isclose(answer, float(mistake), rel_tol=1e-6):
                raise Wrong(sentence)
        if not isclose(answer, expected, rel_tol=1e-6):
            raise Wrong(
                f"brute force loses {expected:.4g} more when neuron {asked} follows neuron {gone}, "
                f"got {answer:.4g}"
            )
    accept(f"once its twin has left, this neuron costs {expected / before:.0f} times what it cost before")


def check_cheapest_pair(cheapest_pair: Callable[[Tensor, Tensor], tuple[int, int]]) -> None:
    """Exercise 2."""
    layers = filter(_mistakes_differ, map(_pairs_of_twins, count()))
    for x, w in islice(layers, 4):
        n = len(w)
        p = torch.linalg.inv(x.T @ x)
        answer = call(cheapest_pair, p.clone(), w.clone())
        if not isinstance(answer, tuple | list) or len(answer) != 2:
            raise Wrong("expected two neurons: end with `return i, j`")
        pair = tuple(sorted(int(neuron) for neuron in answer))
        if len(set(pair)) < 2 or not set(pair) <= set(range(n)):
            raise Wrong(f"expected two different neurons from 0 to {n - 1}, got {pair}")
        best = min(combinations(range(n), 2), key=lambda two: error_without(x, w, list(two)))
        if pair == best:
            continue
        for sentence, mistake in MISTAKEN_PAIRS.items():
            if pair == mistake(p, w):
                raise Wrong(sentence)
        raise Wrong(
            f"without {pair} the error is {error_without(x, w, list(pair)):.3g}, "
            f"without {best} it is {error_without(x, w, list(best)):.3g}"
        )
    accept("no other pair costs less, and only a block of P of two rows and two columns was inverted")


def _with_twins(n: int, gone: int, asked: int) -> tuple[Tensor, Tensor]:
    """X (20, n) and W (n, 4) of a layer in which two neurons read nearly the same."""
    x, w = dense_layer(n)
    generator = torch.Generator().manual_seed(n + 100)
    noise = torch.randn(len(x), generator=generator, dtype=torch.float64)
    x[:, gone] = x[:, asked] + 0.2 * noise
    return x, w


def _pairs_of_twins(seed: int) -> tuple[Tensor, Tensor]:
    """X (60, 9) and W (9, 5) of a layer: three pairs of neurons are nearly alike, three are alone."""
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    base = draw(60, 3)
    x = torch.cat([base, base + 0.3 * draw(60, 3), 0.4 * draw(60, 3)], 1)
    w = torch.nn.functional.normalize(draw(9, 5), dim=1)
    order = torch.randperm(9, generator=generator)
    return x[:, order], w


def _pair_price(p: Tensor, w: Tensor, pair: tuple[int, int], sign: float = -1.0) -> float:
    """The price of two neurons, from P (n, n) and W (n, d); `sign` is that of the term of both rows."""
    i, j = pair
    own = p[j, j] * w[i].square().sum() + p[i, i] * w[j].square().sum()
    cross = 2 * p[i, j] * (w[i] @ w[j])
    return float((own + sign * cross) / (p[i, i] * p[j, j] - p[i, j] ** 2))


def _two_cheapest(p: Tensor, w: Tensor) -> tuple[int, ...]:
    """The two neurons of lowest price alone."""
    return tuple(sorted((w.square().sum(1) / p.diagonal()).argsort()[:2].tolist()))


def _one_after_the_other(p: Tensor, w: Tensor) -> tuple[int, ...]:
    """The neuron of lowest price, and the one that costs least with it."""
    first = int((w.square().sum(1) / p.diagonal()).argmin())
    others = [neuron for neuron in range(len(w)) if neuron != first]
    return tuple(sorted((first, min(others, key=lambda other: _pair_price(p, w, (first, other))))))


def _best_pair(price: Callable[[Tensor, Tensor, tuple[int, int]], float]) -> Callable[..., tuple[int, ...]]:
    """The choice of the pair of lowest `price`."""
    return lambda p, w: min(combinations(range(len(w)), 2), key=lambda pair: price(p, w, pair))


# Sentence -> the pair that this mistake chooses, from P (n, n) and W (n, d).
MISTAKEN_PAIRS: dict[str, Callable[[Tensor, Tensor], tuple[int, ...]]] = {
    "these two are the cheapest one by one: each counts on the other neuron, and both go": _two_cheapest,
    "this takes the cheapest neuron first and then its best partner: another pair costs less": (
        _one_after_the_other
    ),
    "this pair costs most: take the one that costs least": _best_pair(lambda *given: -_pair_price(*given)),
    "the term of the two rows together has the wrong sign": _best_pair(partial(_pair_price, sign=1.0)),
    "multiplied by the block of P: its inverse is needed": _best_pair(
        lambda p, w, pair: float((w[list(pair)] * (p[list(pair)][:, list(pair)] @ w[list(pair)])).sum())
    ),
}


def _mistakes_differ(layer: tuple[Tensor, Tensor]) -> bool:
    """Whether the right price and all known mistakes choose different pairs in this layer."""
    x, w = layer
    p = torch.linalg.inv(x.T @ x)
    pairs = [_best_pair(_pair_price)(p, w)]
    for mistake in MISTAKEN_PAIRS.values():
        pairs.append(mistake(p, w))
    return len(set(pairs)) == len(pairs)
