"""Solving with the sums: positive definite matrices, ridges, and least squares, in the precision of the sums.

A ridge in this package is always *relative to each input's own energy*: D = lambda diag(C). So a loud input
is held harder, and its units do not matter: with x_i -> c x_i and w_i -> w_i / c the answer follows as v_i /
c.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import InputError

INPUTS_PER_UPDATE = 512  # that `Inverse` removes before it writes its matrix again


def penalty(energy: Tensor, ridge: float) -> Tensor:
    """D_ii = lambda C_ii (n,) from the diagonal of C or G (n,).

    A dead input (no energy) gets a trace of the mean. So H has an inverse, and a dead input keeps its
    weights: at 0 it would keep the variance of a mask high, whatever lambda is.
    """
    return ridge * energy.clamp_min(rounding_floor(energy))


def rounding_floor(energy: Tensor) -> float:
    """The rounding error of the mean of energies (n,).

    Where all are 0, it is a number with which an inverse still exists.
    """
    info = torch.finfo(energy.dtype)
    return info.eps * max(float(energy.mean()), math.sqrt(info.tiny))


def ridged(matrix: Tensor, ridge: float) -> Tensor:
    """H = C + D for C or G (n, n)."""
    result = matrix.clone()
    result.diagonal().add_(penalty(matrix.diagonal(), ridge))
    return result


def spd_factor(matrix: Tensor, penalties: Tensor | float = 0.0) -> tuple[Tensor, float]:
    """Cholesky factor L (n, n) of A + D, positive definite, and the multiple of I that had to be added.

    matrix: A (n, n), to which D is added in place; penalties: D_ii (n,), or one number for all. The multiple
    is 0 as a rule. Where the digits do not suffice, it is the smallest power of ten times their rounding
    error that does.
    """
    matrix.diagonal().add_(penalties)
    factor, info = torch.linalg.cholesky_ex(matrix)
    added = 0.0
    while info != 0 or factor.diagonal().isnan().any():  # LAPACK reports a NaN in `info`, cuSOLVER does not
        if not torch.isfinite(matrix).all():
            raise InputError(
                expected="finite statistics",
                got="NaN or infinity",
                hint="look at the model, or try dtype float32",
            )
        added = max(added * 10.0, rounding_floor(matrix.diagonal()))
        identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
        factor, info = torch.linalg.cholesky_ex(matrix + added * identity)
    return factor, added


def factor_solve(factor: Tensor, right: Tensor) -> Tensor:
    """A^-1 B (n, m) from the Cholesky factor L (n, n) of A.

    Unlike torch.cholesky_solve, it makes no copy of L.
    """
    half_solved = torch.linalg.solve_triangular(factor, right, upper=False)
    solved: Tensor = torch.linalg.solve_triangular(factor.T, half_solved, upper=True)
    return solved


def spd_inverse(matrix: Tensor) -> tuple[Tensor, float]:
    """Inverse of a symmetric positive definite matrix (n, n), and the multiple of I that was added."""
    factor, added = spd_factor(matrix)
    del matrix  # this may be its last reference: one n x n matrix less at the peak of memory
    return torch.cholesky_inverse(factor), added


def least_squares(xtx: Tensor, target: Tensor, weight: Tensor, kept: Tensor, ridge: float) -> Tensor:
    """V (n, m) minimising ||Y* - X V||^2 + sum_i D_ii ||v_i - w_i||^2 over the kept rows, D = lambda diag(C).

    xtx: C (n, n); target: B = X^T Y* (n, m); weight: W (n, m); kept (k,); ridge: lambda, relative to each
    input's own energy. Rescaling an input (x_i -> c x_i, w_i -> w_i / c) rescales its v_i alike and changes
    nothing else.
    """
    fitted = torch.zeros_like(weight)
    penalties = penalty(xtx.diagonal(), ridge)[kept]
    fitted[kept] = ridge_solve(xtx[kept[:, None], kept], penalties, target[kept], weight[kept])
    return fitted


def ridge_solve(inner: Tensor, penalties: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """(A + D)^-1 (B + D W) for A (k, k), which is used up, D_ii (k,), B and W (k, m): (k, m)."""
    factor, added = spd_factor(inner, penalties)
    del inner  # as large as the factor
    return torch.cholesky_solve(target + (penalties + added)[:, None] * weight, factor)


def diagonal_blocks(matrix: Tensor, block: int = 1) -> Tensor:
    """The square blocks on the diagonal: (n, n) -> (n / block, block, block)."""
    count = len(matrix) // block
    index = torch.arange(count, device=matrix.device)
    return matrix.reshape(count, block, count, block)[index, :, index, :]


class Inverse:
    """P = H^-1 (n, n) as a sweep sees it, by rows and without the inputs that went. The matrix is used up.

    What each round removes from P is kept as two thin factors, and subtracted where P is read. So the full
    matrix is written once for INPUTS_PER_UPDATE removed inputs, not once a round.
    """

    def __init__(self, matrix: Tensor, block: int = 1) -> None:
        self.matrix = matrix
        self.blocks = diagonal_blocks(matrix, block)
        self.alive = torch.ones(len(matrix), dtype=matrix.dtype, device=matrix.device)
        # pairs of factors (r, n): P is `matrix` minus left^T right of each
        self.updates: list[tuple[Tensor, Tensor]] = []

    def rows(self, index: Tensor) -> Tensor:
        """P_R (r, n); exact zeros in the columns of inputs that went, instead of rounding errors."""
        rows = self.matrix[index]
        for left, right in self.updates:
            rows.addmm_(left[:, index].T, right, alpha=-1.0)
        return rows.mul_(self.alive)

    def remove(self, index: Tensor, rows: Tensor, inner: Tensor) -> None:
        """Remove the inputs R by the Schur complement P_KK - P_KR (P_RR)^-1 P_RK.

        rows: P_R (r, n), which `rows` returned last; inner: (P_RR)^-1 (r, r).
        """
        down = inner @ rows
        self.updates.append((rows, down))
        if sum(len(left) for left, _ in self.updates) >= INPUTS_PER_UPDATE:
            left, right = map(torch.cat, zip(*self.updates, strict=True))
            self.matrix.addmm_(left.T, right, alpha=-1.0)
            self.updates = []
        downdate(self.blocks, index, rows, down)
        self.alive[index] = 0.0


def downdate(blocks: Tensor, index: Tensor, rows: Tensor, down: Tensor) -> None:
    """Take the inputs R out of the diagonal blocks of P (n / b, b, b), in place.

    index: R (r,); rows: P_R (r, n); down: (P_RR)^-1 P_R (r, n).
    """
    count, block = blocks.shape[:2]
    split = (len(index), count, block)
    blocks -= products_per_block(rows.reshape(split), down.reshape(split))
    identity = torch.eye(block, dtype=blocks.dtype, device=blocks.device)
    blocks[index[::block] // block] = identity  # so that the scores of removed blocks stay finite


def products_per_block(left: Tensor, right: Tensor) -> Tensor:
    """The products of each block's columns: two of (r, blocks, b) -> (blocks, b, b)."""
    if left.shape[2] == 1:  # as thousands of tiny products it would take much longer
        return (left * right).sum(0)[:, :, None]
    return torch.einsum("rcb,rcd->cbd", left, right)
