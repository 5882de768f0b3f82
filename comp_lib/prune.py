"""COMP, on one page: plan, then walk the decoder once, layer by layer.

For each layer that stays: (1) watch the calibration text pass, gathering the Gram statistics of its dense layers;
(2) choose which neurons and KV groups go; (3) re-tune what stays; (4) shrink the tensors; (5) let the text pass
through the pruned layer, so that the next layer is tuned on what it will really see.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from .baselines import PLANNERS
from .errors import InputError
from .importance.layers import layers_to_drop
from .narrow import Gather, at_once
from .plan import Plan, layers_needed, paper_plan, uniform_plan
from .report import Report, Watch
from .sensitivity import measured_plan, sensitivity
from .settings import Settings
from .shape import Shape
from .stream import Progress, no_progress, to_device
from .surgery import check_biases, keep_layers, update_config
from .walk import Done, Walk

DEFAULTS = Settings()
IMPORTANCE_SEQUENCES = 4  # calibration sequences on which whole layers are judged: a ranking needs fewer than a fit


@dataclass(frozen=True)
class Pruned:
    model: nn.Module
    plan: Plan
    report: Report


def share(model: nn.Module) -> nn.Module:
    """A second model with its own structure and config around the same tensors: surgery replaces, never writes."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


def make_plan(
    model: nn.Module, ids: Tensor, settings: Settings, name: str = "", progress: Progress = no_progress
) -> tuple[Plan, tuple[float, ...] | None]:
    """The plan that `settings` ask for, and the layer importance it rests on (None where it needed none)."""
    shape, biased = Shape.of(model), settings.recovery == "bias"
    if biased:
        check_biases(model)
    if settings.method in PLANNERS:
        return PLANNERS[settings.method](model, ids, settings, name, progress), None
    options = dict(of=settings.of, kv_groups=settings.kv_groups, multiple=settings.multiple, parent=name, biased=biased)
    count = settings.layer_count(shape.layers)
    if count is None:
        count = layers_needed(shape, settings.ratio, **options)
    drop, importance = [], None
    if count or settings.widths == "per-layer":
        judged = ids[:IMPORTANCE_SEQUENCES]
        drop, found = layers_to_drop(settings.layer_metric, model, judged, count, settings.device, progress)
        importance = tuple(found.tolist())
    if settings.widths == "per-layer":
        return paper_plan(shape, settings.ratio, importance, drop=drop, **options), importance
    plan = uniform_plan(shape, settings.ratio, drop=drop, **options)
    if settings.widths == "measured" and (gone := max(shape.neurons) - min(plan.neurons)):
        del options["biased"]  # the recovery that adds biases has no such widths
        found = sensitivity(model, ids, gone, progress=progress)
        plan = measured_plan(shape, settings.ratio, found, drop=drop, **options)
    return plan, importance


@torch.no_grad()  # not inference mode: the tensors of the result must be ordinary ones
def prune(
    model: nn.Module,
    ids: Tensor,
    settings: Settings = DEFAULTS,
    *,
    plan: Plan | None = None,
    name: str = "",
    progress: Progress = no_progress,
    inplace: bool = False,
    gather: Gather = at_once,
) -> Pruned:
    """Prune `model` on the calibration tokens `ids` (S, L) and return the smaller model, its plan and a report.

    The given model stays as it is, sharing the tensors that do not change; with `inplace` its layers are given up one
    by one, which halves the memory. A `plan` that only says how much stays leaves the choice to the metric; one that
    names what stays (`kept_neurons`, `kept_groups`, as a finished plan does) is carried out to the letter.
    Raises InputError before any work when the settings or the plan cannot be met.
    With `gather=shards.over(client)` the workers of a Dask cluster share the calibration sequences.
    The recovery "bias" adds parameters, which `removed` and the report count.
    Time: about two dense forward passes. Memory: the hidden states of all tokens, one layer, a few n x n matrices.
    """
    started, watch = time.perf_counter(), Watch()
    settings.check()
    check_tokens(ids)
    before = Shape.of(model)
    importance = None
    if plan is None:
        plan, importance = make_plan(model, ids, settings, name, progress)
    check_plan(plan, before, settings)
    if settings.recovery == "bias":
        check_biases(model)
    model = model if inplace else share(model)
    walk = Walk(model, ids, settings, plan, before, watch, gather)
    finished = []
    for index in range(before.layers):
        home = next(model.model.layers[index].parameters()).device
        layer = to_device(model.model.layers[index], walk.device, own=inplace)
        done = walk.take(index, layer)
        if done is not None:
            model.model.layers[index] = layer.to(home)
            finished.append(done)
            progress("pruning", len(finished), len(plan.layers))

    keep_layers(model, plan.layers)
    update_config(model)
    after = Shape.of(model)
    plan, report = concluded(plan, finished, settings, ids, before, after, importance, time.perf_counter() - started)
    return Pruned(model, plan, report)


def concluded(
    plan: Plan, finished: Sequence[Done], settings: Settings, ids: Tensor, before: Shape, after: Shape,
    importance: tuple[float, ...] | None, seconds: float,
) -> tuple[Plan, Report]:  # fmt: skip
    """The plan as it was carried out, and the report."""
    gone = (before.decoder - after.decoder) / (before.decoder if plan.of == "decoder" else before.total)
    kept_neurons = tuple(done.kept_neurons for done in finished)
    kept_groups = tuple(done.kept_groups for done in finished)
    plan = replace(plan, kept_neurons=kept_neurons, kept_groups=kept_groups, removed=gone)
    report = Report(
        settings=asdict(settings),
        tokens=ids.numel(),
        layers=tuple(done.report for done in finished),
        layer_importance=importance,
        seconds=seconds,
        parameters_before=before.total,
        parameters_after=after.total,
    )
    return plan, report


def check_tokens(ids: Tensor) -> None:
    """Raises InputError unless `ids` are sequences (S, L)."""
    if ids.ndim != 2 or not ids.numel():
        raise InputError(
            f"expected calibration tokens as sequences (S, L), got shape {tuple(ids.shape)}: give some text"
        )


def check_plan(plan: Plan, shape: Shape, settings: Settings) -> None:
    """Raises InputError unless `plan` can be carried out on a decoder of this shape."""
    plan.check()
    if settings.method in PLANNERS and (plan.kept_neurons is None or plan.kept_groups is None):
        raise InputError(
            f"expected a plan that names what stays, as those of the method {settings.method} do, got one of widths: "
            "leave the plan out, or choose a method that chooses layer by layer"
        )
    if plan.parent_layers != shape.layers:
        raise InputError(f"expected a plan for {shape.layers} layers, got one for {plan.parent_layers}: plan anew")
    for name, kept, whole in (("neurons", plan.neurons, shape.neurons), ("KV groups", plan.kv_groups, shape.kv_groups)):
        for layer, count in zip(plan.layers, kept, strict=True):
            if count > whole[layer]:
                raise InputError(f"expected at most {whole[layer]} {name} in layer {layer}, got {count}: plan anew")
