"""Additive statistics of an output linear: all that COMP needs to know about the calibration text.

For y = X W with X (T, n) and W (n, m), the tokens T vanish from every formula of the method. These count:

    C = X^T X (n, n)      and, when the target is not the layer's own output,     B = X^T Y* (n, m).

Both are sums over tokens, so they are gathered batch by batch, and two halves of a text can be added.
Products run in float32, sums and solves in float64. From SINGLE_PRECISION_INPUTS on, sums and solves are in
float32 too, which takes half the memory and time. With the ridge of the presets, these digits are enough: in
a layer of 4,864 neurons the same neurons stay, and the refitted weights differ by 7e-6 (measured once).

*Energy* is a squared norm, summed over tokens: of an input x_i, C_ii; of an output, ||X W||^2.

The plain sum of x is kept beside them. It gives the mean input, which a bias can replace.

Each token may have a weight, which multiplies its row of X. COMP takes 1 / ||h||, h being the residual stream
after the layer. So errors count *relative* to what they disturb, and one massive-activation token does not
rule the fit. (Our derivation.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self  # torch brings it; Python has it since 3.11

from .solve import Inverse, MatrixInverse, least_squares, penalty, ridge_solve, spd_inverse, with_ridge

SINGLE_PRECISION_INPUTS = 4096  # with this many inputs or more, sums and solves are in float32
COLUMNS_AT_ONCE = 512  # columns of a product, or of x, that are computed at a time


@dataclass
class Statistics(ABC):
    """Sums over the calibration text for one output linear with n inputs and m outputs, in some form."""

    input_sum: Tensor
    """Sum of x (n,), float64; each token counts once, whatever its weight."""
    weighted_input_sum: Tensor
    """The sum of w² x over the tokens (n,), float64; w are the token weights of C, and formulas say X^T 1."""
    squared_weight_sum: Tensor
    """The sum of w² over the tokens (), float64; formulas say 1^T 1."""
    token_count: int
    """Number of tokens that were added."""

    @property
    @abstractmethod
    def has_target(self) -> bool:
        """Whether a target Y* is given; otherwise the target is the layer's own output."""

    @property
    @abstractmethod
    def precision(self) -> torch.dtype:
        """The precision of the weights W that go with this form."""

    @classmethod
    @abstractmethod
    def zeros(cls, inputs: int, outputs: int | None = None, device: torch.device | str = "cpu") -> Self:
        """Empty sums; with `outputs`, for a target that is given."""

    def add(self, x: Tensor, target: Tensor | None = None, token_weight: Tensor | None = None) -> None:
        """Add tokens.

        Args:
            x: inputs (..., n).
            target: the target (..., m), if the sums were made for one.
            token_weight: a weight for each token (...); None: 1.
        """
        if (target is not None) != self.has_target:
            raise ValueError("expected a target exactly when the sums were made for one")
        x = x.detach().flatten(0, -2).float()
        if token_weight is None:
            token_weight = x.new_ones(len(x))
        else:
            token_weight = token_weight.reshape(-1).to(x)
        sums = self.input_sum.split(COLUMNS_AT_ONCE)
        for total, piece in zip(sums, x.split(COLUMNS_AT_ONCE, dim=1), strict=True):
            total += piece.sum(0, dtype=torch.float64)  # this makes a copy of `piece` in float64
        self.token_count += len(x)
        x = x * token_weight[:, None]
        self.weighted_input_sum += x.T @ token_weight
        self.squared_weight_sum += token_weight @ token_weight
        if target is not None:
            target = target.detach().flatten(0, -2).float() * token_weight[:, None]
        self.add_weighted(x, target)

    @abstractmethod
    def add_weighted(self, x: Tensor, target: Tensor | None) -> None:
        """Add weighted tokens X (T, n), with their target Y* (T, m) if one is given."""

    @abstractmethod
    def __add__(self, other: Self) -> Self:
        """Sums over both texts; raises ValueError if only one of them has a target."""

    def _plain_sums(self, other: Self) -> dict[str, Any]:
        """The fields of `self + other` that every form adds alike.

        Raises ValueError if only one of both has a target, which their sum would lose.
        """
        if self.has_target != other.has_target:
            raise ValueError("expected sums that both have a target, or that both have none")
        return {
            "input_sum": self.input_sum + other.input_sum,
            "weighted_input_sum": self.weighted_input_sum + other.weighted_input_sum,
            "squared_weight_sum": self.squared_weight_sum + other.squared_weight_sum,
            "token_count": self.token_count + other.token_count,
        }

    @abstractmethod
    def diagonal(self) -> Tensor:
        """C_ii (n,)."""

    @property
    @abstractmethod
    def xtx(self) -> Tensor:
        """C (n, n)."""

    @abstractmethod
    def energy(self, weight: Tensor) -> float:
        """||X W||^2 = tr(W^T C W) for W (n, m)."""

    def energy_and_error(self, weight: Tensor, refitted: Tensor) -> tuple[float, float]:
        """||X W||^2 and ||X W - X V||^2 for W and V (n, m)."""
        return self.energy(weight), self.energy(weight - refitted)

    @abstractmethod
    def inverse(self, ridge: float, block_size: int = 1) -> Inverse:
        """P = (C + lambda diag(C))^-1 (n, n), for `importance.matrix_condition.sweep`."""

    @abstractmethod
    def refit(self, weight: Tensor, kept_inputs: Tensor, ridge: float) -> Tensor:
        """The least-squares weights V (n, m) of the inputs that stay, `kept_inputs` (k,).

        They are those of `solve.least_squares`.
        """

    @abstractmethod
    def held_out_errors(
        self, held_out: Self, weight: Tensor, kept_inputs: Tensor, ridges: Sequence[float]
    ) -> list[float]:
        """||Y* - X V||^2 - ||Y*||^2 on the tokens of `held_out`, for each lambda.

        V is fitted to the tokens of `self`.

        Args:
            held_out: the tokens that judge.
            weight: W (n, m).
            kept_inputs: the inputs that stay (k,).
            ridges: the lambdas.
        """

    @abstractmethod
    def mix_outputs(self, mix: Tensor) -> Self:
        """The sums for mixtures of the outputs, Y* M with M (m, p)."""

    def unweighted_mean(self) -> Tensor:
        """Mean input (n,), each token once: without the token weights of C."""
        return self.input_sum / max(self.token_count, 1)

    def variance(self) -> Tensor:
        """Variance of each input (n,), with the token weights of C."""
        mean = self.weighted_input_sum / self.squared_weight_sum
        return (self.diagonal() / self.squared_weight_sum - mean.square()).clamp_min(0.0)

    def bias_energy(self, gap: Tensor, bias: Tensor) -> float:
        """||X D - 1 b^T||^2 - ||X D||^2 = (1^T 1) b.b - 2 (X^T 1).(D b), for gap D (n, m) and bias b (m,)."""
        square = self.squared_weight_sum * (bias @ bias)
        product = self.weighted_input_sum @ (gap.to(bias) @ bias)
        return float(square - 2.0 * product)


