"""COMP, on one page: plan, then walk the decoder once, layer by layer.

The plan says how many layers, neurons and KV groups stay (`make_plan`, by `importance` and `hybrid_granularity`). Then,
for each layer that stays (`prune_layer`): (1) watch the calibration text pass, gathering the sums of its dense layers;
(2) choose which neurons and KV groups go; (3) re-tune what stays; (4) shrink the tensors; (5) pass the text on through
the pruned layer, so that the next layer is tuned on what it will really see.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .baselines import PLANNERS
from .calibration.stream import to_device
from .errors import InputError
from .families import family_of
from .families.protocol import Model
from .hybrid_granularity.measured import measured_plan
from .hybrid_granularity.paper import paper_plan
from .hybrid_granularity.uniform import layers_needed, parameters_left, uniform_plan
from .importance.layers import attentions_to_silence, check_count, layers_to_drop
from .importance.widths import reference_losses, sensitivity
from .plan import Plan
from .prune_layer import HERE, Carrier, LayerPruner, PrunedLayer
from .report import PeakMemory, Progress, Report, no_progress
from .settings import Settings
from .shape import Shape
from .surgery import check_biases, keep_layers, shallow_copy, update_config, whole_groups
from .system.clock import listening, phase
from .system.machine import exact_products

DEFAULTS = Settings()
IMPORTANCE_SEQUENCES = 4  # calibration sequences on which whole layers are judged: a ranking needs fewer than a fit


@dataclass(frozen=True)
class Pruned:
    """What `prune` returns."""

    model: nn.Module
    plan: Plan
    report: Report


class Planned(NamedTuple):
    """A plan, and the layer importance that it rests on: one number a layer of the parent, or None."""

    plan: Plan
    layer_importance: tuple[float, ...] | None = None


@torch.no_grad()  # not inference mode: the tensors of the result must be ordinary ones
@exact_products()
def prune(
    model: nn.Module,
    ids: Tensor,
    settings: Settings = DEFAULTS,
    *,
    plan: Plan | Planned | None = None,
    name: str = "",
    progress: Progress = no_progress,
    inplace: bool = False,
    carrier: Carrier = HERE,
) -> Pruned:
    """Prune `model` on the calibration tokens `ids` (S, L) and return the smaller model, its plan and a report.

    The given model stays as it is, sharing the tensors that do not change; with `inplace` its layers are given up one
    by one, which halves the memory. A `plan` that only says how much stays leaves the choice to the metric; one that
    names what stays (`kept_neurons`, `kept_groups`, as a finished plan does) is carried out to the letter.
    Raises InputError before any work when the settings or the plan cannot be met.
    With `carrier=scale.shards.Shards(client)` the workers of a Dask cluster share the calibration sequences.
    `progress` gets the report of each layer when it is finished.
    The recovery "bias" adds parameters, which `removed` and the report count.
    Time: about two dense forward passes. Memory: the hidden states of all tokens, one layer, a few n x n matrices.
    """
    started, memory, before = time.perf_counter(), PeakMemory(), Shape.of(model)
    settings.check()
    check_tokens(ids, family_of(model).embedding(model).num_embeddings)
    ids = ids.long()
    planned = plan if isinstance(plan, Planned) else Planned(plan) if plan else None
    check_family(model, settings, planned and planned.plan)
    if planned is None:
        check_request(before, settings)
    with listening() as phases:
        with phase("planning"):
            planned = planned or make_plan(model, ids, settings, name, progress)
        check_plan(planned.plan, before, settings)
        model = model if inplace else shallow_copy(model)
        layers = family_of(model).layers(model)
        pruner = LayerPruner(model, ids, settings, planned.plan, before, memory, carrier)
        finished = []
        for index in range(before.layers):
            origin = next(layers[index].parameters()).device
            layer = to_device(layers[index], pruner.device, own=inplace)
            done = pruner.prune_layer(index, layer)
            if done is not None:
                layers[index] = layer.to(origin)
                finished.append(done)
                progress("pruning", len(finished), len(planned.plan.layers), done.report)

    keep_layers(model, planned.plan.layers)
    update_config(model)
    finished_plan, report = concluded(planned, finished, settings, ids, before, Shape.of(model))
    return Pruned(model, finished_plan, replace(report, seconds=time.perf_counter() - started, phases=phases))


def make_plan(
    model: Model, ids: Tensor, settings: Settings, name: str = "", progress: Progress = no_progress
) -> Planned:
    """The plan that `settings` ask for. Raises InputError when they cannot be met."""
    shape = Shape.of(model)
    if settings.recovery == "bias":
        check_biases(model)
    if settings.method in PLANNERS:
        return Planned(PLANNERS[settings.method](model, ids, settings, name, progress))
    request = settings.request(shape, name)
    count = settings.layer_count(shape.layers)
    if count is None:
        count = layers_needed(request)
    importance, judged = None, ids[:IMPORTANCE_SEQUENCES]
    if count or settings.widths == "per-layer":
        drop, scores = layers_to_drop(settings.layer_metric, model, judged, count, settings.device, progress)
        request, importance = replace(request, drop=drop), tuple(scores.tolist())
    if settings.attentions:
        silent = attentions_to_silence(model, judged, settings.attentions, request.layers, settings.device, progress)
        request = replace(request, silent=silent)
    if settings.widths == "per-layer" and importance is not None:
        return Planned(paper_plan(request, importance), importance)
    plan = uniform_plan(request)
    if settings.widths == "measured" and (losses := reference_losses(shape, plan)):
        ridge = None if isinstance(settings.ridge, str) else settings.ridge
        weighted, device = settings.token_weights, settings.device
        measured = sensitivity(model, ids, losses, ridge=ridge, weighted=weighted, device=device, progress=progress)
        plan = measured_plan(request, measured)
    return Planned(plan, importance)


def concluded(
    planned: Planned, finished: Sequence[PrunedLayer], settings: Settings, ids: Tensor, before: Shape, after: Shape
) -> tuple[Plan, Report]:
    """The plan as it was carried out, and the report, whose seconds are still to be filled in."""
    plan = planned.plan
    plan = replace(
        plan,
        kept_neurons=tuple(done.kept_neurons for done in finished),
        kept_groups=tuple(done.kept_groups for done in finished),
        removed=(before.decoder - after.decoder) / (before.decoder if plan.of == "decoder" else before.total),
    )
    report = Report(
        settings=asdict(settings),
        tokens=ids.numel(),
        layers=tuple(done.report for done in finished),
        layer_importance=planned.layer_importance,
        seconds=0.0,
        parameters_before=before.total,
        parameters_after=after.total,
    )
    return plan, report


def check_request(shape: Shape, settings: Settings) -> None:
    """Raises InputError, before any text is read, for what no plan for a decoder of this shape can meet."""
    settings.check()
    request = settings.request(shape)
    if settings.method == "shortgpt":  # whole layers need no width
        return
    if settings.method in PLANNERS:
        parameters_left(replace(request, biased=False), settings.layers)
    else:
        count = settings.layer_count(shape.layers)
        count = layers_needed(request) if count is None else count
        check_count(count, shape.layers)
        if settings.attentions > (stay := shape.layers - count):  # all of them: the plan says so itself
            got = f"{settings.attentions}: leave out fewer"
            raise InputError(
                f"expected at most {stay - 1} attentions to leave out of the {stay} layers that stay, got {got}"
            )
        largest = sorted(range(shape.layers), key=shape.layer, reverse=True)  # with which the ratio is in reach first
        uniform_plan(replace(request, drop=largest[:count], silent=largest[count : count + settings.attentions]))


def check_tokens(ids: Tensor, vocabulary: int) -> None:
    """Raises InputError unless `ids` are sequences (S, L) of whole numbers from 0 to `vocabulary` - 1."""
    if ids.ndim != 2 or not ids.numel():
        raise InputError(
            f"expected calibration tokens as sequences (S, L), got shape {tuple(ids.shape)}: give some text"
        )
    whole = not (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool)
    if not whole or int(ids.min()) < 0 or int(ids.max()) >= vocabulary:
        got = f"{ids.min():g} to {ids.max():g}" if whole else str(ids.dtype)
        raise InputError(f"expected tokens from 0 to {vocabulary - 1}, got {got}: use the tokenizer of this model")


def check_family(model: Model, settings: Settings, plan: Plan | None = None) -> None:
    """Raises InputError for what the family of `model` cannot do."""
    family, name, shape = family_of(model), model.config.model_type, Shape.of(model)
    if not (all(shape.neurons) and all(shape.kv_groups)):
        got = "a layer without one of them: prune the parent anew"
        raise InputError(f"expected attention and MLP in each layer of the model to prune, got {got}")
    some_gone = plan is not None and not (all(plan.neurons) and all(plan.kv_groups))
    if some_gone or settings.attentions:
        got = f"one to leave out of {name}, of which no folder could say so: leave out whole layers"
        raise InputError(f"expected a plan that keeps attention and MLP of each layer that stays, got {got}")
    asked = shape.kv_groups[0] if settings.kv_groups is None else settings.kv_groups
    planned = shape.kv_groups if plan is None else plan.kv_groups
    if family.whole_attention and (
        min(asked, *planned) < shape.kv_groups[0] or settings.method in PLANNERS and settings.method != "shortgpt"
    ):
        raise InputError(whole_groups(name))
    if settings.recovery == "bias":
        check_biases(model)


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
    kept_of = (("neurons", plan.kept_neurons, shape.neurons), ("KV groups", plan.kept_groups, shape.kv_groups))
    for name, named, whole in kept_of:
        for layer, kept_here in zip(plan.layers, named or (), strict=False):
            if kept_here and kept_here[-1] >= whole[layer]:
                got = f"one of index {kept_here[-1]}: plan anew"
                raise InputError(f"expected {name} below {whole[layer]} in layer {layer}, got {got}")
