"""COMP, on one page: plan, then walk the decoder once, layer by layer.

The plan says how many layers, neurons and KV groups stay (`planning.make_plan`). Then, for each layer that stays
(`prune_layer.LayerPruner`):

1. `collect_statistics`: the calibration text passes the dense layer, whose inputs are summed up;
2. `choose`: the metric says which neurons (and KV groups) stay;
3. `fit`: the weights that stay are refitted to the output that was there;
4. `shrink`: the tensors get smaller;
5. `pass_on`: the text passes the pruned layer, so that the next layer is fitted to what it will really see.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .calibration.stream import to_device
from .families import layers_of
from .families.protocol import Model
from .plan import Plan
from .planning import check_call, concluded, make_plan
from .progress import Progress, no_progress
from .prune_layer import LayerPruner, LayerReport, Report
from .settings import Settings
from .shape import Shape
from .surgery import keep_layers, shallow_copy, update_config
from .system.tensors import finite


@dataclass(frozen=True)
class Pruned:
    """What `prune` returns."""

    model: nn.Module
    plan: Plan
    report: Report


@torch.no_grad()  # not inference mode: the tensors of the result must be ordinary ones
def prune(
    model: Model,
    ids: Tensor | None = None,
    settings: Settings = Settings(),  # noqa: B008  a frozen value
    *,
    plan: Plan | None = None,
    name: str = "",
    progress: Progress = no_progress,
    inplace: bool = False,
) -> Pruned:
    """Prune `model` on the calibration tokens `ids` (S, L) and return the smaller model, its plan and a report.

    The given model stays as it is, sharing the tensors that do not change; with `inplace` its layers are given up one
    by one, which halves the memory. A `plan` that only says how much stays leaves the choice to the metric; one that
    names what stays (`kept_neurons`, `kept_groups`, as a finished plan does) is carried out to the letter.
    `progress` gets the report of each layer when it is finished.
    Raises InputError before any work when the settings or the plan cannot be met, or a weight is NaN or infinite.
    The recovery "bias" adds parameters, which the plan's `removed` counts.
    Time: about two dense forward passes. Memory: the hidden states of all tokens, one layer, a few n x n matrices.
    """
    started = time.perf_counter()
    ids = check_call(model, ids, settings, plan)
    for weight, values in model.named_parameters():
        finite(weight, values)
    before = Shape.of(model)
    plan = plan or make_plan(model, ids, settings, name, progress)
    model = model if inplace else shallow_copy(model)
    pruner = LayerPruner(model, ids, settings, plan, before)
    layers, finished = layers_of(model), list[LayerReport]()
    for index in range(before.layers):
        origin = next(layers[index].parameters()).device
        layer = to_device(layers[index], pruner.device, own=inplace)
        done = pruner.prune_layer(index, layer)
        if done is not None:
            layers[index] = layer.to(origin)
            finished.append(done)
            progress("pruning", len(finished), len(plan.layers), done)
    keep_layers(model, plan.layers)
    update_config(model)
    finished_plan, report = concluded(plan, finished, settings, ids, before, Shape.of(model))
    return Pruned(model, finished_plan, replace(report, seconds=time.perf_counter() - started))
