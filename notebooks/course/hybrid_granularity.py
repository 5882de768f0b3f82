"""Behind lesson 03: `benchmarks/hybrids.json` read as what the library knows, layers that are narrowed alone, and
water-filling by error curves, the plan that the lesson shows to fail. The lesson's own ideas stand in its cells.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from comp_lib.calibration.stream import through
from comp_lib.families.protocol import Model
from comp_lib.hybrid_granularity.measured import allocate_widths
from comp_lib.hybrid_granularity.uniform import uniform_plan
from comp_lib.importance.matrix_condition import Sweep
from comp_lib.importance.neurons import RIDGE
from comp_lib.importance.widths import Sensitivity, narrowed
from comp_lib.plan import SMALLEST_SHARE, Plan, PlanRequest
from comp_lib.shape import Shape

from .dense_stream import walk_to, weight_of

STEP = 32  # neurons between two points of a stored curve


def stored_sensitivity(found: Mapping[str, Any]) -> Sensitivity:
    """The harm of narrowing each layer alone, and its error curve, as `benchmarks/hybrids.json` keeps them.

    The curves are per token: which share of the stream's energy the error is.
    """
    none, errors = torch.empty(0), torch.tensor(found["curves"], dtype=torch.float64)  # (layers, K + 1)
    counts = STEP * torch.arange(1, errors.shape[1])
    curves = [Sweep(none, none, curve[1:], counts, torch.zeros(len(counts)), none, none) for curve in errors]
    harm = torch.tensor(found["kl"], dtype=torch.float64)
    return Sensitivity((int(found["gone"]),) * len(harm), harm, tuple(curves))


def narrowed_alone(
    model: Model, ids: Tensor, layers: Collection[int], gone: int
) -> Iterator[tuple[int, float, Tensor]]:
    """Each of `layers` without its `gone` cheapest neurons, refitted on ids (S, L) while all others are dense.

    Yields its number, the error that this puts into the stream (a share of its energy), and V (n, d).
    """
    stream, rope = walk_to(model, ids, 0)
    for number, layer in enumerate(model.model.layers):
        if number not in layers:
            stream = through(layer, stream, rope, "cpu")
            continue
        weight = weight_of(layer)
        _, gram, fitted = narrowed(
            layer, stream, rope, gone, RIDGE, fewest=len(weight) - gone
        )  # moves the stream on
        yield number, float(gram.energy(weight - fitted) / gram.tokens), fitted


def named_plan(plan: Plan, order: Sequence[Sequence[int]], shape: Shape) -> Plan:
    """The plan with the names of the neurons that stay: those that would go last in each layer.

    order[layer]: neurons of the parent's layer, first to go first; what it does not name stays while there is room.
    """
    kept = []
    for layer, width in zip(plan.layers, plan.neurons, strict=True):
        gone = set(order[layer][: shape.neurons[layer] - width])
        kept.append(tuple(neuron for neuron in range(shape.neurons[layer]) if neuron not in gone)[:width])
    return replace(plan, kept_neurons=tuple(kept))


def layer_errors(sensitivity: Sensitivity, shape: Shape, plan: Plan) -> Tensor:
    """Predicted error that each narrowed MLP puts into the stream, as a share of its energy: (parent layers,), float64.

    What a dropped layer does is not known: NaN.
    """
    errors = torch.full((shape.layers,), torch.nan, dtype=torch.float64)
    for layer, width in zip(plan.layers, plan.neurons, strict=True):
        curve = sensitivity.errors(layer, shape.neurons[layer])
        errors[layer] = curve[min(shape.neurons[layer] - width, len(curve) - 1)]
    return errors


def water_filling_plan(request: PlanRequest, sensitivity: Sensitivity) -> Plan:
    """Always narrow next the layer that puts least error into the stream: the plan that looks best, and is not.

    No layer falls under a tenth of its neurons. Raises InputError as `uniform_plan` does.
    """
    uniform, shape = uniform_plan(request), request.shape
    errors = {layer: sensitivity.errors(layer, shape.neurons[layer]) for layer in request.layers}
    for layer, curve in errors.items():
        errors[layer] = curve[: shape.neurons[layer] - int(SMALLEST_SHARE * shape.neurons[layer]) + 1]
    widths = allocate_widths(shape, errors, sum(uniform.neurons), request.multiple)
    return uniform if widths is None else request.plan(widths)  # None: too little room for steps of this size
