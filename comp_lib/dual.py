"""The dual form: for fewer tokens than inputs, T x T matrices instead of n x n.

At 7B a dense layer has n = 11,008 inputs, and C = X^T X alone takes 1 GB; 1,024 calibration tokens are 45 MB, and say
the same. So the tokens themselves are kept, and every formula of `condition`, `recover` and `ridge` is solved through

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
from dataclasses import dataclass

import torch
from torch import Tensor

from .gram import Gram
from .importance.condition import penalty, spd_factor, spd_inverse


@dataclass
class Products:
    """C = X^T X (n, n), never formed: X (T, n), float32, rows weighted."""

    x: Tensor

    def diagonal(self) -> Tensor:
        """C_ii (n,), float64."""
        return self.x.double().square().sum(0)

    def energy(self, gap: Tensor) -> float:
        """tr(G^T C G) = ||X G||^2 for G (n, m)."""
        return float((self.x @ gap.float()).double().square().sum())


@dataclass
class Rows(Gram):
    """`Gram` for fewer tokens than inputs: it keeps X, and Y* (T, m) where the target comes from outside."""

    @classmethod
    def zeros(cls, inputs: int, outputs: int | None = None, device: torch.device | str = "cpu") -> Rows:
        x = torch.zeros(0, inputs, device=device)
        y = None if outputs is None else torch.zeros(0, outputs, device=device)
        sums = (torch.zeros(size, dtype=torch.float64, device=device) for size in (inputs, inputs + 1))
        return cls(Products(x), y, *sums)

    def add(self, x: Tensor, target: Tensor | None = None, weight: Tensor | None = None) -> None:
        x = x.detach().flatten(0, -2).float()
        self.x += x.sum(0, dtype=torch.float64)
        one = x.new_ones(len(x)) if weight is None else weight.reshape(-1).to(x)
        x = x * one[:, None]
        self.ones += torch.cat([x.T @ one, (one @ one)[None]])
        if (target is None) != (self.xty is None):
            raise ValueError("expected a target exactly when the sums were made for one")
        self.xtx = Products(torch.cat([self.xtx.x, x]))
        if target is not None:
            self.xty = torch.cat([self.xty, target.detach().flatten(0, -2).float() * one[:, None]])
        self.tokens += len(x)

    def __add__(self, other: Rows) -> Rows:
        both = Products(torch.cat([self.xtx.x, other.xtx.x]))
        y = None if self.xty is None else torch.cat([self.xty, other.xty])
        return Rows(both, y, self.x + other.x, self.ones + other.ones, self.tokens + other.tokens)

    def gap(self, weight: Tensor, kept: Tensor) -> Tensor:
        """E = Y* - X_K W_K (T, m), float64: what the kept inputs with their old weights W (n, m) leave open."""
        if self.xty is not None:
            return (self.xty - self.xtx.x[:, kept] @ weight[kept].float()).double()
        gone = torch.ones(len(weight), dtype=torch.bool, device=weight.device)
        gone[kept] = False
        return (self.xtx.x[:, gone] @ weight[gone].float()).double()

    def outputs(self, weight: Tensor) -> Tensor:
        """Y* (T, m)."""
        return self.xtx.x @ weight.float() if self.xty is None else self.xty


class DualInverse:
    """P = (X^T X + D)^-1 given by X (T, n) and D_ii (n,), for `condition.sweep`."""

    def __init__(self, x: Tensor, penalties: Tensor, block: int = 1) -> None:
        x = x.double()
        self.free, self.scaled = 1.0 / penalties, x / penalties  # D^-1 (n,), X D^-1 (T, n)
        self.inner, _ = spd_inverse(torch.eye(len(x)).to(x) + self.scaled @ x.T)  # M (T, T)
        split = (len(x), -1, block)
        half = (self.inner @ self.scaled).reshape(split)
        # diagonal blocks of P (n / block, block, block)
        self.blocks = -torch.einsum("tcb,tcd->cbd", self.scaled.reshape(split), half)
        self.blocks.diagonal(dim1=1, dim2=2).add_(self.free.reshape(-1, block))

    def diagonal(self) -> Tensor:
        return self.blocks.diagonal(dim1=1, dim2=2).flatten()

    def rows(self, index: Tensor) -> Tensor:
        """P_R (r, n); zero in the columns of inputs that went."""
        found = -((self.inner @ self.scaled[:, index]).T @ self.scaled)
        found[torch.arange(len(index)), index] += self.free[index]
        return found

    def remove(self, index: Tensor, rows: Tensor, down: Tensor) -> None:
        """Take out the inputs R: rows = P_R (r, n), down = (P_RR)^-1 P_R (r, n)."""
        half = self.inner @ self.scaled[:, index]  # (T, r)
        self.inner.addmm_(half, torch.linalg.solve(rows[:, index], half.T))
        count, block = self.blocks.shape[:2]
        split = (len(index), count, block)
        self.blocks -= torch.einsum("rcb,rcd->cbd", rows.reshape(split), down.reshape(split))
        self.scaled[:, index] = 0.0
        self.blocks[(index[::block] // block)] = torch.eye(block).to(self.blocks)  # keeps dead scores finite


def least_squares(rows: Rows, weight: Tensor, kept: Tensor, ridge: float) -> Tensor:
    """V (n, m) as `recover.least_squares` finds it, in the precision of W (n, m); kept (k,)."""
    x, unit = rows.xtx.x[:, kept].double(), penalty(rows.xtx.diagonal(), 1.0)[kept]
    scaled = x / unit
    factor, _ = spd_factor(scaled @ x.T + ridge * torch.eye(len(x)).to(x))
    fitted = torch.zeros_like(weight)
    fitted[kept] = weight[kept] + (scaled.T @ torch.cholesky_solve(rows.gap(weight, kept), factor)).to(weight)
    return fitted


def held_out_errors(seen: Rows, held: Rows, weight: Tensor, kept: Tensor, ridges: Sequence[float]) -> list[float]:
    """||Y* - X V||^2 - ||Y*||^2 on the tokens of `held`, for V fitted to those of `seen` with each lambda."""
    x, unit = seen.xtx.x[:, kept].double(), penalty(seen.xtx.diagonal(), 1.0)[kept]
    scaled = (x / unit).T  # (k, T)
    inner, outer = x @ scaled, held.xtx.x[:, kept].double() @ scaled  # (T, T), (T', T)
    missing, judged = seen.gap(weight, kept), held.gap(weight, kept)
    whole = float(held.outputs(weight).double().square().sum())
    found = []
    for ridge in ridges:
        factor, _ = spd_factor(inner + ridge * torch.eye(len(inner)).to(inner))
        found.append(float((judged - outer @ torch.cholesky_solve(missing, factor)).square().sum()) - whole)
    return found
