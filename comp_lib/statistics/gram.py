"""Additive statistics of a dense layer: all that COMP needs to know about the calibration text.

For y = X W with X (T, n) and W (n, m), the tokens T vanish from every formula of the method: what counts is

    C = X^T X (n, n)      and, when the target is not the layer's own output,     B = X^T Y* (n, m).

Both are sums over tokens, so they are gathered batch by batch, and two halves of a text can be added. Products run in
float32, sums and solves in float64; from WIDE inputs on in float32 too, which takes half the memory and time. With a
ridge as the presets have it that is digits enough: in a layer of 4,864 neurons the same ones stay, and the refitted
weights differ by 7e-6 (measured once).

Beside them the plain sum of x is kept, for the mean input that a bias can stand in for.

A row may carry a weight. COMP divides it by the norm of the residual stream behind the layer, so that errors count
*relative* to what they disturb and one massive-activation token does not rule the fit. (Our derivation.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from typing_extensions import Self  # torch brings it; Python has it since 3.11

from .solve import Inverse, least_squares, penalty, pulled, ridged, spd_inverse

WIDE = 4096  # inputs from which sums and solves are in float32
BLOCK = 512  # columns of a symmetric product, of which one triangle is computed


@dataclass
class Statistics(ABC):
    """What is kept of the calibration text for one dense layer with n inputs and m outputs, in some form."""

    x: Tensor  # sum of x (n,), float64, each token once whatever its weight
    ones: Tensor  # X^T 1 and 1^T 1 with the weights of C, (n + 1,), float64: what the error of a bias needs
    tokens: int
    # of a target Y* from outside, in the form's own way; None: the target is the layer's own output
    outside: Tensor | None

    @property
    @abstractmethod
    def precision(self) -> torch.dtype:
        """Of the weights W that go with this form."""

    @classmethod
    @abstractmethod
    def zeros(cls, inputs: int, outputs: int | None = None, device: torch.device | str = "cpu") -> Self:
        """Empty sums; with `outputs`, for a target that comes from outside."""

    def add(self, x: Tensor, target: Tensor | None = None, token_weight: Tensor | None = None) -> None:
        """Add tokens: x (..., n), target (..., m) if the sums have one, token_weight (...); None: all the same."""
        if (target is None) != (self.outside is None):
            raise ValueError("expected a target exactly when the sums were made for one")
        x = x.detach().flatten(0, -2).float()
        one = x.new_ones(len(x)) if token_weight is None else token_weight.reshape(-1).to(x)
        for total, part in zip(self.x.split(BLOCK), x.split(BLOCK, dim=1), strict=True):
            total += part.sum(0, dtype=torch.float64)  # for which `part` is there in float64
        self.tokens += len(x)
        x = x * one[:, None]
        self.ones += torch.cat([x.T @ one, (one @ one)[None]])
        self.gather(x, None if target is None else target.detach().flatten(0, -2).float() * one[:, None])

    @abstractmethod
    def gather(self, x: Tensor, y: Tensor | None) -> None:
        """Add weighted tokens X (T, n), with their target (T, m) from outside."""

    @abstractmethod
    def __add__(self, other: Self) -> Self:
        """Sums over both texts."""

    @abstractmethod
    def diagonal(self) -> Tensor:
        """C_ii (n,)."""

    @abstractmethod
    def matrix(self) -> Tensor:
        """C (n, n)."""

    @abstractmethod
    def energy(self, gap: Tensor) -> float:
        """||X G||^2 = tr(G^T C G) for G (n, m)."""

    def energies(self, weight: Tensor, other: Tensor) -> tuple[float, float]:
        """||X W||^2 and ||X W - X V||^2 for W and V (n, m)."""
        return self.energy(weight), self.energy(weight - other)

    @abstractmethod
    def inverse(self, ridge: float, block: int = 1) -> Inverse:
        """P = (C + lambda diag(C))^-1, for `matrix_condition.sweep`."""

    @abstractmethod
    def refit(self, weight: Tensor, kept: Tensor, ridge: float) -> Tensor:
        """The least-squares weights V (n, m) of the inputs `kept` (k,), as `solve.least_squares` finds them."""

    @abstractmethod
    def held_out_errors(
        self, held: Self, weight: Tensor, kept: Tensor, ridges: Sequence[float]
    ) -> list[float]:
        """||Y* - X V||^2 - ||Y*||^2 on the tokens of `held`, for V fitted to these with each lambda."""

    def mixed(self, mix: Tensor) -> Self:
        """The sums for mixtures of the outputs, Y* M with M (m, p)."""
        return replace(self, outside=None if self.outside is None else self.outside @ mix.to(self.outside))

    @property
    def mean(self) -> Tensor:
        """Mean input (n,), each token once."""
        return self.x / max(self.tokens, 1)

    def bias_energy(self, gap: Tensor, bias: Tensor) -> float:
        """||X D - 1 b^T||^2 - ||X D||^2 = (1^T 1) b.b - 2 (X^T 1).(D b): gap D (n, m), bias b (m,)."""
        return float(self.ones[-1] * (bias @ bias) - 2.0 * (self.ones[:-1] @ (gap.to(bias) @ bias)))


@dataclass
class Gram(Statistics):
    """The sums as matrices; `outside` is B = X^T Y* (n, m), in the precision of C."""

    xtx: Tensor  # C (n, n), float64, or float32 from WIDE inputs on

    @property
    def precision(self) -> torch.dtype:
        return self.xtx.dtype

    @classmethod
    def zeros(cls, inputs: int, outputs: int | None = None, device: torch.device | str = "cpu") -> Self:
        x = torch.zeros(inputs, dtype=torch.float64, device=device)
        dtype = torch.float32 if inputs >= WIDE else torch.float64
        outside = None if outputs is None else x.new_zeros(inputs, outputs, dtype=dtype)
        return cls(x, x.new_zeros(inputs + 1), 0, outside, x.new_zeros(inputs, inputs, dtype=dtype))

    @classmethod
    def of(cls, xtx: Tensor) -> Self:
        """Sums of which only C (n, n) is known."""
        return cls(xtx.new_zeros(len(xtx)), xtx.new_zeros(len(xtx) + 1), 0, None, xtx)

    def gather(self, x: Tensor, y: Tensor | None) -> None:
        add_square(self.xtx, x)
        if y is not None and self.outside is not None:
            self.outside += x.T @ y

    def __add__(self, other: Self) -> Self:
        outside = None if self.outside is None or other.outside is None else self.outside + other.outside
        sums = self.x + other.x, self.ones + other.ones, self.tokens + other.tokens
        return type(self)(*sums, outside, self.xtx + other.xtx)

    def diagonal(self) -> Tensor:
        return self.xtx.diagonal()

    def matrix(self) -> Tensor:
        return self.xtx

    def energy(self, gap: Tensor) -> float:
        gap = gap.float()  # a sum of squares to be reported: single precision is plenty
        return float((gap * (self.xtx.float() @ gap)).sum())

    def inverse(self, ridge: float, block: int = 1) -> Inverse:
        return Inverse(spd_inverse(ridged(self.xtx, ridge))[0], block)

    def refit(self, weight: Tensor, kept: Tensor, ridge: float) -> Tensor:
        return least_squares(self.xtx, self.target(weight), weight.to(self.xtx), kept, ridge)

    def held_out_errors(
        self, held: Self, weight: Tensor, kept: Tensor, ridges: Sequence[float]
    ) -> list[float]:
        weight = weight.to(self.xtx)
        target, outer, old = self.target(weight)[kept], held.target(weight)[kept], weight[kept]
        own, inner = (sums.xtx[kept[:, None], kept] for sums in (self, held))
        fits = (
            pulled(own.clone(), penalty(self.diagonal(), ridge)[kept], target, old) for ridge in ridges
        )  # (k, m)
        return [float((fitted * (inner @ fitted - 2.0 * outer)).sum()) for fitted in fits]

    def target(self, weight: Tensor) -> Tensor:
        """B = X^T Y* (n, m); for the layer's own output it is C W, with weight W (n, m)."""
        return self.xtx @ weight.to(self.xtx) if self.outside is None else self.outside


