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
from typing import Protocol

import torch
from torch import Tensor


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


def penalty(energy: Tensor, ridge: float) -> Tensor:
    """D_ii = lambda C_ii (n,) from the diagonal of C or G (n,). A dead input (no energy) gets a trace of the mean.

    So H has an inverse, and a dead input keeps its weights: at 0 it would hold a mask's variance up whatever lambda is.
    """
    dead = torch.finfo(energy.dtype).eps * float(energy.mean().clamp_min(1e-200))
    return ridge * energy.clamp_min(dead)


def ridged(matrix: Tensor, ridge: float) -> Tensor:
    """H = C + D for C or G (n, n)."""
    return matrix + torch.diag(penalty(matrix.diagonal(), ridge))


def spd_factor(matrix: Tensor) -> tuple[Tensor, float]:
    """Cholesky factor L (n, n) of a symmetric positive definite matrix, and the multiple of I added in an emergency.

    0 as a rule; where the digits do not suffice, the smallest power of ten times their rounding that does.
    """
    factor, info = torch.linalg.cholesky_ex(matrix)
    added = 0.0
    while int(info) != 0:
        if not torch.isfinite(matrix).all():
            raise ValueError("expected finite statistics, got NaN or infinity: look at the model and its dtype")
        smallest = torch.finfo(matrix.dtype).eps * float(matrix.diagonal().mean().clamp_min(1e-200))
        added = max(added * 10.0, smallest)
        factor, info = torch.linalg.cholesky_ex(matrix + added * torch.eye(len(matrix)).to(matrix))
    return factor, added


def spd_inverse(matrix: Tensor) -> tuple[Tensor, float]:
    """Inverse of a symmetric positive definite matrix (n, n), and what `spd_factor` had to add."""
    factor, added = spd_factor(matrix)
    # a solve with I runs on all cores; `torch.cholesky_inverse` does not, and takes three times as long (n = 1,536)
    return torch.cholesky_solve(torch.eye(len(matrix)).to(matrix), factor), added


def dual_inverse(x: Tensor, penalties: Tensor) -> Tensor:
    """(X^T X + D)^-1 (n, n) through a T x T matrix, for fewer tokens than inputs: x (T, n), D_ii > 0 (n,).

    (C + D)^-1 = D^-1 - D^-1 X^T (I + X D^-1 X^T)^-1 X D^-1
    """
    scaled = x / penalties  # X D^-1
    inner, _ = spd_inverse(torch.eye(len(x)).to(x) + scaled @ x.T)  # (T, T)
    return torch.diag(1.0 / penalties) - scaled.T @ (inner @ scaled)


def condition_numbers(matrix: Tensor, inverse: Tensor) -> Tensor:
    """kappa_i = sqrt(H_ii (H^-1)_ii) for H (n, n) and its inverse: (n,), each at least 1."""
    return (matrix.diagonal() * inverse.diagonal()).clamp_min(1.0).sqrt()


def diagonal_blocks(matrix: Tensor, block: int = 1) -> Tensor:
    """(n, n) -> (n / block, block, block)."""
    count = len(matrix) // block
    index = torch.arange(count, device=matrix.device)
    return matrix.reshape(count, block, count, block)[index, :, index, :]


def block_scores(inverse: Tensor, weights: Tensor, block: int = 1) -> Tensor:
    """s_g = tr(W_g^T (P_gg)^-1 W_g) for consecutive blocks of inputs: P (n, n), W (n, m) -> (n / block,)."""
    return scores_of(diagonal_blocks(inverse, block), weights)


def scores_of(inner: Tensor, weights: Tensor) -> Tensor:
    """`block_scores` from the diagonal blocks P_gg (blocks, b, b)."""
    if inner.shape[1] == 1:
        return torch.linalg.vector_norm(weights, dim=1).square() / inner.flatten()
    rows = weights.reshape(len(inner), inner.shape[1], -1).to(inner)
    # one by one: the batched solve of PyTorch 2.13 fails with MKL and two threads ("Parameter 6 ... DLASWP")
    solved = torch.stack([torch.linalg.solve(one, those) for one, those in zip(inner, rows, strict=True)])
    return (rows * solved).sum((1, 2))


class Inverse(Protocol):
    """P = H^-1 as a sweep sees it: by rows, and without the inputs that went."""

    blocks: Tensor  # its diagonal blocks (n / block, block, block)

    def rows(self, index: Tensor) -> Tensor: ...

    def remove(self, index: Tensor, rows: Tensor, down: Tensor) -> None: ...


class Explicit:
    """P as a matrix (n, n), which is not changed."""

    def __init__(self, matrix: Tensor, block: int = 1) -> None:
        self.matrix, self.block = matrix.clone(), block

    @property
    def blocks(self) -> Tensor:
        return diagonal_blocks(self.matrix, self.block)

    def rows(self, index: Tensor) -> Tensor:
        return self.matrix[index]

    def remove(self, index: Tensor, rows: Tensor, down: Tensor) -> None:
        """P_KK - P_KR (P_RR)^-1 P_RK: rows = P_R (r, n), down = (P_RR)^-1 P_R (r, n)."""
        self.matrix.addmm_(rows.T, down, alpha=-1.0)
        # exact zeros instead of rounding dust; the unit diagonal keeps the dead blocks' scores finite
        self.matrix[index] = 0.0
        self.matrix[:, index] = 0.0
        self.matrix[index, index] = 1.0


def sweep(
    inverse: Tensor | Inverse,
    weights: Tensor,
    remove: int,
    *,
    block: int = 1,
    per_round: int = 32,
    held: Tensor | None = None,
) -> Sweep:
    """Remove `remove` blocks, the least important first, at most `per_round` at a time, re-tuning the rest each time.

    inverse: P = H^-1 (n, n); weights: W (n, m); neither is changed (another kind of `Inverse` is used up). held: D_ii
    (n,), what H has beyond the data, for `Sweep.moved`; None: nothing. Time: about n (n + m) multiplications for each
    input that goes; memory: one copy of each argument.
    """
    inverse = Explicit(inverse, block) if isinstance(inverse, Tensor) else inverse
    original, weights = weights, weights.clone()
    inputs, outputs = weights.shape
    alive = torch.ones(inputs // block, dtype=torch.bool, device=weights.device)
    first = scores_of(inverse.blocks, weights)
    scores, order, errors, gone, moved = first, [], [], [], []
    total = 0.0
    while len(order) < remove:
        worst = torch.topk(scores.masked_fill(~alive, torch.inf), min(per_round, remove - len(order)), largest=False)
        chosen = worst.indices
        rows = (chosen[:, None] * block + torch.arange(block, device=chosen.device)).flatten()  # inputs that go
        own = inverse.rows(rows)  # P_R (r, n)
        solved = torch.linalg.solve(own[:, rows], torch.cat([own, weights[rows]], 1))
        down, shift = solved.split([inputs, outputs], 1)  # (P_RR)^-1 P_R: and (P_RR)^-1 V_R
        total += float((weights[rows] * shift).sum())
        inverse.remove(rows, own, down)
        weights.addmm_(own.T.to(weights), shift.to(weights), alpha=-1.0)
        weights[rows] = 0.0
        alive[chosen] = False
        order.extend(chosen.tolist())
        errors.append(total)
        gone.append(len(order))
        moved.append(0.0 if held is None else float(held @ (original - weights).square().sum(1)))
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
