"""Least squares (beyond the paper, same statistics): all weights of the survivors are free, by one symmetric solve.

    V_K = (C_KK + D_KK)^-1 (B_K + D_KK W_K),        D = lambda diag(C), B = X^T Y*,

with the same pull towards "change nothing", in proportion to each neuron's own energy. With B = C W the target is the
layer's own output ("self"); with B from outside it is whatever the dense model's residual stream misses at this depth
("dense"). The solve itself is `solve.least_squares`; statistics know how to `refit` in their own form.

The ridge lambda is chosen by text that the fit has not seen. How strongly should the survivors be held to their old
weights? The fewer tokens, the more: a fit to 1,000 tokens says little about 1,500 neurons, one to 80,000 says a lot.
Statistics are sums over tokens, so both halves of the calibration text are at hand: V is fitted to the first for each
lambda of a grid, and judged on the second by

    ||Y* - X V||^2 - ||Y*||^2 = tr(V^T C V) - 2 tr(V^T B)        with C and B of the second half.

The whole text then gets the same pull in absolute terms: lambda times its share of the tokens. (Our derivation, tested
against brute force.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..importance.neurons import Problem, Selection
from ..statistics.gram import Statistics
from .refit import Refit, relative

GRID = tuple(0.01 * 3.0**k for k in range(8))  # 0.01 to 21.9, relative to each input's own energy
MIXTURES = 128  # mixtures of the outputs on which lambdas are compared, where there are twice as many or more


def _signs(outputs: int, mixtures: int) -> Tensor:
    """Signs (m, p), each 1 / sqrt(p), the same ones each time: ||E M||^2 is ||E||^2 on the mean over such M."""
    draw = torch.randint(2, (outputs, mixtures), generator=torch.Generator().manual_seed(0))
    return (2 * draw - 1).double().div(mixtures**0.5)


def choose_ridge(
    seen: Statistics,
    held: Statistics,
    weight: Tensor,
    kept: Tensor,
    gain: Tensor | None = None,
    last: int | None = None,
) -> tuple[float, int]:
    """Lambda for both halves together, and its place in GRID: `seen` is fitted, `held` judges; W (n, m), kept (k,).

    gain (m,): how much an error of each output counts; None: all the same.
    last: the place of the layer before, beside which is looked, for lambdas change slowly; None: everywhere.
    """
    places = range(len(GRID)) if last is None else range(max(0, last - 1), last + 2)
    ridges = GRID[places.start : places.stop]
    outputs = weight.shape[1]
    mix = (_signs(outputs, MIXTURES) if outputs >= 2 * MIXTURES else torch.eye(outputs)).to(weight)
    mix = mix if gain is None else gain.to(weight)[:, None] * mix
    seen, held, weight = seen.mix_outputs(mix), held.mix_outputs(mix), weight @ mix
    errors = seen.held_out_errors(held, weight, kept, ridges)
    place = places.start + errors.index(min(errors))
    return GRID[place] * seen.tokens / (seen.tokens + held.tokens), place


def refit_by_least_squares(problem: Problem, selection: Selection) -> Refit:
    """COMP's recovery: all weights of what stays are fitted, to the target that the statistics hold."""
    statistics = problem.statistics
    weight = problem.weight
    curve = selection.curve
    if selection.refitted is not None and curve is not None and statistics.given_target is None:
        fitted = selection.refitted  # the sweep solved this very problem on its way
        energy = statistics.energy(weight)
        error = max(0.0, float(curve.errors[-1] - curve.penalties[-1]))
    else:
        fitted = statistics.refit(weight, problem.inputs_of(selection.kept), problem.ridge)
        energy, error = statistics.energy_and_error(weight, fitted)
    return Refit(selection.kept, fitted, error=relative(error, energy), ridge=problem.ridge)
