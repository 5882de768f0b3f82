"""Uniform widths: layers first, then one width for all layers that stay. Any stock runtime loads the result.

Planners that choose neurons one by one (`baselines`) keep what the uniform plan keeps (`parameters_left`), so
that all methods can be compared at the same size.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from ..errors import InputError
from ..plan import SMALLEST_SHARE, Plan, PlanRequest
from ..shape import Shape

SMALLEST_KEPT_SHARE = 0.25  # of the neurons of the layers that stay; rather than keep fewer, drop layers
RATIO_TOLERANCE = 0.005  # of the decoder: a plan may remove so much more than was asked for
GGUF_BLOCK = 32  # most GGUF files need widths that are multiples of this
GGUF_TOLERANCE = 0.02  # of the decoder: a plan of such widths may remove so much more
LARGEST_FACTOR = 1e4  # of the bisection in `neurons_for`, with which all layers lose as much as they may
BISECTIONS = 100  # more than a float has digits


def uniform_plan(request: PlanRequest) -> Plan:
    """Keep one width in all layers that stay: the largest multiple with which at least the ratio is removed.

    Of a parent whose layers differ in width, one share stays instead of one width.
    Raises InputError when the ratio cannot be reached with these layers and KV groups.

    >>> from comp_lib.shape import Shape
    >>> shape = Shape(64, 16, 2, (128,) * 4, (2,) * 4, 192, 6144, (128,) * 4, 5000)
    >>> uniform_plan(PlanRequest(shape, 0.2, multiple=16)).neurons
    (80, 80, 80, 80)
    """
    return request.plan(neurons_for(request, lambda factor, layer: factor))


def drop_count(request: PlanRequest, layers: float | str) -> int:
    """How many layers are dropped; `request.drop` is ignored.

    layers: a number, a share below 1 of all layers, or "auto": as few as leave the others at least
    SMALLEST_KEPT_SHARE of their neurons. Measured (benchmarks/RESULTS.md): up to there, narrowing all layers
    costs less than dropping as many as leave half. Raises InputError where even one layer alone keeps too
    much.
    """
    shape = request.shape
    if not isinstance(layers, str):
        return round(layers * shape.layers) if 0 < layers < 1 else int(layers)
    for count in range(shape.layers - 1):
        with suppress(InputError):  # with so few layers dropped the ratio is out of reach
            if _keeps_enough(uniform_plan(replace(request, drop=range(count))), shape):
                return count
    single_layer = replace(request, drop=range(shape.layers - 1))
    uniform_plan(single_layer)  # raises InputError where even that removes too little
    return shape.layers - 1


def _keeps_enough(plan: Plan, shape: Shape) -> bool:
    """Whether each layer of the plan keeps at least SMALLEST_KEPT_SHARE of its neurons."""
    widths = zip(plan.layers, plan.neurons, strict=True)
    return all(width >= SMALLEST_KEPT_SHARE * shape.neurons[layer] for layer, width in widths)


def parameters_left(request: PlanRequest, layers: float | str = "auto") -> int:
    """Parameters of the decoder under the uniform plan with so many layers dropped: no method keeps more."""
    request = replace(request, biased=False)  # a method that adds biases pays for them
    plan = uniform_plan(replace(request, drop=range(drop_count(request, layers))))
    return request.shape.with_widths(plan.neurons, plan.kv_groups, plan.layers).decoder


def fitting_multiple(request: PlanRequest, layers: float | str = "auto") -> int:
    """The largest power of 2, up to the request's multiple, that meets the ratio to within RATIO_TOLERANCE.

    1 if there is none. GGUF_BLOCK, which files for llama.cpp need, may miss the ratio by GGUF_TOLERANCE. The
    plan is the uniform one without biases, so the multiple is the same for all methods.
    """
    request = replace(request, biased=False)
    multiple = request.multiple
    while multiple > 1:
        tolerance = GGUF_TOLERANCE if multiple == GGUF_BLOCK else RATIO_TOLERANCE
        with suppress(InputError):  # steps of this size are too large for so narrow a model
            candidate = replace(request, multiple=multiple)
            plan = uniform_plan(replace(candidate, drop=range(drop_count(candidate, layers))))
            if plan.removed <= request.ratio + tolerance:
                break
        multiple //= 2
    return multiple


def neurons_for(request: PlanRequest, share_of: Callable[[float, int], float]) -> tuple[int, ...]:
    """Widths with the least removal that reaches the ratio, found by bisection on a common factor.

    `share_of(factor, layer)` is the share of its neurons that a layer loses; it grows with the factor.
    Raises InputError when the ratio is out of reach.
    """

    def widths_at(factor: float) -> tuple[int, ...]:
        return tuple(_width(request, layer, share_of(factor, layer)) for layer in request.layers)

    low = 0.0
    high = LARGEST_FACTOR
    largest_removal = request.removed_share(widths_at(high))
    if largest_removal < request.ratio:
        raise InputError(
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
    share = min(max(share, 0.0), 1.0 - SMALLEST_SHARE)
    if share == 0.0:
        return neurons
    # the tiny addition forgives the rounding of neurons * (1 - share) when it is a multiple already
    width = int((neurons * (1.0 - share) + 1e-6) // multiple) * multiple
    return max(width, min(multiple, neurons))
