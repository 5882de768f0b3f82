"""The dual form: for few tokens beside many inputs, T x T matrices instead of n x n.

At 7B an output linear has n = 11,008 inputs, and C = X^T X alone takes 0.5 GB; 1,024 calibration tokens take
45 MB, and say the same. So the tokens themselves are kept, and every formula of the method but the mask's is
solved through

    M = (I + X D^-1 X^T)^-1   (T, T),        P = (C + D)^-1 = D^-1 - D^-1 X^T M X D^-1:

* a row of P costs a product with M; after a round R of removals, with Z = M X_R D_R^-1,
      M = M + Z (P_RR)^-1 Z^T                      is the M of the columns that stay;
* the survivors' weights, with E = Y* - X_K W_K and K = X_K D_K^-1 X_K^T:
      V_K = W_K + D_K^-1 X_K^T (I + K)^-1 E;
* their outputs on other tokens X', without an n x m matrix,
      X' V = X'_K W_K + X'_K D_K^-1 X_K^T (I + K)^-1 E.

The processor multiplies float32 twice as fast as float64, so tokens and weights are multiplied in float32.
The matrices that are factorised are made of sums of at most PIECE terms each, which are added in float64
(`row_products`), and so are the squares of all energies. A refit's sums over tokens stay in float32.

The results are those of the n x n forms, up to rounding. (Our derivation, tested against them.)

The mask problem has no dual form, since the rank of C o W W^T is not bounded by T. So `prune_layer` gathers
`sums.MatrixStatistics` where a mask is tuned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from typing_extensions import Self

from .solve import Inverse, InverseRows, downdate, factor_solve, penalty, products_per_block, spd_factor
from .sums import MatrixStatistics, Statistics, tokens_for_matrix

PIECE = 1024  # inputs, outputs or tokens that are multiplied at once
TOKENS_PER_PIECE = 64  # tokens whose squares are in memory in float64 at once
INPUTS_PER_PANEL = 256  # inputs whose values for all tokens are in memory in float64 at once


@dataclass
class TokenStatistics(Statistics):
    """The weighted tokens themselves, instead of their sums, for few tokens beside many inputs."""

    squares: Tensor
    """C_ii (n,), float64."""
    x: Tensor
    """X (T, n), float32."""
    given_target: Tensor | None
    """Y* (T, m), float32, where a target is given."""

    @property
    def has_target(self) -> bool:
        return self.given_target is not None

    @property
    def precision(self) -> torch.dtype:
        return self.x.dtype

    @classmethod
    def zeros(cls, inputs: int, outputs: int | None = None, device: torch.device | str = "cpu") -> Self:
        return cls(
            input_sum=torch.zeros(inputs, dtype=torch.float64, device=device),
            weighted_input_sum=torch.zeros(inputs, dtype=torch.float64, device=device),
            squared_weight_sum=torch.zeros((), dtype=torch.float64, device=device),
            token_count=0,
            squares=torch.zeros(inputs, dtype=torch.float64, device=device),
            x=torch.zeros(0, inputs, device=device),
            given_target=None if outputs is None else torch.zeros(0, outputs, device=device),
        )

    def add_weighted(self, x: Tensor, target: Tensor | None) -> None:
        self.squares += sum(piece.double().square().sum(0) for piece in x.split(TOKENS_PER_PIECE))
        self.x = torch.cat([self.x, x])
        if target is not None and self.given_target is not None:
            self.given_target = torch.cat([self.given_target, target])

    def __add__(self, other: Self) -> Self:
        given_target = None
        if self.given_target is not None and other.given_target is not None:
            given_target = torch.cat([self.given_target, other.given_target])
        return type(self)(
            **self._plain_sums(other),
            squares=self.squares + other.squares,
            x=torch.cat([self.x, other.x]),
            given_target=given_target,
        )

    def mix_outputs(self, mix: Tensor) -> Self:
        if self.given_target is None:
            return self
        return replace(self, given_target=self.given_target @ mix.to(self.given_target))

    def diagonal(self) -> Tensor:
        return self.squares

    @property
    def xtx(self) -> Tensor:
        """C (n, n), float64, computed each time: as large as this form is meant to avoid."""
        return self.x.double().T @ self.x.double()

    def energy(self, weight: Tensor) -> float:
        weight = weight.float()
        return sum(float((rows @ weight).double().square().sum()) for rows in self.x.split(PIECE))

    def energy_and_error(self, weight: Tensor, refitted: Tensor) -> tuple[float, float]:
        weight = weight.float()
        refitted = refitted.float()
        energy = 0.0
        error = 0.0
        # The products with W and V are computed apart, since W - V would be as large as the weights.
        for rows in self.x.split(PIECE):
            outputs = rows @ weight
            energy += float(outputs.double().square().sum())
            error += float((outputs - rows @ refitted).double().square().sum())
        return energy, error

    def inverse(self, ridge: float, block_size: int = 1) -> Inverse:
        return DualInverse(self.x, penalty(self.diagonal(), ridge), block_size)

    def refit(self, weight: Tensor, kept_inputs: Tensor, ridge: float) -> Tensor:
        # With D = lambda diag(C), lambda can leave the divisors and enter the matrix that is solved with:
        #     D_K^-1 X_K^T (I + X_K D_K^-1 X_K^T)^-1 E
        #     = diag(C)_K^-1 X_K^T (lambda I + X_K diag(C)_K^-1 X_K^T)^-1 E.
        # The divisor diag(C)_K is applied as its root, once on each side.
        root = _root(penalty(self.squares, 1.0)[kept_inputs])  # diag(C)_K^1/2 (k,)
        factor, _ = spd_factor(row_products(self.x, self.x, root, kept_inputs), ridge)
        # (lambda I + X_K diag(C)_K^-1 X_K^T)^-1 E (T, m)
        solved = self.x.new_empty(len(self.x), weight.shape[1])
        for outputs in slices_of(weight.shape[1], PIECE):
            solved[:, outputs] = factor_solve(factor, self.gap(weight, kept_inputs, outputs))
        del factor  # it is as large as the weights, which are made next
        refitted = torch.zeros_like(weight)
        for piece in slices_of(len(kept_inputs), PIECE):
            inputs = kept_inputs[piece]
            divisor = root[piece]
            shift = ((self.x[:, inputs] / divisor).T @ solved).div_(divisor[:, None])
            refitted[inputs] = shift.to(weight).add_(weight[inputs])
        return refitted

    def held_out_errors(
        self, held_out: Self, weight: Tensor, kept_inputs: Tensor, ridges: Sequence[float]
    ) -> list[float]:
        root = _root(penalty(self.squares, 1.0)[kept_inputs])
        inner = row_products(self.x, self.x, root, kept_inputs)  # (T, T)
        outer = row_products(held_out.x, self.x, root, kept_inputs)  # (T', T)
        gap = self.gap(weight, kept_inputs)
        held_out_gap = held_out.gap(weight, kept_inputs)
        target_energy = held_out.target_energy(weight)
        errors = []
        for ridge in ridges:
            factor, _ = spd_factor(inner.clone(), ridge)
            error = held_out_gap - outer @ factor_solve(factor, gap)  # Y* - X' V (T', m)
            errors.append(float(error.square().sum()) - target_energy)
        return errors

    def target_energy(self, weight: Tensor) -> float:
        """||Y*||^2, where the layer's own output is Y* = X W, for weight W (n, m)."""
        target = self.x @ weight.float() if self.given_target is None else self.given_target
        return float(target.double().square().sum())

    def gap(self, weight: Tensor, kept_inputs: Tensor, outputs: slice = slice(None)) -> Tensor:
        """E = Y* - X_K W_K (T, m), the error of the kept inputs with their old weights W (n, m).

        It is computed in float32, and returned in float64 for what is solved with it.

        outputs: the outputs for which E is computed; by default all.
        """
        weight = weight[:, outputs]
        if self.given_target is not None:
            return (self.given_target[:, outputs] - self._outputs_of(kept_inputs, weight)).double()
        is_removed = torch.ones(len(weight), dtype=torch.bool, device=weight.device)
        is_removed[kept_inputs] = False
        return self._outputs_of(is_removed.nonzero().flatten(), weight).double()

    def _outputs_of(self, inputs: Tensor, weight: Tensor) -> Tensor:
        """X_I W_I (T, m), float32, for some inputs I. X_I and W_I are copied in pieces only."""
        total = self.x.new_zeros(len(self.x), weight.shape[1])
        for piece in inputs.split(PIECE):
            total.addmm_(self.x[:, piece], weight[piece].float())
        return total


