"""The recoveries by name: three let what stays take over the work of what went, one does not."""

from collections.abc import Callable

from ..importance.problem import Problem, Selection
from .bias import keep_weights, refit_by_bias
from .least_squares import refit_by_least_squares
from .mask_tuning import refit_by_mask
from .names import RecoveryName
from .refit import Refit

Recovery = Callable[[Problem, Selection], Refit]
"""A function that computes the weights of the blocks that stay."""

RECOVERIES: dict[RecoveryName, Recovery] = {
    "least-squares": refit_by_least_squares,
    "mask": refit_by_mask,
    "bias": refit_by_bias,
    "none": keep_weights,
}
