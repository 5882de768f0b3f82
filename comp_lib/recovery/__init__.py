"""What stays of a dense layer takes over the work of what went.

It does so by a tuned mask (the paper's), by least squares (COMP's), by a bias (FLAP's), or not at all.
"""

from collections.abc import Callable

from ..importance.neurons import Problem, Selection
from ..surgery import Refit
from .bias import keep_weights, refit_by_bias
from .least_squares import refit_by_least_squares
from .mask_tuning import refit_by_mask

Recovery = Callable[[Problem, Selection], Refit]
"""Anything that can say what weights the blocks that stay get."""

RECOVERIES: dict[str, Recovery] = {
    "least-squares": refit_by_least_squares,
    "mask": refit_by_mask,
    "bias": refit_by_bias,
    "none": keep_weights,
}