def empty_statistics(
    inputs: int,
    outputs: int | None,
    token_count: int,
    device: torch.device | str,
    *,
    needs_matrix: bool = False,
) -> Statistics:
    """Statistics of no token yet, in the form that suits `token_count` tokens: see `tokens_for_matrix`.

    outputs: of a target that is given; None: the target is the layer's own output.
    needs_matrix: whether the reader of the sums needs C itself, which only `MatrixStatistics` has at hand.
    """
    few = token_count < tokens_for_matrix(inputs)
    form: type[Statistics] = TokenStatistics if few and not needs_matrix else MatrixStatistics
    return form.zeros(inputs, outputs, device)


class DualInverse(Inverse):
    """P = (X^T X + D)^-1 (n, n) from X (T, n) and D_ii (n,), for `importance.matrix_condition.sweep`."""

    def __init__(self, x: Tensor, penalties: Tensor, block_size: int = 1) -> None:
        root = _root(penalties)
        factor, _ = spd_factor(row_products(x, x, root), 1.0)
        self.x = x
        self.inverse_penalties = 1.0 / penalties  # D^-1 (n,), zero for inputs that went
        width = max(1, INPUTS_PER_PANEL // block_size) * block_size  # a panel has whole blocks
        panels = slices_of(len(penalties), width)
        self.diagonal_blocks = torch.cat(
            [self._diagonal_blocks(factor, panel, block_size) for panel in panels]
        )
        self.token_inverse = torch.cholesky_inverse(factor)  # M (T, T)

    def _diagonal_blocks(self, factor: Tensor, inputs: slice, block_size: int) -> Tensor:
        """The diagonal blocks of D^-1 - H^T H for some inputs, with H = L^-1 X D^-1."""
        scaled = self._scaled(inputs)
        # L^-1 X D^-1 through its transpose, whose rows lie in the order in which LAPACK reads columns
        half = torch.linalg.solve_triangular(factor.T, scaled.T, upper=True, left=False).T
        half = half.reshape(len(scaled), -1, block_size)
        blocks = -products_per_block(half, half)
        blocks.diagonal(dim1=1, dim2=2).add_(self.inverse_penalties[inputs].reshape(-1, block_size))
        return blocks

    def _scaled(self, inputs: Tensor | slice) -> Tensor:
        """X D^-1 (T, i), float64, of some inputs."""
        return self.x[:, inputs].double() * self.inverse_penalties[inputs]

    def rows(self, index: Tensor) -> InverseRows:
        half = self.token_inverse @ self._scaled(index)
        negative_half = -half.T
        values = negative_half.new_empty(len(index), len(self.inverse_penalties))
        for panel in slices_of(len(self.inverse_penalties), INPUTS_PER_PANEL):
            torch.mm(negative_half, self.x[:, panel].double(), out=values[:, panel])
        values *= self.inverse_penalties
        values[torch.arange(len(index), device=index.device), index] += self.inverse_penalties[index]
        return InverseRows(index, values, half)

    def remove(self, rows: InverseRows, inner_inverse: Tensor) -> None:
        if rows.half is None:
            raise ValueError("expected rows of this form, got those of an n x n inverse")
        self.token_inverse.addmm_(rows.half, inner_inverse @ rows.half.T)
        downdate(self.diagonal_blocks, rows, inner_inverse @ rows.values)
        self.inverse_penalties[rows.index] = 0.0


def _root(penalties: Tensor) -> Tensor:
    """D^1/2 (n,), float32.

    A root of 0 becomes the smallest positive number, so that 0 divided by it is 0.
    """
    return penalties.sqrt().float().clamp_min(torch.finfo(torch.float32).tiny)


def row_products(
    x: Tensor, y: Tensor, divisor: Tensor | None = None, kept_inputs: Tensor | None = None
) -> Tensor:
    """X Y^T (T, T'), float64, for X (T, n) and Y (T', n), float32.

    X and Y are copied in pieces only. The error of an entry x_s . y_t is less than 1e-6 ||x_s|| ||y_t||
    (tested, also on data that are nearly alike).

    Args:
        divisor: a number for each input that counts (k,), float32, by which X and Y are divided first.
        kept_inputs: the inputs that count (k,); None: all.
    """
    total = torch.zeros(len(x), len(y), dtype=torch.float64, device=x.device)
    count = x.shape[1] if kept_inputs is None else len(kept_inputs)
    for piece in slices_of(count, PIECE):
        inputs = piece if kept_inputs is None else kept_inputs[piece]
        scale = 1.0 if divisor is None else divisor[piece]
        left = x[:, inputs] / scale
        right = left if y is x else y[:, inputs] / scale
        total += left @ right.T
    return total


def slices_of(count: int, width: int) -> Iterator[slice]:
    """Slices of at most `width` that make up `count`."""
    return (slice(start, min(start + width, count)) for start in range(0, count, width))
