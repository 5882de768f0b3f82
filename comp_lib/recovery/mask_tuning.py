"""Mask tuning (the paper's): one factor for each neuron that stays, by one solve, without gradients.

    m_K = argmin (1 - m)^T G (1 - m) + lambda sum_K G_ii (m_i - 1)^2,        m = 0 for what goes,

G being the Gram matrix of the neurons' contributions (`statistics.sums.contributions`). Without a guard, a
few neurons that must imitate many take huge factors of either sign, which fit the calibration text and
nothing else. The guard watches the variance of the mask and raises lambda until the variance is small. The
mask is folded into the weights, so it costs nothing at run time. (Our derivation, tested against brute
force.)

Lineage: Kwon et al. 2022 ("A fast post-training pruning framework for transformers", NeurIPS) tune masks by
the same Gram matrix, towards the dense model's stream minus the residual of the pruned one, and stop at
factors beyond 10. Lesson 04 has that guard beside ours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..importance.problem import Problem, Selection
from ..importance.statistics.solve import keep_rows, least_squares
from ..importance.statistics.sums import contributions, relative_error
from ..utils.errors import InputError
from .refit import Refit

# Rounds of the guard, after which lambda has grown by 38 digits, and the mask of any finite sums is flat.
MAX_ROUNDS = 64
MAX_VARIANCE = 0.05  # variance of a tuned mask, above which a few neurons imitate many


def solve_mask(gram: Tensor, kept_inputs: Tensor, ridge: float) -> Tensor:
    """The mask m_K (k,) for a given lambda, without the guard of `tune_mask`.

    It solves the least-squares problem with one output and W = 1, whose stationary point is

        (G_KK + D) m = G_K: 1 + D 1,        D = lambda diag(G_KK).

    Args:
        gram: G (n, n).
        kept_inputs: the inputs that stay (k,).
        ridge: lambda.
    """
    ones = torch.ones(len(gram), 1, dtype=gram.dtype, device=gram.device)
    return least_squares(gram, gram.sum(1, keepdim=True), ones, kept_inputs, ridge)[kept_inputs, 0]


def tune_mask(gram: Tensor, kept_inputs: Tensor, ridge: float = 1e-2) -> tuple[Tensor, float]:
    """The mask (k,) under the guard, and its lambda.

    Lambda is multiplied by 4 until the variance of the mask is at most MAX_VARIANCE.

    Args:
        gram: G (n, n).
        kept_inputs: the inputs that stay (k,).
        ridge: the first lambda.

    Raises InputError when no mask is found in MAX_ROUNDS rounds.
    """
    variance = 0.0
    for _ in range(MAX_ROUNDS):
        mask = solve_mask(gram, kept_inputs, ridge)
        variance = float(mask.var(unbiased=False))
        if variance <= MAX_VARIANCE:
            return mask, ridge
        ridge *= 4.0
    raise InputError(
        expected="sums over tokens for which a mask can be tuned",
        got=f"a mask of variance {variance:g} after {MAX_ROUNDS} rounds",
        hint="try dtype float32",
    )


def fold_mask(weight: Tensor, kept_inputs: Tensor, mask: Tensor) -> Tensor:
    """V (n, m): rows of `weight` (n, m) times the mask (k,), zero where an input went."""
    folded = keep_rows(weight, kept_inputs)
    folded[kept_inputs] *= mask[:, None]
    return folded


def refit_by_mask(problem: Problem, selection: Selection) -> Refit:
    """The paper's recovery: one tuned factor for each input that stays, folded into its weights."""
    inputs = problem.inputs_of(selection.kept)
    mask, ridge = tune_mask(contributions(problem.xtx, problem.scaled_weight), inputs, problem.ridge)
    refitted = fold_mask(problem.weight, inputs, mask)
    energy, error = problem.statistics.energy_and_error(problem.weight, refitted)
    return Refit(selection.kept, refitted, error=relative_error(error, energy), ridge=ridge)
