"""The dual form: for fewer tokens than inputs, T x T matrices instead of n x n.

At 7B a dense layer has n = 11,008 inputs, and C = X^T X alone takes 1 GB; 1,024 calibration tokens are 45 MB, and say
the same. So the tokens themselves are kept, and every formula of the method but the mask's is solved through

    M = (I + X D^-1 X^T)^-1   (T, T),        P = (C + D)^-1 = D^-1 - D^-1 X^T M X D^-1:

* a row of P costs a product with M; after a round R of removals, with Z = M X_R D_R^-1,
      M = M + Z (P_RR)^-1 Z^T                      which is M of the columns that are left;
* the survivors' weights, with E = Y* - X_K W_K and K = X_K D_K^-1 X_K^T:
      V_K = W_K + D_K^-1 X_K^T (I + K)^-1 E;
* what they do on other tokens X':  X' V = X'_K W_K + X'_K D_K^-1 X_K^T (I + K)^-1 E: no n x m matrix at all.

The results are those of the n x n forms, up to rounding. (Our derivation, tested against them. The mask problem has no
such form: the rank of C o W W^T is not bounded by T.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from .gram import Sums
from .products import between_rows
from .solve import Inverse, identity, penalty, products_per_block, spd_factor, take_out

if TYPE_CHECKING:
    from typing_extensions import Self

PART = 64  # tokens whose squares are there in float64 at once


@dataclass
class Rows(Sums):
    """`Gram` for fewer tokens than inputs: the weighted tokens themselves."""

    squares: Tensor  # C_ii (n,), float64
    rows: Tensor  # X (T, n), float32
    outputs: Tensor | None = None  # Y* (T, m), float32; None: the target is the layer's own output, X W

    precision: ClassVar[torch.dtype] = torch.float32
    compact: ClassVar[bool] = True

    @classmethod
    def zeros(cls, inputs: int, outputs: int | None = None, device: torch.device | str = "cpu") -> Self:
        x, squares, ones = (
            torch.zeros(size, dtype=torch.float64, device=device) for size in (inputs, inputs, inputs + 1)
        )
        y = None if outputs is None else torch.zeros(0, outputs, device=device)
        return cls(x, ones, 0, squares, torch.zeros(0, inputs, device=device), y)

    def add(self, x: Tensor, target: Tensor | None = None, weight: Tensor | None = None) -> None:
        x, one = self._weighted(x, weight)
        self.squares += sum(part.double().square().sum(0) for part in x.split(PART))
        self.rows = torch.cat([self.rows, x])
        if target is not None and self.outputs is not None:
            self.outputs = torch.cat([self.outputs, target.detach().flatten(0, -2).float() * one[:, None]])
        elif (target is None) != (self.outputs is None):
            raise ValueError("expected a target exactly when the sums were made for one")

    def __add__(self, other: Self) -> Self:
        y = None if self.outputs is None or other.outputs is None else torch.cat([self.outputs, other.outputs])
        sums = self.x + other.x, self.ones + other.ones, self.tokens + other.tokens
        return type(self)(*sums, self.squares + other.squares, torch.cat([self.rows, other.rows]), y)

    @property
    def own_target(self) -> bool:
        return self.outputs is None

    def diagonal(self) -> Tensor:
        return self.squares

    def matrix(self) -> Tensor:
        return self.rows.double().T @ self.rows.double()

    def energy(self, gap: Tensor) -> float:
        return float((self.rows @ gap.float()).double().square().sum())

    def energies(self, weight: Tensor, other: Tensor) -> tuple[float, float]:
        own, theirs = self.rows @ weight.float(), self.rows @ other.float()  # W - V would be as large as the weights
        return float(own.double().square().sum()), float((own - theirs).double().square().sum())

    def inverse(self, ridge: float, block: int = 1) -> Inverse:
        return DualInverse(self.rows, penalty(self.diagonal(), ridge), block)

    def refit(self, weight: Tensor, kept: Tensor, ridge: float) -> Tensor:
        unit = penalty(self.diagonal(), 1.0)[kept]
        even = _even(self.rows[:, kept], unit)
        factor, _ = spd_factor(between_rows(even, even) + ridge * identity(len(even), unit))
        missing = torch.cholesky_solve(self.gap(weight, kept), factor).to(weight)  # (T, m)
        moved = (even.to(weight).T @ missing).div_(_root(unit).to(weight)[:, None])  # as large as the weights, (k, m)
        fitted = torch.zeros_like(weight)
        fitted[kept] = moved.add_(weight[kept])
        return fitted

    def held_out_errors(self, held: Self, weight: Tensor, kept: Tensor, ridges: Sequence[float]) -> list[float]:
        unit = penalty(self.diagonal(), 1.0)[kept]
        even, other = _even(self.rows[:, kept], unit), _even(held.rows[:, kept], unit)
        inner, outer = between_rows(even, even), between_rows(other, even)  # (T, T), (T', T)
        missing, judged = self.gap(weight, kept), held.gap(weight, kept)
        whole = float((held.rows @ weight.float() if held.outputs is None else held.outputs).double().square().sum())
        errors = []
        for ridge in ridges:
            factor, _ = spd_factor(inner + ridge * identity(len(inner), inner))
            errors.append(float((judged - outer @ torch.cholesky_solve(missing, factor)).square().sum()) - whole)
        return errors

    def mixed(self, mix: Tensor) -> Self:
        return replace(self, outputs=None if self.outputs is None else self.outputs @ mix.to(self.outputs))

    def gap(self, weight: Tensor, kept: Tensor) -> Tensor:
        """E = Y* - X_K W_K (T, m), float64: what the kept inputs with their old weights W (n, m) leave open."""
        if self.outputs is not None:
            return (self.outputs - self.rows[:, kept] @ weight[kept].float()).double()
        gone = torch.ones(len(weight), dtype=torch.bool, device=weight.device)
        gone[kept] = False
        return (self.rows[:, gone] @ weight[gone].float()).double()


class DualInverse:
    """P = (X^T X + D)^-1 given by X (T, n) and D_ii (n,), for `importance.matrix_condition.sweep`."""

    def __init__(self, x: Tensor, penalties: Tensor, block: int = 1) -> None:
        even = _even(x, penalties)
        factor, _ = spd_factor(between_rows(even, even) + identity(len(x), penalties))
        self.free, self.scaled = 1.0 / penalties, x / penalties  # D^-1 (n,), X D^-1 (T, n)
        # L^-1 X D^-1 through its transpose, whose rows lie in the order in which LAPACK reads columns
        half = torch.linalg.solve_triangular(factor.T, self.scaled.T, upper=True, left=False).T
        half = half.reshape(len(x), -1, block)
        # diagonal blocks of P (n / block, block, block)
        self.blocks = -products_per_block(half, half)
        self.blocks.diagonal(dim1=1, dim2=2).add_(self.free.reshape(-1, block))
        del half  # as large as all tokens
        self.inner = torch.cholesky_inverse(factor)  # M (T, T)
        self.half = self.scaled[:, :0]  # M X_R D_R^-1 of the rows R that were asked for last (T, r)

    def diagonal(self) -> Tensor:
        return self.blocks.diagonal(dim1=1, dim2=2).flatten()

    def rows(self, index: Tensor) -> Tensor:
        """P_R (r, n); zero in the columns of inputs that went."""
        self.half = self.inner @ self.scaled[:, index]
        rows = -(self.half.T @ self.scaled)
        rows[torch.arange(len(index), device=index.device), index] += self.free[index]
        return rows

    def remove(self, index: Tensor, rows: Tensor, inner: Tensor) -> None:
        """Take out the inputs R, whose rows were asked for last: P_R (r, n), inner = (P_RR)^-1 (r, r)."""
        self.inner.addmm_(self.half, inner @ self.half.T)
        take_out(self.blocks, index, rows, inner @ rows)
        self.scaled[:, index] = 0.0


def _root(held: Tensor) -> Tensor:
    """D^1/2 (n,), float32; where nothing ever comes in, the least number there is: 0 divided by that is 0."""
    return held.sqrt().float().clamp_min(torch.finfo(torch.float32).tiny)


def _even(x: Tensor, held: Tensor) -> Tensor:
    """X D^-1/2 (T, n), float32, for X (T, n) and D_ii (n,)."""
    return x.float() / _root(held)
