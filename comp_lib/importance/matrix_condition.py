"""The condition of a matrix, as a measure of what a neuron is worth.

Context. A dense layer keeps some of its n inputs, and what stays may be re-tuned. Two ways to re-tune, one problem:

    minimise  tr((W - V)^T H (W - V))   over V with V_i = 0 for every input i that goes

* full least squares: H = C + D, C = X^T X, and W the layer's weights (n, m);
* mask: H = G + D, G the Gram matrix of contributions, and W = (1, ..., 1)^T (n, 1), V the mask.

D = lambda diag(C), or lambda diag(G), holds V at W: sum_i D_ii ||w_i - v_i||^2, in proportion to each input's own
energy. So a loud input is held harder, and its units do not matter: with x_i -> c x_i and w_i -> w_i / c, v_i follows
as v_i / c, and scores and errors stay (with a ridge r I they would not).

Intuition. Removing i hurts as much as the others are unable to reproduce it. With P = H^-1,

    kappa_i = sqrt(H_ii P_ii) >= 1        individual condition number (Stewart's collinearity index, 1987)
    s_i     = ||w_i||^2 / P_ii            = energy / kappa_i^2 = exactly the error left after the others are re-tuned

and for a block g of inputs that go together (a KV group): s_g = tr(W_g^T (P_gg)^-1 W_g).

Rounds. After a removal the survivors' best weights and their inverse follow without a new factorisation:

    V_K = V_K - P_KR (P_RR)^-1 V_R        P_KK = P_KK - P_KR (P_RR)^-1 P_RK        (Schur complement)

so one sweep gives the order of removal, the error after each round, and the weights re-tuned so far. This is our
derivation (the paper's text was not at hand); every formula is tested against brute force.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..statistics.solve import Inverse, spd_inverse


@dataclass(frozen=True)
class Sweep:
    """One sweep of removals over the blocks of a dense layer."""

    kept: Tensor  # blocks that stay, ascending (k,)
    order: Tensor  # blocks that went, first to last (removed,)
    errors: Tensor  # tr((W - V)^T H (W - V)) after each round (rounds,): the error and the ridge's penalty
    counts: Tensor  # blocks gone after each round (rounds,)
    moved: Tensor  # that penalty, sum_i D_ii ||w_i - v_i||^2 (rounds,): errors - moved is the error on the data alone
    scores: Tensor  # importance of every block before anything went (blocks,)
    weights: Tensor  # V (n, m): re-tuned, zero where a block went


def condition_numbers(matrix: Tensor, inverse: Tensor) -> Tensor:
    """kappa_i = sqrt(H_ii (H^-1)_ii) for H (n, n) and its inverse: (n,), each at least 1."""
    return (matrix.diagonal() * inverse.diagonal()).clamp_min(1.0).sqrt()


def scores_of(inner: Tensor, weights: Tensor) -> Tensor:
    """s_g = tr(W_g^T (P_gg)^-1 W_g) for consecutive blocks of inputs: P_gg (blocks, b, b), W (n, m) -> (blocks,)."""
    if inner.shape[1] == 1:
        norms: Tensor = torch.linalg.vector_norm(weights, dim=1)  # makes no copy of all weights
        return norms.square() / inner.flatten()
    rows = weights.reshape(len(inner), inner.shape[1], -1).to(inner)
    # one by one: the batched solve of PyTorch 2.13 fails with MKL and two threads ("Parameter 6 ... DLASWP")
    solved = torch.stack([torch.linalg.solve(block, row) for block, row in zip(inner, rows, strict=True)])
    return (rows * solved).sum((1, 2))


def pull(held: Tensor, weights: Tensor, moved: Tensor) -> float:
    """sum_i D_ii ||w_i - v_i||^2 for D_ii (n,), W and V (n, m), in parts: W - V would be as large as the weights."""
    parts = zip(*(each.split(512) for each in (held, weights, moved)), strict=True)
    return sum(float(each @ (old - new).square().sum(1).to(each)) for each, old, new in parts)


def sweep(
    inverse: Tensor | Inverse,
    weights: Tensor,
    remove: int,
    *,
    block: int = 1,
    per_round: int | None = None,
    held: Tensor | None = None,
) -> Sweep:
    """Remove `remove` blocks, the least important first, at most `per_round` at a time, re-tuning the rest each time.

    per_round: None is 32, or a 64th of all blocks where that is more.
    inverse: P = H^-1 (n, n); weights: W (n, m); neither is changed (another kind of `Inverse` is used up). held: D_ii
    (n,), what H has beyond the data, for `Sweep.moved`; None: nothing. Time: about n (n + m) multiplications for each
    input that goes; memory: one copy of each argument.
    """
    inverse = Inverse(inverse.clone(), block) if isinstance(inverse, Tensor) else inverse
    original, weights = (
        weights,
        weights.clone(memory_format=torch.contiguous_format),
    )  # norms of rows, in each round
    alive = torch.ones(len(weights) // block, dtype=torch.bool, device=weights.device)
    per_round = per_round or max(32, len(alive) // 64)
    first = scores_of(inverse.blocks, weights)
    scores, total = first, 0.0
    order: list[int] = []
    errors, gone, moved = [], [], []
    while len(order) < remove:
        worst = torch.topk(
            scores.masked_fill(~alive, torch.inf), min(per_round, remove - len(order)), largest=False
        )
        chosen = worst.indices
        rows = (
            chosen[:, None] * block + torch.arange(block, device=chosen.device)
        ).flatten()  # inputs that go
        own, theirs = inverse.rows(rows), weights[rows]  # P_R (r, n), V_R (r, m)
        inner, _ = spd_inverse(own[:, rows])  # (P_RR)^-1, small: the rest are products
        shift = inner @ theirs.to(inner)  # (P_RR)^-1 V_R
        total += float((theirs * shift).sum())
        inverse.remove(rows, own, inner)
        weights.addmm_(own.to(weights).T, shift.to(weights), alpha=-1.0)
        weights[rows] = 0.0
        alive[chosen] = False
        order.extend(chosen.tolist())
        errors.append(total)
        gone.append(len(order))
        moved.append(0.0 if held is None else pull(held, original, weights))
        scores = scores_of(inverse.blocks, weights) if len(order) < remove else scores
    return Sweep(
        kept=alive.nonzero().flatten(),
        order=torch.tensor(order, dtype=torch.long),
        errors=torch.tensor(errors, dtype=torch.float64),
        counts=torch.tensor(gone, dtype=torch.long),
        moved=torch.tensor(moved, dtype=torch.float64),
        scores=first,
        weights=weights,
    )
