"""The dual form: for few tokens beside many inputs, T x T matrices instead of n x n.

At 7B a dense layer has n = 11,008 inputs, and C = X^T X alone takes 0.5 GB; 1,024 calibration tokens are 45 MB, and say
the same. So the tokens themselves are kept, and every formula of the method but the mask's is solved through

    M = (I + X D^-1 X^T)^-1   (T, T),        P = (C + D)^-1 = D^-1 - D^-1 X^T M X D^-1:

* a row of P costs a product with M; after a round R of removals, with Z = M X_R D_R^-1,
      M = M + Z (P_RR)^-1 Z^T                      which is M of the columns that are left;
* the survivors' weights, with E = Y* - X_K W_K and K = X_K D_K^-1 X_K^T:
      V_K = W_K + D_K^-1 X_K^T (I + K)^-1 E;
* what they do on other tokens X':  X' V = X'_K W_K + X'_K D_K^-1 X_K^T (I + K)^-1 E: no n x m matrix at all.

The processor multiplies float32 twice as fast as float64, and what comes out is as exact as what went in if the sums
are short: they are of at most TERMS terms in float32, and added in float64.

The results are those of the n x n forms, up to rounding. (Our derivation, tested against them. The mask problem has no
such form: the rank of C o W W^T is not bounded by T.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import Self

from .gram import Statistics
from .solve import Inverse, downdate, factor_solve, penalty, products_per_block, spd_factor

TERMS = 1024  # of a sum in float32
PART = 64  # tokens whose squares are there in float64 at once
PANEL = 256  # inputs of which all tokens are there in float64 at once


@dataclass
class TokenStatistics(Statistics):
    """`Gram` for few tokens beside many inputs: the weighted tokens themselves."""

    outside: Tensor | None  # Y* (T, m), float32
    squares: Tensor  # C_ii (n,), float64
    rows: Tensor  # X (T, n), float32

    @property
    def precision(self) -> torch.dtype:
        return self.rows.dtype

    @classmethod
    def zeros(cls, inputs: int, outputs: int | None = None, device: torch.device | str = "cpu") -> Self:
        x = torch.zeros(inputs, dtype=torch.float64, device=device)
        y = None if outputs is None else torch.zeros(0, outputs, device=device)
        return cls(
            x, x.new_zeros(inputs + 1), 0, y, x.new_zeros(inputs), torch.zeros(0, inputs, device=device)
        )

    def gather(self, x: Tensor, y: Tensor | None) -> None:
        self.squares += sum(part.double().square().sum(0) for part in x.split(PART))
        self.rows = torch.cat([self.rows, x])
        if y is not None and self.outside is not None:
            self.outside = torch.cat([self.outside, y])

    def __add__(self, other: Self) -> Self:
        y = (
            None
            if self.outside is None or other.outside is None
            else torch.cat([self.outside, other.outside])
        )
        sums = self.x + other.x, self.ones + other.ones, self.tokens + other.tokens
        return type(self)(*sums, y, self.squares + other.squares, torch.cat([self.rows, other.rows]))

    def diagonal(self) -> Tensor:
        return self.squares

    def matrix(self) -> Tensor:
        return self.rows.double().T @ self.rows.double()

    def energy(self, gap: Tensor) -> float:
        gap = gap.float()
        return sum(float((rows @ gap).double().square().sum()) for rows in self.rows.split(TERMS))

    def energies(self, weight: Tensor, other: Tensor) -> tuple[float, float]:
        weight, other, own, moved = weight.float(), other.float(), 0.0, 0.0
        for rows in self.rows.split(TERMS):  # W - V would be as large as the weights
            before = rows @ weight
            own += float(before.double().square().sum())
            moved += float((before - rows @ other).double().square().sum())
        return own, moved

    def inverse(self, ridge: float, block: int = 1) -> Inverse:
        return DualInverse(self.rows, penalty(self.diagonal(), ridge), block)

    def refit(self, weight: Tensor, kept: Tensor, ridge: float) -> Tensor:
        root = _root(penalty(self.squares, 1.0)[kept])  # diag(C)^1/2 (k,)
        factor, _ = spd_factor(between_rows(self.rows, self.rows, root, kept), ridge)
        missing = self.rows.new_empty(len(self.rows), weight.shape[1])  # (I + K)^-1 E (T, m)
        for part in panels(weight.shape[1], TERMS):
            missing[:, part] = factor_solve(factor, self.gap(weight, kept, part))
        del factor  # as large as the weights that come now
        fitted = torch.zeros_like(weight)
        for part in panels(len(kept), TERMS):
            inputs, own = kept[part], root[part]
            moved = ((self.rows[:, inputs] / own).T @ missing).div_(own[:, None])
            fitted[inputs] = moved.to(weight).add_(weight[inputs])
        return fitted

    def held_out_errors(
        self, held: Self, weight: Tensor, kept: Tensor, ridges: Sequence[float]
    ) -> list[float]:
        root = _root(penalty(self.squares, 1.0)[kept])
        inner = between_rows(self.rows, self.rows, root, kept)  # (T, T)
        outer = between_rows(held.rows, self.rows, root, kept)  # (T', T)
        missing, judged = self.gap(weight, kept), held.gap(weight, kept)
        whole = float(
            (held.rows @ weight.float() if held.outside is None else held.outside).double().square().sum()
        )
        errors = []
        for ridge in ridges:
            factor, _ = spd_factor(inner.clone(), ridge)
            errors.append(float((judged - outer @ factor_solve(factor, missing)).square().sum()) - whole)
        return errors

    def gap(self, weight: Tensor, kept: Tensor, outputs: slice = slice(None)) -> Tensor:
        """E = Y* - X_K W_K (T, m), float64: what the kept inputs with their old weights W (n, m) leave open.

        outputs: some of them, for a part of E.
        """
        weight = weight[:, outputs]
        if self.outside is not None:
            return (self.outside[:, outputs] - self._through(weight, kept)).double()
        gone = torch.ones(len(weight), dtype=torch.bool, device=weight.device)
        gone[kept] = False
        return self._through(weight, gone.nonzero().flatten()).double()

    def _through(self, weight: Tensor, inputs: Tensor) -> Tensor:
        """X_I W_I (T, m), float32, for some inputs I: of neither a copy is made as a whole."""
        total = self.rows.new_zeros(len(self.rows), weight.shape[1])
        for part in inputs.split(TERMS):
            total.addmm_(self.rows[:, part], weight[part].float())
        return total


class DualInverse(Inverse):
    """P = (X^T X + D)^-1 given by X (T, n) and D_ii (n,), for `importance.matrix_condition.sweep`."""

    def __init__(self, x: Tensor, penalties: Tensor, block: int = 1) -> None:
        root = _root(penalties)
        factor, _ = spd_factor(between_rows(x, x, root), 1.0)
        self.x = x
        self.free = 1.0 / penalties  # D^-1 (n,), zero for inputs that went
        parts = panels(len(self.free), max(1, PANEL // block) * block)
        self.blocks = torch.cat([self._diagonal_blocks(factor, part, block) for part in parts])
        self.inner = torch.cholesky_inverse(factor)  # M (T, T)
        self.half = self.inner[:, :0]  # M X_R D_R^-1 of the rows R that were asked for last (T, r)

    def _diagonal_blocks(self, factor: Tensor, part: slice, block: int) -> Tensor:
        """Those of the inputs `part`: with H = L^-1 X D^-1, D^-1 - H^T H."""
        scaled = self._scaled(part)
        # L^-1 X D^-1 through its transpose, whose rows lie in the order in which LAPACK reads columns
        half = torch.linalg.solve_triangular(factor.T, scaled.T, upper=True, left=False).T
        half = half.reshape(len(scaled), -1, block)
        blocks = -products_per_block(half, half)
        blocks.diagonal(dim1=1, dim2=2).add_(self.free[part].reshape(-1, block))
        return blocks

    def _scaled(self, inputs: Tensor | slice) -> Tensor:
        """X D^-1 (T, i), float64, of some inputs."""
        return self.x[:, inputs].double() * self.free[inputs]

    def rows(self, index: Tensor) -> Tensor:
        """P_R (r, n); zero in the columns of inputs that went."""
        self.half = self.inner @ self._scaled(index)
        turned = -self.half.T
        rows = turned.new_empty(len(index), len(self.free))
        for part in panels(len(self.free), PANEL):
            torch.mm(turned, self.x[:, part].double(), out=rows[:, part])
        rows *= self.free
        rows[torch.arange(len(index), device=index.device), index] += self.free[index]
        return rows

    def remove(self, index: Tensor, rows: Tensor, inner: Tensor) -> None:
        """Take out the inputs R, whose rows were asked for last: P_R (r, n), inner = (P_RR)^-1 (r, r)."""
        self.inner.addmm_(self.half, inner @ self.half.T)
        downdate(self.blocks, index, rows, inner @ rows)
        self.free[index] = 0.0


def _root(held: Tensor) -> Tensor:
    """D^1/2 (n,), float32; where nothing ever comes in, the least number there is: 0 divided by that is 0."""
    return held.sqrt().float().clamp_min(torch.finfo(torch.float32).tiny)


def between_rows(x: Tensor, y: Tensor, divisor: Tensor | None = None, kept: Tensor | None = None) -> Tensor:
    """X Y^T (T, T'), float64, for float32 X (T, n) and Y (T', n), of the inputs `kept` (k,) if they are given.

    divisor (k,), float32: each input of X and of Y is divided by its own first. No copy of X or Y is made as a whole.
    An entry x_s . y_t is off by less than 1e-6 ||x_s|| ||y_t|| (tested, also on data that are nearly alike).
    """
    total = torch.zeros(len(x), len(y), dtype=torch.float64, device=x.device)
    for part in panels(x.shape[1] if kept is None else len(kept), TERMS):
        inputs = part if kept is None else kept[part]
        scale = 1.0 if divisor is None else divisor[part]
        left = x[:, inputs] / scale
        right = left if y is x else y[:, inputs] / scale
        total += left @ right.T
    return total


def panels(count: int, width: int) -> Iterator[slice]:
    """Slices of at most `width` that make up `count`."""
    return (slice(start, min(start + width, count)) for start in range(0, count, width))
