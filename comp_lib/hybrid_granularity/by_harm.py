"""Widths by harm: a layer whose narrowing harms the model less loses more.

The harm of narrowing each layer alone is measured (`measured`) or, for less time, estimated
(`estimated`). The error curve e_l of the layer extends it to all other widths:

    predicted harm of removing g neurons from layer l = harm_l^HARM_EXPONENT * e_l(g) / e_l(reference),

and each step removes the neurons with the least predicted harm. HARM_EXPONENT is below 1, because all layers
become narrower together. The errors of one layer also reach the layers after it, so a layer that is spared
gains less than the sum of the harms promises. The value of the exponent is measured, not derived
(benchmarks/RESULTS.md). (Our derivation; the paper's own rule is in `paper`.)
"""

from __future__ import annotations

import math
from typing import Protocol

from torch import Tensor

from ..decoder.shape import Shape
from .plan import Plan, PlanRequest
from .uniform import uniform_plan

HARM_EXPONENT = 0.75
SMALLEST_ERROR = 1e-300  # divisor of a curve of zeros


class LayerHarms(Protocol):
    """What a plan reads, of `importance`: a `MeasuredHarm` or an `EstimatedHarm`."""

    @property
    def removals(self) -> tuple[int, ...]:
        """How many neurons each layer alone lost (layers,)."""

    @property
    def harm(self) -> Tensor:
        """The divergence that came of it, nats per token (layers,)."""

    def errors(self, layer: int, neurons: int) -> Tensor:
        """Error of a layer's output with 0, 1, ... of its `neurons` removed, down to the least width."""


def plan_by_harm(request: PlanRequest, harms: LayerHarms) -> Plan:
    """At most as many parameters as `uniform_plan` leaves, most of them where narrowing harms most.

    Each step narrows one layer to its next lower multiple, where the predicted harm per neuron is least.
    Where there is no room for steps of this size, the result is the uniform plan.

    Raises OutOfReach as `uniform_plan` does.
    """
    uniform = uniform_plan(request)
    shape = request.shape
    predicted = {}
    for layer in uniform.layers:
        errors = harms.errors(layer, shape.neurons[layer])
        reference = float(errors[harms.removals[layer]].clamp_min(SMALLEST_ERROR))
        harm = max(float(harms.harm[layer]), 0.0) ** HARM_EXPONENT
        predicted[layer] = harm * errors / reference
    widths = allocate_widths(shape, predicted, sum(uniform.neurons), request.multiple)
    return uniform if widths is None else request.plan_with(widths)


def allocate_widths(
    shape: Shape, harm_curves: dict[int, Tensor], budget: int, multiple: int
) -> tuple[int, ...] | None:
    """Widths of these layers, by least harm per neuron; None where steps do not reach the budget.

    Args:
        harm_curves: for each layer, the predicted harm with 0, 1, ... of its neurons removed, as far as it
            may be narrowed.
        budget: neurons that all layers together keep, at most.
        multiple: the step: widths are multiples of it.
    """
    widths = {layer: shape.neurons[layer] for layer in harm_curves}
    prices = {
        layer: _price(shape.neurons[layer], widths[layer], harm_curves[layer], multiple) for layer in widths
    }
    while sum(widths.values()) > budget:
        cheapest = min(prices, key=prices.__getitem__)
        if prices[cheapest] == math.inf:
            return None
        widths[cheapest] = _narrower(widths[cheapest], multiple)
        prices[cheapest] = _price(shape.neurons[cheapest], widths[cheapest], harm_curves[cheapest], multiple)
    return tuple(widths.values())


def _narrower(width: int, multiple: int) -> int:
    """The next lower multiple below `width`."""
    return (width - 1) // multiple * multiple


def _price(neurons: int, width: int, curve: Tensor, multiple: int) -> float:
    """Predicted harm per neuron of the next step from `width`; inf where a layer of `neurons` has no step."""
    narrower = _narrower(width, multiple)
    if narrower < min(multiple, neurons) or neurons - narrower >= len(curve):
        return math.inf
    return float(curve[neurons - narrower] - curve[neurons - width]) / (width - narrower)
