"""COMP's planner: which whole layers go (`importance`), and how wide the others stay (`hybrid_granularity`).

It plans for COMP, and for every method that is a metric alone.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ...decoder.decoder import Decoder
from ...decoder.shape import Shape
from ...hybrid_granularity.by_harm import plan_by_harm
from ...hybrid_granularity.estimated import estimate_harm
from ...hybrid_granularity.measured import measure_harm
from ...hybrid_granularity.narrowing import reference_removals
from ...hybrid_granularity.paper import paper_plan
from ...hybrid_granularity.plan import Plan, PlanRequest
from ...hybrid_granularity.uniform import drop_count, uniform_plan
from ...importance.layers import layers_to_drop
from ...importance.problem import ridge_or_usual
from ...utils.progress import Progress
from ..settings import CompleteSettings

IMPORTANCE_SEQUENCES = 4  # sequences on which whole layers are judged: a ranking needs fewer than a fit


def make_plan(
    decoder: Decoder, ids: Tensor, settings: CompleteSettings, name: str, progress: Progress
) -> Plan:
    """The plan that `settings` ask for, on calibration tokens ids (S, L).

    Raises InputError when they cannot be met.
    """
    request = settings.plan_request(Shape.of(decoder), name)
    count = drop_count(request, settings.drop_layers)
    if count or settings.widths == "per-layer":
        judging_ids = ids[:IMPORTANCE_SEQUENCES]
        metric = settings.layer_metric
        drop, importance = layers_to_drop(metric, decoder, judging_ids, count, settings.device, progress)
        request = replace(request, drop=drop)
        if settings.widths == "per-layer":
            return paper_plan(request, importance.tolist())
    if settings.widths == "uniform":
        return uniform_plan(request)
    return _plan_by_measurement(decoder, ids, settings, request, progress)


def _plan_by_measurement(
    decoder: Decoder, ids: Tensor, settings: CompleteSettings, request: PlanRequest, progress: Progress
) -> Plan:
    """The plan with measured or estimated widths, for a request whose layers to drop are known."""
    plan = uniform_plan(request)
    removals = reference_removals(request.shape, plan)
    if not removals:  # no neuron has to go
        return plan
    measure = estimate_harm if settings.widths == "estimated" else measure_harm
    measured = measure(
        decoder,
        ids,
        removals,
        ridge=ridge_or_usual(settings.ridge),
        token_weights=settings.token_weights,
        device=settings.device,
        progress=progress,
    )
    return plan_by_harm(request, measured)


def check_settings(shape: Shape, settings: CompleteSettings) -> None:
    """Raises InputError for settings that no plan for a model of that shape can meet."""
    request = settings.plan_request(shape)
    # If the ratio is in reach at all, it is with the largest layers dropped.
    largest_first = sorted(range(shape.layer_count), key=shape.parameters_of_layer, reverse=True)
    dropped = largest_first[: drop_count(request, settings.drop_layers)]
    uniform_plan(replace(request, drop=dropped))
