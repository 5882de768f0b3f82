"""Solving with the sums: positive definite matrices, ridges, and least squares, in float64.

A ridge in this package is always *relative to each input's own energy*: D = lambda diag(C). So a loud input is held
harder, and its units do not matter: with x_i -> c x_i and w_i -> w_i / c the answer follows as v_i / c.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ..errors import InputError

COLUMNS = 1024  # of an inverse, computed at a time
SMALLEST = 256  # triangle that is inverted as a whole


def penalty(energy: Tensor, ridge: float) -> Tensor:
    """D_ii = lambda C_ii (n,) from the diagonal of C or G (n,). A dead input (no energy) gets a trace of the mean.

    So H has an inverse, and a dead input keeps its weights: at 0 it would hold a mask's variance up whatever lambda is.
    """
    dead = torch.finfo(energy.dtype).eps * float(energy.mean().clamp_min(1e-200))
    return ridge * energy.clamp_min(dead)


def ridged(matrix: Tensor, ridge: float) -> Tensor:
    """H = C + D for C or G (n, n)."""
    held = matrix.clone()
    held.diagonal().add_(penalty(matrix.diagonal(), ridge))
    return held


def identity(size: int, like: Tensor) -> Tensor:
    """I (size, size), made where `like` is and as exact: none is made here first and sent to another device."""
    return torch.eye(size, dtype=like.dtype, device=like.device)


def spd_factor(matrix: Tensor) -> tuple[Tensor, float]:
    """Cholesky factor L (n, n) of a symmetric positive definite matrix, and the multiple of I added in an emergency.

    0 as a rule; where the digits do not suffice, the smallest power of ten times their rounding that does.
    """
    factor, info = torch.linalg.cholesky_ex(matrix)
    added = 0.0
    while int(info) != 0:
        if not torch.isfinite(matrix).all():
            raise InputError("expected finite statistics, got NaN or infinity: look at the model, or try dtype float32")
        smallest = torch.finfo(matrix.dtype).eps * float(matrix.diagonal().mean().clamp_min(1e-200))
        added = max(added * 10.0, smallest)
        factor, info = torch.linalg.cholesky_ex(matrix + added * identity(len(matrix), matrix))
    return factor, added


def spd_inverse(matrix: Tensor) -> tuple[Tensor, float]:
    """Inverse of a symmetric positive definite matrix (n, n), and what `spd_factor` had to add."""
    factor, added = spd_factor(matrix)
    del matrix  # perhaps the last to know of it: one n x n matrix less at the highest point
    return inverse_of_factor(factor), added


def inverse_of_factor(factor: Tensor) -> Tensor:
    """(L L^T)^-1 (n, n) from the Cholesky factor L (n, n), which is used up.

    The inverse of L in place, then the product of its blocks: n^3 / 3 multiply-adds together, in large products that
    run on all cores. `torch.cholesky_inverse` does not run so, and a solve with I takes three times the operations.
    """
    _invert_triangle(factor)
    inverse = torch.empty_like(factor)
    for start in range(0, len(factor), COLUMNS):
        stop = min(start + COLUMNS, len(factor))
        torch.mm(factor[start:, :stop].mT, factor[start:, start:stop], out=inverse[:stop, start:stop])
        inverse[start:stop, :start] = inverse[:start, start:stop].mT
    return inverse


def _invert_triangle(lower: Tensor) -> None:
    """L (n, n) becomes its inverse: that of both triangles on its diagonal, and -L22^-1 L21 L11^-1 below."""
    size = len(lower)
    if size <= SMALLEST:
        lower.copy_(torch.linalg.solve_triangular(lower, identity(size, lower), upper=False))
        return
    half = size // 2
    first, below, second = lower[:half, :half], lower[half:, :half], lower[half:, half:]
    _invert_triangle(first)
    _invert_triangle(second)
    below.copy_(second @ below @ first).neg_()


def dual_inverse(x: Tensor, penalties: Tensor) -> Tensor:
    """(X^T X + D)^-1 (n, n) through a T x T matrix, for fewer tokens than inputs: x (T, n), D_ii > 0 (n,).

    (C + D)^-1 = D^-1 - D^-1 X^T (I + X D^-1 X^T)^-1 X D^-1
    """
    scaled = x / penalties  # X D^-1
    inner, _ = spd_inverse(identity(len(x), x) + scaled @ x.T)  # (T, T)
    return torch.diag(1.0 / penalties) - scaled.T @ (inner @ scaled)


def least_squares(xtx: Tensor, target: Tensor, weight: Tensor, kept: Tensor, ridge: float) -> Tensor:
    """V (n, m) minimising ||Y* - X V||^2 + sum_i D_ii ||v_i - w_i||^2 over the kept rows, D = lambda diag(C).

    xtx: C (n, n); target: B = X^T Y* (n, m); weight: W (n, m); kept (k,); ridge: lambda, relative to each input's own
    energy. Rescaling an input (x_i -> c x_i, w_i -> w_i / c) rescales its v_i alike and changes nothing else.
    """
    held = penalty(xtx.diagonal(), ridge)[kept]
    inner = xtx[kept][:, kept]
    inner.diagonal().add_(held)
    factor, added = spd_factor(inner)
    del inner  # as large as the factor
    fitted = torch.zeros_like(weight)
    fitted[kept] = torch.cholesky_solve(target[kept] + (held + added)[:, None] * weight[kept], factor)
    return fitted


def diagonal_blocks(matrix: Tensor, block: int = 1) -> Tensor:
    """(n, n) -> (n / block, block, block)."""
    count = len(matrix) // block
    index = torch.arange(count, device=matrix.device)
    return matrix.reshape(count, block, count, block)[index, :, index, :]


class Inverse(Protocol):
    """P = H^-1 as a sweep sees it: by rows, and without the inputs that went."""

    @property
    def blocks(self) -> Tensor:
        """Its diagonal blocks (n / block, block, block)."""

    def diagonal(self) -> Tensor:
        """P_ii (n,)."""

    def rows(self, index: Tensor) -> Tensor:
        """P_R (r, n)."""

    def remove(self, index: Tensor, rows: Tensor, down: Tensor) -> None:
        """Take out the inputs R: rows = P_R (r, n), down = (P_RR)^-1 P_R (r, n)."""


class ExplicitInverse:
    """P as a matrix (n, n), which is used up."""

    def __init__(self, matrix: Tensor, block: int = 1) -> None:
        self.matrix, self.block = matrix, block

    @property
    def blocks(self) -> Tensor:
        return diagonal_blocks(self.matrix, self.block)

    def diagonal(self) -> Tensor:
        return self.matrix.diagonal()

    def rows(self, index: Tensor) -> Tensor:
        return self.matrix[index]

    def remove(self, index: Tensor, rows: Tensor, down: Tensor) -> None:
        """The Schur complement P_KK - P_KR (P_RR)^-1 P_RK."""
        self.matrix.addmm_(rows.T, down, alpha=-1.0)
        # exact zeros instead of rounding dust; the unit diagonal keeps the dead blocks' scores finite
        self.matrix[index] = 0.0
        self.matrix[:, index] = 0.0
        self.matrix[index, index] = 1.0
