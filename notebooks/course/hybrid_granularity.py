"""What lesson 03 needs besides its cells, which hold the lesson's own ideas.

This module reads `benchmarks/hybrids.json` into objects of the library, narrows single layers alone, and
makes the plan that the lesson shows to fail: water-filling by error curves.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from comp_lib.families.types import Model
from comp_lib.hybrid_granularity.measured import allocate_widths
from comp_lib.hybrid_granularity.uniform import uniform_plan
from comp_lib.importance.matrix_condition import Sweep
from comp_lib.importance.measured_harm import MeasuredHarm, gather_and_pass, narrow
from comp_lib.importance.neurons import RIDGE
from comp_lib.plan import FLOOR_SHARE, Plan, PlanRequest
from comp_lib.shape import Shape
from comp_lib.walk import walk

from .dense_stream import weight_of

STEP = 32  # neurons between two points of a stored curve


def stored_harm(record: Mapping[str, Any]) -> MeasuredHarm:
    """The harm of narrowing each layer alone, and its error curve.

    record: of a model in `benchmarks/hybrids.json`. A point of a curve is the error per token, as a share of
    the stream's energy; there is one for each "multiple" of neurons, or for each STEP.
    """
    errors = torch.tensor(record["curves"], dtype=torch.float64)  # (layers, K + 1)
    counts = record.get("multiple", STEP) * torch.arange(1, errors.shape[1])
    empty = torch.empty(0)  # the file keeps the curves alone
    zeros = torch.zeros(len(counts))
    sweeps = [Sweep(empty, empty, row[1:], counts, zeros, empty, empty) for row in errors]
    harm = torch.tensor(record["kl"], dtype=torch.float64)
    removed = (int(record["gone"]),) * len(harm)
    return MeasuredHarm(removed, harm, tuple(sweeps))


def narrowed_alone(
    model: Model, ids: Tensor, layers: Collection[int], removed: int
) -> Iterator[tuple[int, float, Tensor]]:
    """Removes the `removed` cheapest neurons of each of `layers`, and refits the rest on ids (S, L).

    Each layer is narrowed alone: all others are dense. Yields the number of the layer, the error that this
    puts into the stream (a share of its energy), and the refitted weight V (n, d).
    """
    for visit in walk(model, ids):
        if visit.index not in layers:
            continue
        weight = weight_of(visit.layer)
        fewest = len(weight) - removed
        stream = visit.before
        statistics = gather_and_pass(visit.layer, stream, visit.arguments)
        visit.after = stream  # `gather_and_pass` has written the states behind the layer over it
        _, fitted = narrow(visit.layer, statistics, removed, RIDGE, fewest)
        yield visit.index, float(statistics.energy(weight - fitted) / statistics.tokens), fitted


def named_plan(plan: Plan, order: Sequence[Sequence[int]], shape: Shape) -> Plan:
    """The plan with the numbers of the neurons that stay: those that would be removed last in each layer.

    order[layer] lists neurons of the parent's layer, the first to remove first. A neuron that it does not
    list stays while there is room.
    """
    kept = []
    for layer, width in zip(plan.layers, plan.neurons, strict=True):
        removed = set(order[layer][: shape.neurons[layer] - width])
        candidates = [neuron for neuron in range(shape.neurons[layer]) if neuron not in removed]
        kept.append(tuple(candidates[:width]))
    return replace(plan, kept_neurons=tuple(kept))


def layer_errors(measured: MeasuredHarm, shape: Shape, plan: Plan) -> Tensor:
    """Predicted error that each narrowed MLP puts into the stream: (parent layers,), float64.

    Errors are shares of the stream's energy. NaN stands for a dropped layer, whose error is not known.
    """
    errors = torch.full((shape.layers,), torch.nan, dtype=torch.float64)
    for layer, width in zip(plan.layers, plan.neurons, strict=True):
        curve = measured.errors(layer, shape.neurons[layer])
        errors[layer] = curve[min(shape.neurons[layer] - width, len(curve) - 1)]
    return errors


def water_filling_plan(request: PlanRequest, measured: MeasuredHarm) -> Plan:
    """A plan that always narrows next the layer that puts least error into the stream.

    It looks like the best plan, and is not. No layer falls under a tenth of its neurons. Raises InputError as
    `uniform_plan` does.
    """
    uniform = uniform_plan(request)
    shape = request.shape
    errors = {}
    for layer in request.layers:
        neurons = shape.neurons[layer]
        most_removed = neurons - int(FLOOR_SHARE * neurons)
        errors[layer] = measured.errors(layer, neurons)[: most_removed + 1]
    widths = allocate_widths(shape, errors, sum(uniform.neurons), request.multiple)
    if widths is None:  # there is too little room for steps of this size
        return uniform
    return request.plan_with(widths)
