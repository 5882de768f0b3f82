"""Measured widths: layers that mind less lose more.

The error curve e_l of a layer's sweep carries its measured harm (`importance.widths`) to all other widths, and each
step takes what is cheapest,

    predicted harm of g neurons gone from layer l = harm_l^HARM_EXPONENT * e_l(g) / e_l(reference),

HARM_EXPONENT < 1 because the layers are narrowed together, not alone: what one layer spoils also reaches the layers behind it,
and the spared ones gain less than the sum promises. Its value is measured, not derived (benchmarks/RESULTS.md).
(Our derivation; the paper's own rule is in `paper`.)
"""

from __future__ import annotations

from torch import Tensor

from ..importance.widths import Sensitivity
from ..plan import Plan, PlanRequest
from ..shape import Shape
from .uniform import uniform_plan

HARM_EXPONENT = 0.75


def measured_plan(request: PlanRequest, sensitivity: Sensitivity) -> Plan:
    """As many parameters as `uniform_plan` leaves, in the layers that mind most. Raises InputError as that does.

    Each step narrows one layer to its next lower multiple, where the predicted harm per neuron is least.
    """
    uniform, shape = uniform_plan(request), request.shape
    harms = {}
    for layer in uniform.layers:
        errors = sensitivity.errors(layer, shape.neurons[layer])
        harm = max(float(sensitivity.harm[layer]), 0.0) ** HARM_EXPONENT
        harms[layer] = harm * errors / float(errors[sensitivity.removed[layer]].clamp_min(1e-300))
    widths = allocate_widths(shape, harms, sum(uniform.neurons), request.multiple)
    return uniform if widths is None else request.plan(widths)  # None: too little room for steps of this size


def allocate_widths(
    shape: Shape, harms: dict[int, Tensor], most: int, multiple: int
) -> tuple[int, ...] | None:
    """Widths of the layers in `harms`, at most `most` neurons in all, by least harm per neuron; None: no such steps.

    harms: for each layer, predicted harm with 0, 1, ... of its neurons gone, as far as it may be narrowed.
    """
    widths = {layer: shape.neurons[layer] for layer in harms}

    def price(layer: int) -> float:
        full, now = shape.neurons[layer], widths[layer]
        after = (now - 1) // multiple * multiple
        if after < min(multiple, full) or full - after >= len(harms[layer]):
            return float("inf")
        return float(harms[layer][full - after] - harms[layer][full - now]) / (now - after)

    prices = {layer: price(layer) for layer in widths}
    while sum(widths.values()) > most:
        cheapest = min(prices, key=prices.__getitem__)
        if prices[cheapest] == float("inf"):
            return None
        widths[cheapest] = (widths[cheapest] - 1) // multiple * multiple
        prices[cheapest] = price(cheapest)
    return tuple(widths.values())
