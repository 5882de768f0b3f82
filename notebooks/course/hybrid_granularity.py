"""What lesson 03 needs besides its cells, which hold the lesson's own ideas.

This module narrows single layers alone and asks the model, reads `benchmarks/hybrids.json` into objects of
the library, and makes the plan that looks like the best and is not: water-filling by error curves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from comp_lib.decoder.decoder import as_decoder
from comp_lib.decoder.run import layer_arguments
from comp_lib.decoder.shape import Shape
from comp_lib.decoder.structure import layers_of
from comp_lib.decoder.types import Model
from comp_lib.decoder.walk import walk
from comp_lib.hybrid_granularity.by_harm import allocate_widths
from comp_lib.hybrid_granularity.measured import MeasuredHarm, gather_and_pass
from comp_lib.hybrid_granularity.narrowing import states_with_and_without
from comp_lib.hybrid_granularity.plan import FLOOR_SHARE, Plan, PlanRequest
from comp_lib.hybrid_granularity.uniform import uniform_plan
from comp_lib.importance.matrix_condition import Sweep
from comp_lib.importance.problem import RIDGE

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


class NarrowedAlone(NamedTuple):
    """The effect on the model if one layer loses some MLP neurons and is refitted, and no other changes."""

    tried: list[int]  # the layers that were narrowed
    errors: NDArray[np.float64]  # that this puts into the stream, a share of its energy (tried,)
    divergences: NDArray[np.float64]  # divergence of the answers on each judging sequence, nats (tried, S)
    energies: tuple[Tensor, ...]  # of the neurons of each layer of the model, ascending (layers,)


@torch.no_grad()
def narrowed_alone(
    model: Model,
    fitted: Tensor,
    judging: Tensor,
    removed: int,
    divergence: Callable[[Tensor, Tensor], Tensor],
    layer_step: int = 2,
) -> NarrowedAlone:
    """Narrows every `layer_step`-th layer and the last one, each alone, and asks the model.

    The `removed` neurons of the least energy go, and the rest is refitted on fitted (S, L). Then
    `divergence(dense logits, logits)` of judging (S, L) gives a number for each sequence (S,).
    """
    decoder = as_decoder(model)
    stream = decoder.embed(fitted)
    arguments = layer_arguments(decoder.structure, fitted.shape[1], model.device, stream.dtype)
    judged: dict[int, Tensor] = {}  # the judging stream so far, for each layer that was narrowed
    dense = torch.empty(0)
    errors = []
    energies = []
    for visit in walk(decoder, judging):
        judged = {index: visit.send_through(states) for index, states in judged.items()}
        statistics = gather_and_pass(visit.layer, stream, arguments)
        weight = weight_of(visit.layer)
        energy = statistics.diagonal() * weight.square().sum(1) / statistics.token_count
        energies.append(energy.sort().values)
        if visit.index % layer_step == 0 or visit.index == len(layers_of(model)) - 1:
            kept = energy.argsort()[removed:].sort().values
            refitted = statistics.refit(weight, kept, RIDGE)
            errors.append(float(statistics.energy(weight - refitted) / statistics.token_count))
            visit.after, judged[visit.index] = states_with_and_without(
                visit.layer, visit.before, visit.arguments, refitted
            )
        dense = visit.after
    answers = decoder.logits(decoder.norm(dense))
    divergences = []
    for states in judged.values():
        moved = divergence(answers, decoder.logits(decoder.norm(states)))
        divergences.append(moved.double().numpy())
    return NarrowedAlone([*judged], np.array(errors), np.stack(divergences), tuple(energies))


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
    errors = torch.full((shape.layer_count,), torch.nan, dtype=torch.float64)
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