def enough(inputs: int) -> int:
    """Tokens from which C is kept; fewer are kept themselves, where they take less memory (`few_tokens`)."""
    return inputs // 2 if inputs >= WIDE else inputs


def add_square(total: Tensor, x: Tensor) -> None:
    """Add X^T X to `total` (n, n), in the precision of X (T, n): the lower triangle is computed, a block at a time."""
    size = x.shape[1]
    if size < 2 * BLOCK:
        total += x.T @ x
        return
    for start in range(0, size, BLOCK):
        stop = start + BLOCK
        product = x[:, start:].T @ x[:, start:stop]
        corner, below = product[:BLOCK], product[BLOCK:]
        total[start:stop, start:stop] += (
            corner.tril() + corner.tril(-1).T
        )  # not every library makes two equal halves
        total[stop:, start:stop] += below
        total[start:stop, stop:] += below.T


def contributions(xtx: Tensor, weight: Tensor) -> Tensor:
    """Gram matrix of the neurons' contributions a_i = x_i w_i^T: G = C o (W W^T), (n, n). (Our derivation, tested.)

    xtx: C (n, n); weight: W (n, m). For any mask m: ||Y - sum_i m_i a_i||^2 = (1 - m)^T G (1 - m).
    """
    return xtx * (weight @ weight.T)


def token_weight(stream: Tensor) -> Tensor:
    """1 / ||h_t||, h being the residual stream behind the layer: (..., d) -> (...)."""
    norms: Tensor = stream.detach().float().norm(dim=-1)
    return norms.clamp_min(torch.finfo(torch.float32).tiny ** 0.5).reciprocal()
