"""Uniform widths: layers first, then one width for all layers that stay. Any stock runtime loads the result.

Planners that choose neurons one by one (`pruning.planners`) keep as many parameters as the uniform plan
(`parameter_budget`), so that all methods can be compared at the same size.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from ..decoder.shape import Shape
from ..utils.errors import InputError, OutOfReach
from .plan import FLOOR_SHARE, Plan, PlanRequest

# Smallest share of its neurons that a layer keeps where `drop_count` chooses how many layers are dropped
# ("auto"). No planner of COMP goes below `plan.FLOOR_SHARE`, which is smaller, but to round to a multiple.
COMFORTABLE_SHARE = 0.25
RATIO_TOLERANCE = 0.005  # share of the decoder that a plan may remove beyond the ratio
GGUF_BLOCK = 32  # most GGUF files need widths that are multiples of this
GGUF_TOLERANCE = 0.02  # share of the decoder that a plan with such widths may remove beyond the ratio
LARGEST_FACTOR = 1e4  # factor of `widths_for_ratio` with which all layers lose as much as they may
BISECTIONS = 100  # steps of the bisection, more than a float has digits


def uniform_plan(request: PlanRequest) -> Plan:
    """Keep one width in all layers that stay: the largest multiple with which at least the ratio is removed.

    Of a parent whose layers differ in width, one share stays instead of one width.

    Raises OutOfReach when the ratio cannot be reached with these layers and KV groups.

    >>> from comp_lib.decoder.shape import Shape
    >>> shape = Shape(
    ...     hidden_size=64,
    ...     head_dim=16,
    ...     group_heads=2,
    ...     neurons=(128,) * 4,
    ...     kv_groups=(2,) * 4,
    ...     neuron_parameters=192,
    ...     group_parameters=6144,
    ...     fixed_parameters=(128,) * 4,
    ...     other_parameters=5000,
    ... )
    >>> uniform_plan(PlanRequest(shape, 0.2, multiple=16)).neurons
    (80, 80, 80, 80)
    """
    return request.plan_with(widths_for_ratio(request, lambda factor, layer: factor))


def drop_count(request: PlanRequest, drop_layers: float | str) -> int:
    """The number of layers that are dropped; `request.drop` is ignored.

    Args:
        drop_layers: a number, a share below 1 of all layers, or "auto". A share is rounded to whole layers,
            so 0.01 of 30 layers is none. "auto" drops as few layers as leave the others at least
            COMFORTABLE_SHARE of their neurons. That is little, since narrow layers cost less than dropped
            ones: a model with all its layers this narrow lost less than one of the same size that has fewer
            layers, each with half of its neurons (measured: benchmarks/RESULTS.md). It counts as if the first
            layers were dropped, which says little where the layers of the parent differ.

    Raises InputError for a number that leaves no layer; OutOfReach where even one layer alone keeps too much.
    """
    shape = request.shape
    if not isinstance(drop_layers, str):
        count = round(drop_layers * shape.layer_count) if 0 < drop_layers < 1 else int(drop_layers)
        if count >= shape.layer_count:
            raise InputError(
                expected=f"drop_layers to leave some of the {shape.layer_count} layers",
                got=f"{drop_layers:g}, so {count} layers to drop",
                hint=f"drop {shape.layer_count - 1} at most",
            )
        return count
    for count in range(shape.layer_count - 1):
        with suppress(OutOfReach):  # more layers are dropped then
            if _keeps_enough(uniform_plan(replace(request, drop=range(count))), shape):
                return count
    single_layer = replace(request, drop=range(shape.layer_count - 1))
    uniform_plan(single_layer)  # raises OutOfReach where even that removes too little
    return shape.layer_count - 1


def _keeps_enough(plan: Plan, shape: Shape) -> bool:
    """Whether each layer of the plan keeps at least COMFORTABLE_SHARE of its neurons."""
    widths = zip(plan.layers, plan.neurons, strict=True)
    return all(width >= COMFORTABLE_SHARE * shape.neurons[layer] for layer, width in widths)


def parameter_budget(request: PlanRequest, drop_layers: float | str = "auto") -> int:
    """The most parameters of the decoder that a method may keep: those that the uniform plan keeps.

    drop_layers: how many layers that plan drops, as for `drop_count`.
    """
    request = replace(request, biased=False)  # a method that adds biases pays for them
    plan = uniform_plan(replace(request, drop=range(drop_count(request, drop_layers))))
    return request.shape.with_widths(plan.neurons, plan.kv_groups, plan.layers).decoder_parameters


def coarsest_multiple(request: PlanRequest, drop_layers: float | str = "auto") -> int:
    """The largest multiple with which a uniform plan meets the ratio to within RATIO_TOLERANCE.

    It is the request's multiple, or a half of it, a quarter and so on; 1 if none of them meets the ratio.
    GGUF_BLOCK, which files for llama.cpp need, may miss the ratio by GGUF_TOLERANCE. The plan has no biases,
    so the multiple is the same for all methods.
    """
    request = replace(request, biased=False)
    multiple = request.multiple
    while multiple > 1:
        tolerance = GGUF_TOLERANCE if multiple == GGUF_BLOCK else RATIO_TOLERANCE
        with suppress(OutOfReach):  # steps of this size are too large for so narrow a model
            candidate = replace(request, multiple=multiple)
            plan = uniform_plan(replace(candidate, drop=range(drop_count(candidate, drop_layers))))
            if plan.removed <= request.ratio + tolerance:
                break
        multiple //= 2
    return multiple


def widths_for_ratio(request: PlanRequest, share_of: Callable[[float, int], float]) -> tuple[int, ...]:
    """Widths with the least removal that reaches the ratio, found by bisection on a common factor.

    share_of: `share_of(factor, layer)` is the share of its neurons that a layer loses; it grows with the
    factor.

    Raises OutOfReach when no factor reaches the ratio.
    """

    def widths_at(factor: float) -> tuple[int, ...]:
        return tuple(_width(request, layer, share_of(factor, layer)) for layer in request.layers)

    low = 0.0
    high = LARGEST_FACTOR
    largest_removal = request.removed_share(widths_at(high))
    if largest_removal < request.ratio:
        raise OutOfReach(
            expected=f"a ratio that these layers and groups allow, at most {largest_removal:.3f}",
            got=f"{request.ratio:g}",
            hint="drop layers or KV groups, or ask for less",
        )
    if request.removed_share(widths_at(low)) >= request.ratio:
        return widths_at(low)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if request.removed_share(widths_at(middle)) >= request.ratio:
            high = middle
        else:
            low = middle
    return widths_at(high)


def _width(request: PlanRequest, layer: int, share: float) -> int:
    """The width of a layer that loses this share of its neurons: a multiple, or all of them."""
    neurons = request.shape.neurons[layer]
    multiple = request.multiple
    share = min(max(share, 0.0), 1.0 - FLOOR_SHARE)
    if share == 0.0:
        return neurons
    # the tiny addition forgives the rounding of neurons * (1 - share) when it is a multiple already
    width = int((neurons * (1.0 - share) + 1e-6) // multiple) * multiple
    return max(width, min(multiple, neurons))
