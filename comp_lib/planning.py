"""Planning: how much of each layer is removed, before any weight is touched.

A plan says first which whole layers go, as many as the ratio needs, by layer importance (`importance`); then
the width of each layer that stays (`hybrid_granularity`). Baselines that plan the whole model by themselves
are in `baselines`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .decoder import Decoder, as_decoder
from .families.types import Model
from .hybrid_granularity.measured import measured_plan
from .hybrid_granularity.paper import paper_plan
from .hybrid_granularity.uniform import GGUF_BLOCK, drop_count, uniform_plan
from .importance.layers import layers_to_drop
from .importance.widths import reference_removals, sensitivity
from .methods import method_of
from .plan import Plan
from .progress import Progress, no_progress
from .prune_layer import LayerReport, Report
from .settings import Settings
from .shape import Shape

if TYPE_CHECKING:
    from .baselines import Planner

IMPORTANCE_SEQUENCES = 4  # sequences on which whole layers are judged: a ranking needs fewer than a fit


def make_plan(
    model: Model | Decoder,
    ids: Tensor,
    settings: Settings,
    name: str = "",
    progress: Progress = no_progress,
) -> Plan:
    """The plan that `settings` ask for, on calibration tokens ids (S, L).

    Raises InputError when they cannot be met.
    """
    decoder = as_decoder(model)
    planner = planner_of(settings)
    if planner is not None:
        return planner.make_plan(decoder, ids, settings, name, progress)
    request = settings.request(Shape.of(decoder), name)
    count = drop_count(request, settings.layers)
    if count or settings.widths == "per-layer":
        judging_ids = ids[:IMPORTANCE_SEQUENCES]
        metric = settings.layer_metric
        drop, importance = layers_to_drop(metric, decoder, judging_ids, count, settings.device, progress)
        request = replace(request, drop=drop)
        if settings.widths == "per-layer":
            return paper_plan(request, importance.tolist())
    plan = uniform_plan(request)
    if settings.widths == "uniform":
        return plan
    removals = reference_removals(request.shape, plan)
    if not removals:  # no neuron has to go
        return plan
    measured = sensitivity(
        decoder,
        ids,
        removals,
        ridge=None if isinstance(settings.ridge, str) else settings.ridge,
        weighted=settings.token_weights,
        device=settings.device,
        progress=progress,
    )
    return measured_plan(request, measured)


def planner_of(settings: Settings) -> Planner | None:
    """The planner that the method has for itself, or None where COMP's planners plan for it."""
    name = method_of(settings.method).planner
    if name is None:
        return None
    from .baselines import PLANNERS

    return PLANNERS[name]


def why_more_was_removed(plan: Plan, settings: Mapping[str, Any]) -> str:
    """One line that says why a plan by these settings removes clearly more than was asked for."""
    multiple = settings["multiple"]
    if method_of(settings["method"]).whole_layers_only:
        reason = f"{settings['method']} removes nothing but whole layers"
    elif multiple not in (None, 1):
        reason = f"widths are multiples of {multiple}: multiple {max(1, multiple // 4)} comes nearer"
        if multiple == GGUF_BLOCK:
            reason += ", but most GGUF files need 32"
    elif len(plan.layers) < plan.parent_layers or settings["kv_groups"] is not None:
        reason = "the whole layers or KV groups that go are larger"
    else:
        reason = "no finer step of the widths comes nearer"
    return f"{plan.removed:.1%} went where {plan.ratio:.1%} was asked for: {reason}"


def finished_plan_and_report(
    plan: Plan,
    reports: Sequence[LayerReport],
    settings: Settings,
    ids: Tensor,
    before: Shape,
    after: Shape,
) -> tuple[Plan, Report]:
    """Return the plan as it was carried out, and the report, whose seconds the caller fills in.

    before: the shape of the parent.
    after: the shape of the pruned model.
    """
    finished_plan = replace(
        plan,
        kept_neurons=tuple(tuple(layer.kept_neurons) for layer in reports),
        kept_groups=tuple(tuple(layer.kept_groups) for layer in reports),
        removed=(before.decoder_parameters - after.decoder_parameters) / before.decoder_parameters,
    )
    report = Report(settings=asdict(settings), tokens=ids.numel(), layers=tuple(reports), seconds=0.0)
    return finished_plan, report
