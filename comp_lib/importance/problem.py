"""The problem that one output linear poses, and the selection that answers it.

A metric chooses in the problem which blocks stay, and a recovery solves it for those: `neurons` and
`recovery` read an output linear in no other form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..decoder.blocks import inputs_of_blocks
from ..decoder.probe import OutputPath
from ..decoder.structure import parts
from ..decoder.types import Layer, Step
from .matrix_condition import Sweep
from .statistics.sums import Statistics

RIDGE = 0.1  # lambda of the library, unless something else is asked for
ROWS_IN_FLOAT64 = 1024  # rows of a matrix in float64 at once, since all of them may be a gigabyte


@dataclass(frozen=True)
class Problem:
    """An output linear y = X W with n inputs and m outputs, as metrics and recoveries read it."""

    statistics: Statistics
    """The sums over the calibration text: C = X^T X and what belongs to it."""
    weight: Tensor
    """W (n, m), in the precision of the statistics."""
    upstream_norms: Callable[[], Tensor]
    """Computes the squared norm of the weights that produce each block (gate, up; q, k, v): (blocks,)."""
    block_size: int = 1
    """The number of consecutive inputs that go together."""
    ridge: float = RIDGE
    """Lambda, relative to each input's own energy."""
    gain: Tensor | None = None
    """Factors of the outputs on their way to the stream (m,); None: all outputs have the same factor."""

    @classmethod
    def of(cls, layer: Layer, step: Step, statistics: Statistics, ridge: float = RIDGE) -> Problem:
        """The problem of the output linear of a step, with the statistics of what that linear reads."""
        part = parts(layer)[step]
        return cls(
            statistics,
            weight=part.output_linear.weight.detach().T.to(statistics.precision),
            upstream_norms=partial(upstream_norms, layer, step),
            block_size=part.block_size,
            ridge=ridge,
            gain=OutputPath.of(layer, step).gain,
        )

    @property
    def scaled_weight(self) -> Tensor:
        """W (n, m) times the gain of each output, for comparisons of errors of different outputs."""
        return times_gain(self.weight, self.gain)

    @property
    def energies(self) -> Tensor:
        """||x_i||^2 ||w_i||^2 (n,): what each input alone sends, with W as the stream gets it."""
        return self.statistics.diagonal() * self.scaled_weight.square().sum(1)

    @property
    def block_count(self) -> int:
        """The number of blocks."""
        return len(self.weight) // self.block_size

    def per_block(self, values: Tensor) -> Tensor:
        """The sum of values (n,) over each block: (blocks,)."""
        return values.reshape(self.block_count, self.block_size).sum(1)

    def inputs_of(self, blocks: Tensor) -> Tensor:
        """Indices of the inputs in these blocks, on the device of the weights: (k,) -> (k * block_size,)."""
        return inputs_of_blocks(blocks.to(self.weight.device), self.block_size)

    @property
    def xtx(self) -> Tensor:
        """C (n, n), in the precision of the weights."""
        return self.statistics.xtx.to(self.weight.dtype)


@dataclass(frozen=True)
class Selection:
    """The blocks that a metric has chosen, with their scores."""

    kept: Tensor
    """The blocks that stay, ascending (k,)."""
    scores: Tensor
    """The importance of each block (blocks,): a block with a larger score is worth more."""
    swept: Sweep | None = None
    """The sweep that chose them, if there was one."""
    sweep_solved_it: bool = False
    """Whether the weights of the sweep are those that least squares would find for these blocks."""


def ridge_or_usual(ridge: float | str) -> float:
    """The lambda of a setting; RIDGE for "auto", where no text is left to choose one."""
    return RIDGE if isinstance(ridge, str) else ridge


def upstream_norms(layer: Layer, step: Step) -> Tensor:
    """The squared norm of the weights that produce each block of the inputs: (blocks,), float64."""
    part = parts(layer)[step]
    norms = []
    for name, rows in part.producer_rows.items():
        weight = getattr(part.module, name).weight.detach()
        row_norms = [piece.double().square().sum(1) for piece in weight.split(ROWS_IN_FLOAT64)]
        norms.append(torch.cat(row_norms)[rows].sum(1))
    return torch.stack(norms).sum(0)


def times_gain(weight: Tensor, gain: Tensor | None) -> Tensor:
    """W (n, m) times the gain of each output (m,), where outputs have one."""
    return weight if gain is None else weight * gain.to(weight)
