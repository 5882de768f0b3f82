"""Which inputs of a dense layer go: MLP neurons (block 1) and KV groups (block r * head_dim), by any metric.

Every metric answers one question, `NeuronMetric`: given the dense layer, which blocks stay? Those that only look
score all blocks once and keep the best. The two of COMP sweep (see `matrix_condition`), so they also bring the error
curve and the re-tuned weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..statistics.gram import Statistics, contributions
from ..statistics.solve import penalty, ridged, spd_inverse
from . import NEURON_METRICS
from .matrix_condition import Sweep, sweep

RIDGE = 0.1  # lambda of the library, unless something else is asked for


@dataclass(frozen=True)
class Dense:
    """A dense layer y = X W as the metrics see it: n inputs in blocks of `block`, m outputs."""

    sums: Statistics  # of the calibration text: C = X^T X and what belongs to it
    weight: Tensor  # W (n, m), in the precision of the sums
    upstream: Callable[[], Tensor]
    """Computes the squared norm of the weights that produce each block, of gate and up, of q, k and v: (blocks,)."""
    block: int = 1
    ridge: float = RIDGE  # lambda, relative to each input's own energy
    gain: Tensor | None = (
        None  # (m,): what outputs are multiplied by on their way to the stream; None: all the same
    )

    @property
    def scaled_weight(self) -> Tensor:
        """W (n, m) as the stream hears it, for what compares errors of different outputs."""
        return self.weight if self.gain is None else self.weight * self.gain.to(self.weight)

    @property
    def blocks(self) -> int:
        return len(self.weight) // self.block

    def per_block(self, values: Tensor) -> Tensor:
        """Sum (n,) values over each block: (blocks,)."""
        return values.reshape(self.blocks, self.block).sum(1)

    @property
    def xtx(self) -> Tensor:
        """C (n, n)."""
        return self.sums.matrix()


@dataclass(frozen=True)
class Selection:
    """What a metric decided."""

    kept: Tensor  # blocks that stay, ascending (k,)
    scores: Tensor  # importance of each block (blocks,), larger is worth more
    retuned: Tensor | None = (
        None  # V (n, m): least-squares weights, where the metric's sweep already found them
    )
    curve: Sweep | None = None  # the whole sweep, where there was one


NeuronMetric = Callable[[Dense, int, torch.Generator], Selection]
"""Anything that can say which `keep` blocks of a dense layer stay."""


def top(scores: Tensor, keep: int) -> Selection:
    """Keep the `keep` highest scores; equal scores keep the earlier block."""
    order = torch.argsort(scores, descending=True, stable=True)
    return Selection(kept=order[:keep].sort().values, scores=scores)


def magnitude(dense: Dense, keep: int, generator: torch.Generator) -> Selection:
    """Norm of all weights that a block owns: blind to the data."""
    return top((dense.upstream() + dense.per_block(dense.weight.square().sum(1))).sqrt(), keep)


def activation(dense: Dense, keep: int, generator: torch.Generator) -> Selection:
    """Norm of what a block sends: ||x_i||, blind to the weights behind."""
    return top(dense.per_block(dense.sums.diagonal()).sqrt(), keep)


def wanda_sp(dense: Dense, keep: int, generator: torch.Generator) -> Selection:
    """Wanda-sp: sum over a block's weights of |w_ij| ||x_i|| (Sun et al. 2023, as structured by An et al. 2024)."""
    return top(dense.per_block(dense.weight.abs().sum(1) * dense.sums.diagonal().sqrt()), keep)


def energy(dense: Dense, keep: int, generator: torch.Generator) -> Selection:
    """||x_i|| ||w_i||, the size of a block's contribution: what COMP divides by the condition."""
    return top(dense.per_block(dense.sums.diagonal() * dense.scaled_weight.square().sum(1)).sqrt(), keep)


def random(dense: Dense, keep: int, generator: torch.Generator) -> Selection:
    """Every block is worth the same: the floor for all others."""
    return top(
        torch.rand(dense.blocks, generator=generator, dtype=torch.float64).to(dense.weight.device), keep
    )


def mask_condition(dense: Dense, keep: int, generator: torch.Generator) -> Selection:
    """COMP with a mask to tune: energy of the contribution divided by its condition, in rounds."""
    matrix = ridged(contributions(dense.xtx, dense.scaled_weight), dense.ridge)  # H = G + lambda diag(G)
    ones = torch.ones(len(matrix), 1, dtype=matrix.dtype, device=matrix.device)
    swept = sweep(spd_inverse(matrix)[0], ones, dense.blocks - keep, block=dense.block, per_round=32)
    return Selection(swept.kept, swept.scores, None, swept)


def full_condition(dense: Dense, keep: int, generator: torch.Generator) -> Selection:
    """COMP with full weights to fit: ||w_i||^2 / (H^-1)_ii, in rounds."""
    inverse = dense.sums.inverse(dense.ridge, dense.block)
    held = penalty(dense.sums.diagonal(), dense.ridge)
    swept = sweep(inverse, dense.scaled_weight, dense.blocks - keep, block=dense.block, held=held)
    return Selection(swept.kept, swept.scores, swept.weights if dense.gain is None else None, swept)


METRICS: dict[str, NeuronMetric] = {name: globals()[name.replace("-", "_")] for name in NEURON_METRICS}
