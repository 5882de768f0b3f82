"""Metrics that choose which MLP neurons (block 1) and KV groups (block r * head_dim) stay.

Every metric answers one question, `NeuronMetric`: given the output linear, which blocks stay? `METRICS` has
all metrics, by the name that people type. Most of them score all blocks once and keep the best. The two
metrics of COMP sweep (see `matrix_condition`), so their answers also have the error curve and the refitted
weights.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable

import torch
from torch import Tensor

from ..utils.arguments import check_whole_number, takes
from ..utils.errors import InputError
from .matrix_condition import sweep
from .problem import Problem, Selection
from .statistics.solve import penalty, spd_inverse, with_ridge
from .statistics.sums import contributions

# Names of methods that are more than a metric. No metric may have one; "condition" stands for COMP's two.
METHODS_WITHOUT_METRIC = ("comp", "condition", "flap", "llm-pruner", "shortgpt", "slimgpt")
MASK_BLOCKS_PER_ROUND = 32  # blocks that go before the mask is tuned again

NeuronMetric = Callable[[Problem, int, torch.Generator], Selection]
"""A function that chooses the `keep` blocks of an output linear that stay."""

METRIC_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"  # what the command line can take, with commas between two
METRICS: dict[str, NeuronMetric] = {}
"""All metrics by name. `metric` adds one."""


def metric(name: str) -> Callable[[NeuronMetric], NeuronMetric]:
    """Add the decorated function to METRICS under `name`, for `Settings.method` and `--method`.

    A name may be registered again, as a cell of a notebook does that runs twice.

    Raises InputError for the name of a metric or a method of comp_lib, and for anything but a name.
    """
    if not isinstance(name, str) or not re.fullmatch(METRIC_NAME, name):
        raise InputError(
            expected="the name of a metric, of letters, digits, hyphens and underscores",
            got=reprlib.repr(name),
            hint="write @metric('loudest')",
        )
    if getattr(METRICS.get(name), "__module__", "") == __name__:
        raise InputError(
            expected="a name that no metric of comp_lib has", got=repr(name), hint="choose another"
        )

    def add(function: NeuronMetric) -> NeuronMetric:
        if not callable(function) or not takes(function, None, 1, None):
            raise InputError(
                expected="a metric that takes the problem, how many blocks to keep, and a generator",
                got=reprlib.repr(function),
                hint="def loudest(problem, keep, generator)",
            )
        if name in METHODS_WITHOUT_METRIC:
            raise InputError(
                expected="a name that no method of comp_lib has", got=repr(name), hint="choose another"
            )
        METRICS[name] = function
        return function

    return add


def keep_highest(scores: Tensor, keep: int) -> Selection:
    """Keep the `keep` highest scores (blocks,); equal scores keep the earlier block.

    Raises InputError for scores that are no vector of real numbers, and for a `keep` that is no number from 1
    to that of the blocks.
    """
    if not isinstance(scores, Tensor):
        raise InputError(
            expected="scores as a tensor", got=type(scores).__name__, hint="torch.as_tensor(scores) makes one"
        )
    if scores.dim() != 1 or scores.is_complex():
        raise InputError(
            expected="a real score for each block",
            got=f"a tensor of {scores.dtype} with shape {tuple(scores.shape)}",
            hint="problem.per_block adds up the inputs of each block",
        )
    check_whole_number("keep", keep, 1)
    if keep > len(scores):
        raise InputError(expected=f"at most {len(scores)} blocks to keep", got=keep, hint="keep fewer")
    order = torch.argsort(scores, descending=True, stable=True)
    return Selection(kept=order[:keep].sort().values, scores=scores)


@metric("magnitude")
def magnitude(problem: Problem, keep: int, generator: torch.Generator) -> Selection:
    """Norm of all weights that a block owns; the data do not count."""
    squares = problem.upstream_norms() + problem.per_block(problem.weight.square().sum(1))
    return keep_highest(squares.sqrt(), keep)


@metric("activation")
def activation(problem: Problem, keep: int, generator: torch.Generator) -> Selection:
    """Norm of what a block sends, ||x_i||; the weights that read it do not count."""
    return keep_highest(problem.per_block(problem.statistics.diagonal()).sqrt(), keep)


@metric("wanda-sp")
def wanda_sp(problem: Problem, keep: int, generator: torch.Generator) -> Selection:
    """Wanda-sp: sum over a block's weights of |w_ij| ||x_i|| (Sun et al. 2023).

    It was made structured by An et al. 2024.
    """
    norms = problem.statistics.diagonal().sqrt()
    return keep_highest(problem.per_block(problem.weight.abs().sum(1) * norms), keep)


@metric("energy")
def energy(problem: Problem, keep: int, generator: torch.Generator) -> Selection:
    """||x_i|| ||w_i||, a neuron's contribution; of a block, the root of the sum of their squares."""
    return keep_highest(problem.per_block(problem.energies).sqrt(), keep)


@metric("random")
def random(problem: Problem, keep: int, generator: torch.Generator) -> Selection:
    """Random scores: a metric that is no better than this one is worth nothing."""
    scores = torch.rand(problem.block_count, generator=generator, dtype=torch.float64)
    return keep_highest(scores.to(problem.weight.device), keep)


@metric("mask-condition")
def mask_condition(problem: Problem, keep: int, generator: torch.Generator) -> Selection:
    """COMP before a mask is tuned: H_ii / kappa_i^2 of the contributions' H, in rounds."""
    gram = contributions(problem.xtx, problem.scaled_weight)  # G (n, n)
    matrix = with_ridge(gram, problem.ridge)  # H = G + lambda diag(G)
    del gram  # as large as H
    ones = torch.ones(len(matrix), 1, dtype=matrix.dtype, device=matrix.device)
    swept = sweep(
        spd_inverse(matrix)[0],
        ones,
        problem.block_count - keep,
        block_size=problem.block_size,
        per_round=MASK_BLOCKS_PER_ROUND,
    )
    return Selection(swept.kept, swept.scores, swept=swept)


@metric("full-condition")
def full_condition(problem: Problem, keep: int, generator: torch.Generator) -> Selection:
    """COMP before all weights are fitted: ||w_i||^2 / (H^-1)_ii, in rounds."""
    swept = sweep(
        problem.statistics.inverse(problem.ridge, problem.block_size),
        problem.scaled_weight,
        problem.block_count - keep,
        block_size=problem.block_size,
        input_penalties=penalty(problem.statistics.diagonal(), problem.ridge),
    )
    no_gain = problem.gain is None  # with a gain, the sweep has V times the gain
    return Selection(swept.kept, swept.scores, swept, sweep_solved_it=no_gain)
