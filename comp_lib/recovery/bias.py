"""Recovery that leaves the weights alone: nothing, or a bias.

FLAP (An et al. 2023) adds the mean of what went to the layer's output: b = mean(x)_R W_R for the removed
inputs R.
"""

from __future__ import annotations

from torch import Tensor

from ..importance.problem import Problem, Selection
from ..importance.statistics.solve import keep_rows
from ..importance.statistics.sums import relative_error
from .refit import Refit


def mean_bias(mean: Tensor, weight: Tensor, kept_inputs: Tensor) -> Tensor:
    """b (m,), the mean contribution of the inputs that went.

    Args:
        mean: the mean of each input (n,).
        weight: W (n, m).
        kept_inputs: the inputs that stay (k,).
    """
    removed_mean = mean.clone()
    removed_mean[kept_inputs] = 0.0
    return removed_mean @ weight.to(removed_mean)


def refit_by_bias(problem: Problem, selection: Selection) -> Refit:
    """FLAP's recovery: the weights stay as they are, and the mean of what went becomes a bias."""
    statistics = problem.statistics
    inputs = problem.inputs_of(selection.kept)
    refitted = keep_rows(problem.weight, inputs)
    bias = mean_bias(statistics.unweighted_mean(), problem.weight, inputs)
    energy, error = statistics.energy_and_error(problem.weight, refitted)
    error += statistics.bias_energy(problem.weight - refitted, bias)
    return Refit(selection.kept, refitted, bias, error=relative_error(error, energy))


def keep_weights(problem: Problem, selection: Selection) -> Refit:
    """No recovery: the weights of what stays remain as they are."""
    refitted = keep_rows(problem.weight, problem.inputs_of(selection.kept))
    energy, error = problem.statistics.energy_and_error(problem.weight, refitted)
    return Refit(selection.kept, refitted, error=relative_error(error, energy))
