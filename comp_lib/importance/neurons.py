"""Which inputs of a dense layer go: MLP neurons (block 1) and KV groups (block r * head_dim), by any metric.

Every metric answers one question, `NeuronMetric`: given the dense layer, which blocks stay? `METRICS` has
them all, by the name that people type. Most score all blocks once and keep the best. The two of COMP sweep
(see `matrix_condition`), so they also bring the error curve and the refitted weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..statistics.gram import Statistics, contributions
from ..statistics.solve import penalty, ridged, spd_inverse
from ..surgery import inputs_of_blocks
from .matrix_condition import Sweep, sweep

RIDGE = 0.1  # lambda of the library, unless something else is asked for
MASK_BLOCKS_PER_ROUND = 32  # that go before the mask is tuned again


@dataclass(frozen=True)
class Problem:
    """What a metric decides and a recovery solves, for a dense layer y = X W.

    It has n inputs, in blocks of `block`, and m outputs.
    """

    statistics: Statistics  # of the calibration text: C = X^T X and what belongs to it
    weight: Tensor  # W (n, m), in the precision of the statistics
    upstream: Callable[[], Tensor]
    """Computes the squared norm of the weights that produce each block (gate, up; q, k, v): (blocks,)."""
    block: int = 1
    ridge: float = RIDGE  # lambda, relative to each input's own energy
    # (m,): what the outputs are multiplied by on their way to the stream; None: all by the same
    gain: Tensor | None = None

    @property
    def scaled_weight(self) -> Tensor:
        """W (n, m) as the stream hears it, for what compares errors of different outputs."""
        return self.weight if self.gain is None else self.weight * self.gain.to(self.weight)

    @property
    def blocks(self) -> int:
        """How many blocks the inputs make up."""
        return len(self.weight) // self.block

    def per_block(self, values: Tensor) -> Tensor:
        """Sum (n,) values over each block: (blocks,)."""
        return values.reshape(self.blocks, self.block).sum(1)

    def inputs_of(self, blocks: Tensor) -> Tensor:
        """Indices of the inputs in these blocks, on the device of the weights: (k,) -> (k * block,)."""
        return inputs_of_blocks(blocks.to(self.weight.device), self.block)

    @property
    def xtx(self) -> Tensor:
        """C (n, n)."""
        return self.statistics.matrix()


@dataclass(frozen=True)
class Selection:
    """What a metric decided."""

    kept: Tensor  # blocks that stay, ascending (k,)
    scores: Tensor  # importance of each block (blocks,), larger is worth more
    refitted: Tensor | None = (
        None  # V (n, m): least-squares weights, where the metric's sweep found them already
    )
    curve: Sweep | None = None  # the sweep, where there was one


NeuronMetric = Callable[[Problem, int, torch.Generator], Selection]
"""Anything that can say which `keep` blocks of a dense layer stay."""

METRICS: dict[str, NeuronMetric] = {}
"""All metrics by name. `metric` adds one."""


def metric(name: str) -> Callable[[NeuronMetric], NeuronMetric]:
    """Adds the decorated function to METRICS under `name`, for `Settings.method` and `--method`."""

    def add(function: NeuronMetric) -> NeuronMetric:
        METRICS[name] = function
        return function

    return add


def top(scores: Tensor, keep: int) -> Selection:
    """Keep the `keep` highest scores; equal scores keep the earlier block."""
    order = torch.argsort(scores, descending=True, stable=True)
    return Selection(kept=order[:keep].sort().values, scores=scores)


@metric("magnitude")
def magnitude(problem: Problem, keep: int, generator: torch.Generator) -> Selection:
    """Norm of all weights that a block owns: blind to the data."""
    squares = problem.upstream() + problem.per_block(problem.weight.square().sum(1))
    return top(squares.sqrt(), keep)


@metric("activation")
def activation(problem: Problem, keep: int, generator: torch.Generator) -> Selection:
    """Norm of what a block sends, ||x_i||: blind to the weights behind it."""
    return top(problem.per_block(problem.statistics.diagonal()).sqrt(), keep)


@metric("wanda-sp")
def wanda_sp(problem: Problem, keep: int, generator: torch.Generator) -> Selection:
    """Wanda-sp: sum over a block's weights of |w_ij| ||x_i|| (Sun et al. 2023).

    It was made structured by An et al. 2024.
    """
    norms = problem.statistics.diagonal().sqrt()
    return top(problem.per_block(problem.weight.abs().sum(1) * norms), keep)


@metric("energy")
def energy(problem: Problem, keep: int, generator: torch.Generator) -> Selection:
    """||x_i|| ||w_i||, the size of a block's contribution: what COMP divides by the condition."""
    squares = problem.statistics.diagonal() * problem.scaled_weight.square().sum(1)
    return top(problem.per_block(squares).sqrt(), keep)


@metric("random")
def random(problem: Problem, keep: int, generator: torch.Generator) -> Selection:
    """Every block is worth the same: the floor for all others."""
    scores = torch.rand(problem.blocks, generator=generator, dtype=torch.float64)
    return top(scores.to(problem.weight.device), keep)


@metric("mask-condition")
def mask_condition(problem: Problem, keep: int, generator: torch.Generator) -> Selection:
    """COMP with a mask to tune: energy of the contribution divided by its condition, in rounds."""
    matrix = ridged(
        contributions(problem.xtx, problem.scaled_weight), problem.ridge
    )  # H = G + lambda diag(G)
    ones = torch.ones(len(matrix), 1, dtype=matrix.dtype, device=matrix.device)
    swept = sweep(
        spd_inverse(matrix)[0],
        ones,
        problem.blocks - keep,
        block=problem.block,
        per_round=MASK_BLOCKS_PER_ROUND,
    )
    return Selection(swept.kept, swept.scores, curve=swept)


@metric("full-condition")
def full_condition(problem: Problem, keep: int, generator: torch.Generator) -> Selection:
    """COMP with full weights to fit: ||w_i||^2 / (H^-1)_ii, in rounds."""
    swept = sweep(
        problem.statistics.inverse(problem.ridge, problem.block),
        problem.scaled_weight,
        problem.blocks - keep,
        block=problem.block,
        penalties=penalty(problem.statistics.diagonal(), problem.ridge),
    )
    refitted = swept.weights if problem.gain is None else None  # with a gain they are V times the gain
    return Selection(swept.kept, swept.scores, refitted, swept)
