"""Solving with the sums: positive definite matrices, ridges, and least squares, in the precision of the sums.

A ridge in this package is always *relative to each input's own energy*: D = lambda diag(C). So a loud input
is held harder, and its units do not matter: with x_i -> c x_i and w_i -> w_i / c, the answer follows as
v_i / c.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ...utils.errors import InputError

INPUTS_PER_UPDATE = 512  # removed inputs after which `MatrixInverse` writes its matrix again


def penalty(energy: Tensor, ridge: float) -> Tensor:
    """D_ii = lambda C_ii (n,) from the diagonal of C or G (n,).

    The energy of a dead input is 0, and it counts as the rounding error of the mean energy. So H = C + D has
    an inverse, and the solve leaves the weights of a dead input as they are. With a penalty of 0, the mask
    factors of dead inputs would become 0, and the variance of the mask would be high for every lambda.
    """
    return ridge * energy.clamp_min(rounding_floor(energy))


def rounding_floor(energy: Tensor) -> float:
    """The rounding error of the mean of energies (n,).

    Where all energies are 0, it is a small positive number, so that an inverse exists all the same.
    """
    info = torch.finfo(energy.dtype)
    return info.eps * max(float(energy.mean()), math.sqrt(info.tiny))


def with_ridge(matrix: Tensor, ridge: float) -> Tensor:
    """H = C + D (n, n), a new matrix, for C or G (n, n)."""
    result = matrix.clone()
    result.diagonal().add_(penalty(matrix.diagonal(), ridge))
    return result


def spd_factor(matrix: Tensor, penalties: Tensor | float = 0.0) -> tuple[Tensor, float]:
    """Cholesky factor L (n, n) of A + D, positive definite, and the multiple of I that had to be added.

    The multiple is 0 as a rule. Where the digits do not suffice for a factor, it is the rounding error of the
    mean energy, or the smallest power of ten times that with which a factor exists.

    Args:
        matrix: A (n, n); D is added to it in place.
        penalties: D_ii (n,), or one number for all.

    Raises InputError where A holds NaN or infinity.
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


def least_squares(xtx: Tensor, xty: Tensor, weight: Tensor, kept_inputs: Tensor, ridge: float) -> Tensor:
    """V (n, m) that minimises ||Y* - X V||^2 + sum_i D_ii ||v_i - w_i||^2 over the kept rows.

    D is lambda diag(C). If an input is rescaled (x_i -> c x_i, w_i -> w_i / c), its v_i is rescaled as w_i
    is, and nothing else changes.

    Args:
        xtx: C (n, n).
        xty: B = X^T Y* (n, m).
        weight: W (n, m).
        kept_inputs: the inputs that stay (k,).
        ridge: lambda, relative to each input's own energy.
    """
    refitted = torch.zeros_like(weight)
    penalties = penalty(xtx.diagonal(), ridge)[kept_inputs]
    refitted[kept_inputs] = ridge_solve(
        xtx[kept_inputs[:, None], kept_inputs], penalties, xty[kept_inputs], weight[kept_inputs]
    )
    return refitted


def ridge_solve(matrix: Tensor, penalties: Tensor, xty: Tensor, weight: Tensor) -> Tensor:
    """(A + D)^-1 (B + D W), (k, m), for A (k, k), D_ii (k,), B and W (k, m); A is used up."""
    factor, added = spd_factor(matrix, penalties)
    del matrix  # as large as the factor
    return factor_solve(factor, xty + (penalties + added)[:, None] * weight)


def keep_rows(weight: Tensor, kept_inputs: Tensor) -> Tensor:
    """W (n, m) with zeros in all rows but those of `kept_inputs` (k,)."""
    remaining = torch.zeros_like(weight)
    remaining[kept_inputs] = weight[kept_inputs]
    return remaining


