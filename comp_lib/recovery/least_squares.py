"""Least squares (beyond the paper, same statistics): one symmetric solve for all weights of the survivors.

    V_K = (C_KK + D_KK)^-1 (B_K + D_KK W_K),        D = lambda diag(C), B = X^T Y*,

with the same pull towards the old weights as a tuned mask has, in proportion to each neuron's own energy.
With B = C W the target is the layer's own output (the aim "self"). A given B has another target: what the
residual stream lacks at this depth, compared with the dense model's (the aim "dense"). The solve itself is
`importance.statistics.solve.least_squares`; each form of the statistics has a `refit` of its own.

The ridge lambda is chosen by text that the fit has not seen. It says how strongly the survivors are held to
their old weights: the fewer tokens there are, the more strongly. A fit to 1,000 tokens says little about
1,500 neurons, and a fit to 80,000 tokens says a lot. Statistics are sums over tokens, so both halves of the
calibration text are available: V is fitted to the first half for each lambda of a grid, and judged on the
second half by

    ||Y* - X V||^2 - ||Y*||^2 = tr(V^T C V) - 2 tr(V^T B)        with C and B of the second half.

The whole text then gets the same pull in absolute terms: lambda times its share of the tokens. (Our
derivation, tested against brute force.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..importance.problem import Problem, Selection
from ..importance.statistics.sums import Statistics, relative_error
from .refit import Refit

RIDGES = tuple(0.01 * 3.0**k for k in range(8))  # lambdas: 0.01 to 21.9, relative to each input's own energy
PROJECTIONS = 128  # mixtures of outputs on which ridges are compared, for twice as many outputs or more


def _signs(outputs: int, mixtures: int) -> Tensor:
    """M (m, p), random signs divided by sqrt(p): the mean of ||E M||^2 is ||E||^2.

    The signs are the same in each call.
    """
    draw = torch.randint(2, (outputs, mixtures), generator=torch.Generator().manual_seed(0))
    return (2 * draw - 1).double().div(mixtures**0.5)


def choose_ridge(
    fitting: Statistics,
    held_out: Statistics,
    weight: Tensor,
    kept_inputs: Tensor,
    gain: Tensor | None = None,
    previous: int | None = None,
) -> tuple[float, int]:
    """The ridge for both halves of the text together, and its position in RIDGES.

    Args:
        fitting: the half of the text that weights are fitted to.
        held_out: the half that judges them.
        weight: W (n, m).
        kept_inputs: the inputs that stay (k,).
        gain: how much an error of each output counts (m,); None: all alike.
        previous: the position that the layer before got. The ridge changes slowly from layer to layer, so
            only this position and its neighbours are tried; None: all ridges are tried.
    """
    positions = range(len(RIDGES))
    if previous is not None:
        positions = range(max(0, previous - 1), min(len(RIDGES), previous + 2))
    outputs = weight.shape[1]
    mix = _signs(outputs, PROJECTIONS) if outputs >= 2 * PROJECTIONS else torch.eye(outputs)  # (m, p)
    mix = mix.to(weight)
    if gain is not None:
        mix = gain.to(weight)[:, None] * mix
    errors = fitting.mix_outputs(mix).held_out_errors(
        held_out.mix_outputs(mix), weight @ mix, kept_inputs, RIDGES[positions.start : positions.stop]
    )
    position = positions.start + errors.index(min(errors))
    share = fitting.token_count / (fitting.token_count + held_out.token_count)
    return RIDGES[position] * share, position


def refit_by_least_squares(problem: Problem, selection: Selection) -> Refit:
    """COMP's recovery: all weights of what stays are fitted, to the target that the statistics hold."""
    statistics = problem.statistics
    weight = problem.weight
    swept = selection.swept
    if swept is not None and selection.sweep_solved_it and not statistics.has_target:
        refitted = swept.weights  # the sweep has solved the same problem
        energy = statistics.energy(weight)
        error = max(0.0, float(swept.errors[-1]))
    else:
        refitted = statistics.refit(weight, problem.inputs_of(selection.kept), problem.ridge)
        energy, error = statistics.energy_and_error(weight, refitted)
    return Refit(selection.kept, refitted, error=relative_error(error, energy), ridge=problem.ridge)
