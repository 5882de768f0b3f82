"""Checks of what the reader writes in lesson 02: on small layers brute force finds what is right.

Contributions are built, neurons are removed one by one, and `torch.linalg.lstsq` fits on the tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from course.checking import (
    Wrong,
    accept,
    alike,
    call,
    check_shape,
    checks,
    contributions_of,
    dense_layer,
    spot,
)


@checks("contributions")
def check_contributions(contributions: Callable[[Tensor, Tensor], Tensor]) -> None:
    """The Gram matrix of the contributions."""
    for n in (5, 8):
        x, w = dense_layer(n)
        xtx = x.T @ x
        answer = call(contributions, xtx.clone(), w.clone())
        check_shape("G", answer, (n, n))
        spot(answer, xtx, "this is C: the rows of W are missing")
        spot(answer, w @ w.T, "these are the inner products of the rows of W: C is missing")
        product = xtx @ w @ w.T
        spot(
            answer,
            product,
            "this is a matrix product: an entry of G is one number of C times one inner product of two rows",
        )
        spot(answer, product.T, "this is a matrix product: multiply C and the other one element by element")
        rows = xtx * w.square().sum(1)
        spot(
            answer,
            rows,
            "each column was multiplied by one number: two neurons need the product of their two rows",
        )
        a = contributions_of(x, w)
        if not alike(answer, a @ a.T):
            right = float(a[0] @ a[1])
            raise Wrong(f"the contributions of neurons 0 and 1 have the inner product {right:.4g}, got "
                        f"{answer[0, 1]:.4g}")  # fmt: skip
    accept("G holds the inner products of all contributions, and none was built")


@checks("condition_numbers")
def check_condition_numbers(condition_numbers: Callable[[Tensor], Tensor]) -> None:
    """The condition of each neuron, from the energy and the price of brute force."""
    for n in (5, 8):
        a = contributions_of(*dense_layer(n))
        gram = a @ a.T
        energy = gram.diagonal()
        price = torch.stack([_residual(torch.cat([a[:i], a[i + 1 :]]).T, a[i]) for i in range(n)])
        answer = call(condition_numbers, gram.clone())
        check_shape("the conditions", answer, (n,))
        spot(answer, energy / price, "this is the condition squared: the root is missing")
        spot(answer, price, "this is the price: the condition compares the energy with it")
        spot(answer, 1 / price, "the energy is missing: this is one over the price")
        spot(answer, (1 / price).sqrt(), "the energy is missing below the root")
        spot(answer, (price / energy).sqrt(), "upside down: the condition is 1 or more")
        ones = torch.ones_like(energy)
        sentence = "every condition is 1: take the inverse of the whole matrix first, then its diagonal"
        spot(answer, ones, sentence)
        right = (energy / price).sqrt()
        if not alike(answer, right):
            raise Wrong(f"neuron 0 has the condition {right[0]:.4g} by brute force, got {answer[0]:.4g}")
    accept("energy / condition² is what brute force loses, for each neuron")


@checks("refit")
def check_refit(refit: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """The new rows of the kept neurons, without a ridge."""
    for n in (6, 9):
        x, w = dense_layer(n)
        xtx = x.T @ x
        kept = torch.arange(n)[::2]
        removed = torch.arange(n)[1::2]
        expected = torch.zeros_like(w)
        expected[kept] = torch.linalg.lstsq(x[:, kept], x @ w).solution
        answer = call(refit, xtx.clone(), w.clone(), kept.clone())
        if isinstance(answer, Tensor) and answer.shape == (len(kept), w.shape[1]):
            raise Wrong("V has the kept rows alone: it has all n rows, and those of removed neurons are zero")
        check_shape("V", answer, tuple(w.shape))
        inner = xtx[kept][:, kept]
        spot(answer[kept], w[kept], "the kept rows are the old ones: nothing makes up for the removed")
        change = torch.linalg.solve(inner, xtx[kept][:, removed] @ w[removed])
        sentence = "this is how much the kept rows change: add it to the old rows"
        spot(answer[kept], change, sentence)
        old = torch.linalg.inv(xtx)[kept][:, kept] @ (xtx[kept] @ w)
        sentence = "this takes the rows and columns out of the inverse of C: take them out of C, then invert"
        spot(answer[kept], old, sentence)
        if not (answer[removed] == 0).all():
            raise Wrong("a removed neuron has weights: its row of V is zero")
        if not alike(answer, expected):
            error, least_error = ((x @ (w - v)).square().sum() for v in (answer, expected))
            raise Wrong(f"V leaves the error {error:.4g} on the tokens, and lstsq leaves {least_error:.4g}")
    accept("lstsq on the tokens finds the same V, and yours saw no token")


def _residual(columns: Tensor, target: Tensor) -> Tensor:
    """||target - columns c||² for the best c."""
    target = target.reshape(len(columns), -1)
    return (target - columns @ torch.linalg.lstsq(columns, target).solution).square().sum()