def diagonal_blocks(matrix: Tensor, block_size: int = 1) -> Tensor:
    """The square blocks on the diagonal: (n, n) -> (n / b, b, b), with b the block size."""
    count = len(matrix) // block_size
    index = torch.arange(count, device=matrix.device)
    return matrix.reshape(count, block_size, count, block_size)[index, :, index, :]


@dataclass(frozen=True)
class InverseRows:
    """Some rows of an inverse P, which `Inverse.rows` reads and `Inverse.remove` takes."""

    index: Tensor
    """The inputs R (r,)."""
    values: Tensor
    """P_R (r, n)."""
    half: Tensor | None = None
    """M X_R D_R^-1 (T, r), in the dual form (`few_tokens`)."""


class Inverse(ABC):
    """P = H^-1 (n, n) for a sweep, which reads its rows and removes inputs."""

    diagonal_blocks: Tensor
    """The diagonal blocks of P (n / b, b, b)."""

    @abstractmethod
    def rows(self, index: Tensor) -> InverseRows:
        """P_R (r, n) for the inputs R (r,); exact zeros in the columns of inputs that went."""

    @abstractmethod
    def remove(self, rows: InverseRows, inner_inverse: Tensor) -> None:
        """Remove the inputs R by the Schur complement P_KK - P_KR (P_RR)^-1 P_RK.

        Args:
            rows: P_R, as `rows` has returned it since the last removal.
            inner_inverse: (P_RR)^-1 (r, r).
        """


class MatrixInverse(Inverse):
    """P as a matrix, from the inverse of C + D or G + D.

    The matrix that it is given is used up. What each round removes from P is kept as two thin factors, and
    subtracted where P is read. So the full matrix is written once for INPUTS_PER_UPDATE removed inputs, not
    once a round.
    """

    def __init__(self, matrix: Tensor, block_size: int = 1) -> None:
        self.matrix = matrix
        self.diagonal_blocks = diagonal_blocks(matrix, block_size)
        self.alive = torch.ones(len(matrix), dtype=matrix.dtype, device=matrix.device)
        # pairs of factors (r, n): P is `matrix` minus left^T right of each
        self.updates: list[tuple[Tensor, Tensor]] = []

    def rows(self, index: Tensor) -> InverseRows:
        values = self.matrix[index]
        for left, right in self.updates:
            values.addmm_(left[:, index].T, right, alpha=-1.0)
        values.mul_(self.alive)  # columns of inputs that went: zeros instead of rounding errors
        return InverseRows(index, values)

    def remove(self, rows: InverseRows, inner_inverse: Tensor) -> None:
        down = inner_inverse @ rows.values
        self.updates.append((rows.values, down))
        if sum(len(left) for left, _ in self.updates) >= INPUTS_PER_UPDATE:
            left, right = map(torch.cat, zip(*self.updates, strict=True))
            self.matrix.addmm_(left.T, right, alpha=-1.0)
            self.updates = []
        downdate(self.diagonal_blocks, rows, down)
        self.alive[rows.index] = 0.0


def downdate(blocks: Tensor, rows: InverseRows, down: Tensor) -> None:
    """Take the inputs R of `rows` out of the diagonal blocks of P (n / b, b, b), in place.

    down: (P_RR)^-1 P_R (r, n).
    """
    index = rows.index
    count, block_size = blocks.shape[:2]
    shape = (len(index), count, block_size)
    blocks -= products_per_block(rows.values.reshape(shape), down.reshape(shape))
    identity = torch.eye(block_size, dtype=blocks.dtype, device=blocks.device)
    blocks[index[::block_size] // block_size] = identity  # so that the scores of removed blocks stay finite


def products_per_block(left: Tensor, right: Tensor) -> Tensor:
    """The products of each block's columns: two of (r, blocks, b) -> (blocks, b, b)."""
    if left.shape[2] == 1:  # thousands of tiny products would take much longer
        return (left * right).sum(0)[:, :, None]
    return torch.einsum("rcb,rcd->cbd", left, right)