@dataclass
class MatrixStatistics(Statistics):
    """The sums as matrices."""

    _xtx: Tensor
    """C, float64, or float32 from SINGLE_PRECISION_INPUTS on."""
    given_xty: Tensor | None
    """B = X^T Y* (n, m) of a target that is given, in the precision of C."""

    @property
    def has_target(self) -> bool:
        return self.given_xty is not None

    @property
    def precision(self) -> torch.dtype:
        return self.xtx.dtype

    @classmethod
    def zeros(cls, inputs: int, outputs: int | None = None, device: torch.device | str = "cpu") -> Self:
        dtype = torch.float32 if inputs >= SINGLE_PRECISION_INPUTS else torch.float64
        given_xty = None
        if outputs is not None:
            given_xty = torch.zeros(inputs, outputs, dtype=dtype, device=device)
        return cls(
            input_sum=torch.zeros(inputs, dtype=torch.float64, device=device),
            weighted_input_sum=torch.zeros(inputs, dtype=torch.float64, device=device),
            squared_weight_sum=torch.zeros((), dtype=torch.float64, device=device),
            token_count=0,
            _xtx=torch.zeros(inputs, inputs, dtype=dtype, device=device),
            given_xty=given_xty,
        )

    @classmethod
    def of(cls, xtx: Tensor) -> Self:
        """Sums of which only C (n, n) is known."""
        inputs = len(xtx)
        return cls(
            input_sum=xtx.new_zeros(inputs),
            weighted_input_sum=xtx.new_zeros(inputs),
            squared_weight_sum=xtx.new_zeros(()),
            token_count=0,
            _xtx=xtx,
            given_xty=None,
        )

    def add_weighted(self, x: Tensor, target: Tensor | None) -> None:
        add_square(self.xtx, x)
        if target is not None and self.given_xty is not None:
            self.given_xty += x.T @ target

    def __add__(self, other: Self) -> Self:
        given_xty = None
        if self.given_xty is not None and other.given_xty is not None:
            given_xty = self.given_xty + other.given_xty
        return type(self)(
            **self._plain_sums(other),
            _xtx=self.xtx + other.xtx,
            given_xty=given_xty,
        )

    def mix_outputs(self, mix: Tensor) -> Self:
        if self.given_xty is None:
            return self
        return replace(self, given_xty=self.given_xty @ mix.to(self.given_xty))

    def diagonal(self) -> Tensor:
        return self.xtx.diagonal()

    @property
    def xtx(self) -> Tensor:
        return self._xtx

    def energy(self, weight: Tensor) -> float:
        weight = weight.float()  # the sum of squares is only reported, so single precision is enough
        return float((weight * (self.xtx.float() @ weight)).sum())

    def inverse(self, ridge: float, block_size: int = 1) -> Inverse:
        return MatrixInverse(spd_inverse(with_ridge(self.xtx, ridge))[0], block_size)

    def refit(self, weight: Tensor, kept_inputs: Tensor, ridge: float) -> Tensor:
        return least_squares(self.xtx, self.xty(weight), weight.to(self.xtx), kept_inputs, ridge)

    def held_out_errors(
        self, held_out: Self, weight: Tensor, kept_inputs: Tensor, ridges: Sequence[float]
    ) -> list[float]:
        weight = weight.to(self.xtx)
        kept_block = (kept_inputs[:, None], kept_inputs)  # index of C_KK
        old_weight = weight[kept_inputs]
        xty = self.xty(weight)[kept_inputs]
        held_out_xty = held_out.xty(weight)  # (n, m)
        errors = []
        for ridge in ridges:
            penalties = penalty(self.diagonal(), ridge)[kept_inputs]
            # each solve uses up its C_KK, so a copy is made for it and none is kept beside it
            refitted = torch.zeros_like(weight)
            refitted[kept_inputs] = ridge_solve(self.xtx[kept_block], penalties, xty, old_weight)
            # with its rows of zeros (n, m), so that no C_KK of the held-out half is kept beside them
            errors.append(float((refitted * (held_out.xtx @ refitted - 2.0 * held_out_xty)).sum()))
        return errors

    def xty(self, weight: Tensor) -> Tensor:
        """B = X^T Y* (n, m), which is C W where the target is the layer's own output, for weight W (n, m)."""
        return self.xtx @ weight.to(self.xtx) if self.given_xty is None else self.given_xty


