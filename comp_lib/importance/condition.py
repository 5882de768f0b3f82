"""The condition of a matrix, as a measure of what a neuron is worth.

Context. A dense layer keeps some of its n inputs, and what stays may be re-tuned. Two ways to re-tune, one problem:

    minimise  tr((W - V)^T H (W - V))   over V with V_i = 0 for every input i that goes

* full least squares: H = X^T X + r I and W the layer's weights (n, m);
* mask: H = G + lambda diag(G), G the Gram matrix of contributions, and W = (1, ..., 1)^T (n, 1), V the mask.

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


@dataclass(frozen=True)
class Sweep:
    """One sweep of removals over the blocks of a dense layer."""

    kept: Tensor  # blocks that stay, ascending (k,)
    order: Tensor  # blocks that went, first to last (removed,)
    errors: Tensor  # error after each round, accumulated (rounds,), in units of tr(W^T H W)'s own
    counts: Tensor  # blocks gone after each round (rounds,)
    moved: Tensor  # ||W - V||^2 after each round (rounds,): errors - r * moved is the error without the ridge's part
    scores: Tensor  # importance of every block before anything went (blocks,)
    weights: Tensor  # V (n, m): re-tuned, zero where a block went


def spd_inverse(matrix: Tensor, ridge: float = 0.0) -> tuple[Tensor, float]:
    """Inverse of matrix + ridge I for a symmetric positive semidefinite matrix (n, n), and the ridge really used.

    A ridge too small for the digits at hand is raised tenfold until the factorisation succeeds.
    """
    eye = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    smallest = torch.finfo(matrix.dtype).eps * float(matrix.diagonal().mean().clamp_min(1e-200))
    while True:
        factor, info = torch.linalg.cholesky_ex(matrix + ridge * eye if ridge else matrix)
        if int(info) == 0:
            return torch.cholesky_inverse(factor), ridge
        if not torch.isfinite(matrix).all():
            raise ValueError("expected finite statistics, got NaN or infinity: look at the model and its dtype")
        ridge = max(ridge * 10.0, smallest)


def dual_inverse(x: Tensor, ridge: float) -> Tensor:
    """(X^T X + r I)^-1 (n, n) through a T x T matrix, for fewer tokens than inputs: x (T, n), r > 0.

    (C + r I)^-1 = (I - X^T (r I + X X^T)^-1 X) / r
    """
    inner, _ = spd_inverse(x @ x.T, ridge)  # (T, T)
    eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    return (eye - x.T @ (inner @ x)) / ridge


def condition_numbers(matrix: Tensor, inverse: Tensor) -> Tensor:
    """kappa_i = sqrt(H_ii (H^-1)_ii) for H (n, n) and its inverse: (n,), each at least 1."""
    return (matrix.diagonal() * inverse.diagonal()).clamp_min(1.0).sqrt()


def block_scores(inverse: Tensor, weights: Tensor, block: int = 1) -> Tensor:
    """s_g = tr(W_g^T (P_gg)^-1 W_g) for consecutive blocks of inputs: P (n, n), W (n, m) -> (n / block,)."""
    if block == 1:
        return weights.square().sum(1) / inverse.diagonal()
    count = len(inverse) // block
    index = torch.arange(count, device=inverse.device)
    inner = inverse.reshape(count, block, count, block)[index, :, index, :]  # (blocks, b, b): the diagonal blocks
    rows = weights.reshape(count, block, -1)
    # one by one: the batched solve of PyTorch 2.13 fails with MKL and two threads ("Parameter 6 ... DLASWP")
    solved = torch.stack([torch.linalg.solve(one, those) for one, those in zip(inner, rows, strict=True)])
    return (rows * solved).sum((1, 2))


def sweep(inverse: Tensor, weights: Tensor, remove: int, *, block: int = 1, per_round: int = 32) -> Sweep:
    """Remove `remove` blocks, the least important first, at most `per_round` at a time, re-tuning the rest each time.

    inverse: P = H^-1 (n, n); weights: W (n, m), both float64; neither is changed.
    Time: about 2 n^2 (n + m) / per_round multiplications a block at worst; memory: one copy of each argument.
    """
    inverse, original, weights = inverse.clone(), weights, weights.clone()
    count = len(inverse) // block
    alive = torch.ones(count, dtype=torch.bool, device=inverse.device)
    first = block_scores(inverse, weights, block)
    scores, order, errors, gone, moved = first, [], [], [], []
    total = 0.0
    while len(order) < remove:
        worst = torch.topk(scores.masked_fill(~alive, torch.inf), min(per_round, remove - len(order)), largest=False)
        chosen = worst.indices
        rows = (chosen[:, None] * block + torch.arange(block, device=chosen.device)).flatten()  # inputs that go
        solved = torch.linalg.solve(inverse[rows][:, rows], torch.cat([inverse[rows], weights[rows]], 1))
        down, shift = solved.split([len(inverse), weights.shape[1]], 1)  # (P_RR)^-1 P_R: and (P_RR)^-1 V_R
        total += float((weights[rows] * shift).sum())
        columns = inverse[:, rows].clone()
        inverse.addmm_(columns, down, alpha=-1.0)
        weights.addmm_(columns, shift, alpha=-1.0)
        # exact zeros instead of rounding dust; the unit diagonal keeps the dead blocks' scores finite
        inverse[rows] = 0.0
        inverse[:, rows] = 0.0
        inverse[rows, rows] = 1.0
        weights[rows] = 0.0
        alive[chosen] = False
        order.extend(chosen.tolist())
        errors.append(total)
        gone.append(len(order))
        moved.append(float((original - weights).square().sum()))
        scores = block_scores(inverse, weights, block) if len(order) < remove else scores
    return Sweep(
        kept=alive.nonzero().flatten(),
        order=torch.tensor(order, dtype=torch.long),
        errors=torch.tensor(errors, dtype=torch.float64),
        counts=torch.tensor(gone, dtype=torch.long),
        moved=torch.tensor(moved, dtype=torch.float64),
        scores=first,
        weights=weights,
    )
