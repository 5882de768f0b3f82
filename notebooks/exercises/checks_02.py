"""Checks for the exercises of lesson 2: each runs your function on small random layers and compares with brute force.

Nothing of comp_lib is used here: the right answers come from the tokens themselves, by `torch.linalg.lstsq`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from checking import Wrong, accept, alike, call, check_shape, dense_layer, spot
from torch import Tensor


def check_gram(gram_of_contributions: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Exercise 1."""
    x, w = dense_layer(7)
    got = call(gram_of_contributions, x.T @ x, w)
    check_shape("G", got, (7, 7))
    a = torch.stack([torch.outer(x[:, i], w[i]).flatten() for i in range(7)])  # (n, T * m)
    if not alike(got, a @ a.T):
        spot(got, (x.T @ x) @ (w @ w.T), "this is the matrix product of C and W Wᵀ: G takes them element by element")
        spot(got, x.T @ x, "this is C alone: two neurons with the same x but opposite weight rows would look alike")
        spot(got, w @ w.T, "this is W Wᵀ alone: it has not looked at any data")
        spot(got.diagonal(), (a @ a.T).diagonal(), "the diagonal (the energies) is right, but not what is off it")
        raise Wrong("G_ij is not <a_i, a_j>: <x_i w_iᵀ, x_j w_jᵀ> is one inner product of x's times one of w's")
    accept("G is the Gram matrix of the contributions, and no token was needed to build it")


def check_condition(condition_and_cost: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
    """Exercise 2."""
    x, w = dense_layer(6)
    a = torch.stack([torch.outer(x[:, i], w[i]).flatten() for i in range(6)])
    gram = a @ a.T
    answer = call(condition_and_cost, gram)
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise Wrong("expected two tensors, (kappa, cost): end with `return kappa, cost`")
    kappa, cost = answer
    check_shape("kappa", kappa, (6,))
    check_shape("cost", cost, (6,))
    energy = gram.diagonal()
    want = torch.stack([_residual(torch.cat([a[:i], a[i + 1 :]]).T, a[i]) for i in range(6)])
    right = (energy / want).sqrt()
    if not alike(kappa, right):
        spot(kappa, right.square(), "this is kappa squared, the variance inflation factor: take the square root")
        spot(
            kappa,
            torch.ones(6, dtype=kappa.dtype),
            "all ones: 1 / G_ii is not (G⁻¹)_ii, so invert the whole matrix first",
        )
        raise Wrong("kappa is not sqrt(G_ii (G⁻¹)_ii): it has to be 1 for a neuron that is orthogonal to all others")
    if not alike(cost, want):
        spot(cost, energy / right, "the cost is one power of kappa short: divide the energy by kappa squared")
        spot(cost, energy, "this is the energy: what is lost if nobody is re-tuned")
        raise Wrong("cost is not what the best mask of the others leaves of a_i: it is G_ii / kappa_i²")
    accept("energy divided by kappa² is what least squares over the other contributions leaves")


def check_block_cost(block_cost: Callable[[Tensor, Tensor, int], Tensor]) -> None:
    """Exercise 3."""
    x, w = dense_layer(6, 3)
    xtx, y = x.T @ x, x @ w
    got = call(block_cost, xtx, w, 2)
    check_shape("cost", got, (3,))
    groups = [[0, 1], [2, 3], [4, 5]]
    want = torch.stack([_residual(x[:, [i for i in range(6) if i not in group]], y) for group in groups])
    if not alike(got, want):
        inverse = torch.linalg.inv(xtx)
        single = (w.square().sum(1) / inverse.diagonal()).reshape(3, 2).sum(1)
        spot(
            got,
            single,
            "this adds up the costs of single inputs: inside a block nobody can stand in for the other, "
            "so invert the whole block of P, not its diagonal",
        )
        plain = torch.stack([(w[g] * (xtx[g][:, g] @ w[g])).sum() for g in groups])
        spot(got, plain, "this is the block's energy, tr(W_gᵀ C_gg W_g): the others have not been re-tuned")
        wrong = torch.stack([(w[g] * (inverse[g][:, g] @ w[g])).sum() for g in groups])
        spot(got, wrong, "P_gg itself stands between the weights: it is (P_gg)⁻¹ that belongs there")
        raise Wrong("the cost of a block is not the error that lstsq leaves without it: tr(W_gᵀ (P_gg)⁻¹ W_g), P = C⁻¹")
    if not alike(call(block_cost, xtx, w, 1), w.square().sum(1) / torch.linalg.inv(xtx).diagonal()):
        raise Wrong("right for blocks of 2, wrong for blocks of 1: use the argument `block` everywhere")
    accept("one formula for a KV group and, with blocks of 1, for a neuron")


def check_remove_one(remove_one: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor, Tensor]]) -> None:
    """Exercise 4."""
    x, w = dense_layer(6, 3)
    y, inverse, weights, kept, total = x @ w, torch.linalg.inv(x.T @ x), w, list(range(6)), 0.0
    for round_, place in enumerate((4, 0)):  # the second removal starts from the answer to the first
        answer = call(remove_one, inverse.clone(), weights.clone(), place)
        if not isinstance(answer, tuple) or len(answer) != 3:
            raise Wrong("expected three values, (P, V, error): end with `return inverse, weights, error`")
        before = weights
        inverse, weights, error = answer
        left = len(kept) - 1
        check_shape("P", inverse, (left, left))
        check_shape("V", weights, (left, 3))
        kept.pop(place)
        fitted = torch.linalg.lstsq(x[:, kept], y).solution
        right = torch.linalg.inv(x[:, kept].T @ x[:, kept])
        if not alike(inverse, right):
            stay = [i for i in range(left + 1) if i != place]
            if round_ == 0 and alike(inverse, torch.linalg.inv(x.T @ x)[stay][:, stay]):
                raise Wrong("P only lost a row and a column: the inverse of a smaller C needs the Schur complement too")
            raise Wrong("P is not the inverse of C without the input: P_KK - P_Ki P_iK / P_ii, mind the sign")
        if not alike(weights, fitted):
            if alike(weights, torch.cat([before[:place], before[place + 1 :]])):
                raise Wrong("V only lost a row: the others are not re-tuned yet, V_K - P_Ki V_i / P_ii")
            raise Wrong("V is not what lstsq finds without the input: V_K - P_Ki V_i / P_ii, mind the sign")
        total += float(error)
        if abs(total - float(_residual(x[:, kept], y))) > 1e-8 * float(y.square().sum()):
            raise Wrong("the errors do not add up to what lstsq leaves: each removal costs ||V_i||² / P_ii")
    accept("two removals in a row, and P, V and the error are those of a fit from scratch")


def _residual(columns: Tensor, target: Tensor) -> Tensor:
    """||target - columns c||² for the best c."""
    target = target.reshape(len(columns), -1)
    return (target - columns @ torch.linalg.lstsq(columns, target).solution).square().sum()