def tokens_for_matrix(inputs: int) -> int:
    """The number of tokens from which C is kept.

    Fewer tokens are kept themselves (`few_tokens`), which then take at most half the memory of C.
    """
    return inputs // 2 if inputs >= SINGLE_PRECISION_INPUTS else inputs


def add_square(total: Tensor, x: Tensor) -> None:
    """Add X^T X to `total` (n, n), in the precision of X (T, n).

    The lower triangle is computed, a block of columns at a time.
    """
    size = x.shape[1]
    if size < 2 * COLUMNS_AT_ONCE:
        total += x.T @ x
        return
    for start in range(0, size, COLUMNS_AT_ONCE):
        stop = start + COLUMNS_AT_ONCE
        product = x[:, start:].T @ x[:, start:stop]
        corner = product[:COLUMNS_AT_ONCE]
        below = product[COLUMNS_AT_ONCE:]
        # one half of the corner is mirrored: not every library computes two equal halves
        total[start:stop, start:stop] += corner.tril() + corner.tril(-1).T
        total[stop:, start:stop] += below
        total[start:stop, stop:] += below.T


def contributions(xtx: Tensor, weight: Tensor) -> Tensor:
    """G = C o (W W^T) (n, n), the Gram matrix of the neurons' contributions a_i = x_i w_i^T.

    For any mask m, with 1 the vector of ones,

        ||Y - sum_i m_i a_i||^2 = (1 - m)^T G (1 - m).

    (Our derivation, tested.)

    Args:
        xtx: C (n, n).
        weight: W (n, m).
    """
    return xtx * (weight @ weight.T)


def token_weight(stream: Tensor) -> Tensor:
    """1 / ||h_t||, h being the residual stream after the layer: (..., d) -> (...)."""
    norms: Tensor = stream.detach().float().norm(dim=-1)
    return norms.clamp_min(torch.finfo(torch.float32).tiny ** 0.5).reciprocal()


def relative_error(error: float, energy: float) -> float:
    """||X W - X V||^2 / ||X W||^2 from its numerator and denominator; 0 for a layer that sends nothing."""
    return error / energy if energy > 0.0 else 0.0
