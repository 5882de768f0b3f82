"""Uniform widths: layers first, then one width for all layers that stay. Any stock runtime loads the result.

Planners that choose neurons one by one (`baselines`) keep what the uniform plan keeps (`parameters_left`), so that
all methods can be compared at the same size.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from ..errors import InputError
from ..plan import SMALLEST_SHARE, Plan, PlanRequest

SMALLEST_KEPT_SHARE = 0.25  # of the neurons of the layers that stay; rather than fewer, whole layers go
RATIO_TOLERANCE = 0.005  # of the decoder: so much more than was asked for may go
GGUF_BLOCK, GGUF_TOLERANCE = 32, 0.02  # GGUF files need multiples of GGUF_BLOCK, which may remove GGUF_TOLERANCE more than was asked for


def uniform_plan(request: PlanRequest) -> Plan:
    """Keep one neuron width in all layers that stay: the largest multiple with which at least the ratio is gone.

    Of a parent whose layers differ in width, one share stays instead of one width.
    Raises InputError when the ratio cannot be reached with these layers and KV groups.

    >>> from comp_lib.shape import Shape
    >>> shape = Shape(64, 16, 2, (128,) * 4, (2,) * 4, 192, 6144, (128,) * 4, 5000)
    >>> uniform_plan(PlanRequest(shape, 0.2, multiple=16)).neurons
    (80, 80, 80, 80)
    """
    return request.plan(neurons_for(request, lambda factor, layer: factor))


def drop_count(request: PlanRequest, layers: float | str) -> int:
    """How many whole layers go: a number, a share below 1 of the layers, or "auto"; `drop` is disregarded.

    "auto": as few as leave the others at least SMALLEST_KEPT_SHARE of their neurons. Measured (benchmarks/RESULTS.md): up to
    there, narrowing all layers costs less than dropping as many as leave half.
    """
    shape = request.shape
    if not isinstance(layers, str):
        return round(layers * shape.layers) if 0 < layers < 1 else int(layers)
    for count in range(shape.layers - 1):
        with suppress(InputError):  # with so few layers gone the ratio is out of reach
            plan = uniform_plan(replace(request, drop=range(count)))
            both = zip(plan.layers, plan.neurons, strict=True)
            if all(width >= SMALLEST_KEPT_SHARE * shape.neurons[layer] for layer, width in both):
                return count
    uniform_plan(
        replace(request, drop=range(shape.layers - 1))
    )  # one layer is left: what it can give must do
    return shape.layers - 1


def parameters_left(request: PlanRequest, layers: float | str = "auto") -> int:
    """Parameters of the decoder under the uniform plan with so many layers gone: the most that any method keeps."""
    request = replace(request, biased=False)  # who adds biases pays for them
    plan = uniform_plan(replace(request, drop=range(drop_count(request, layers))))
    return request.shape.with_widths(plan.neurons, plan.kv_groups, plan.layers).decoder


def fitting_multiple(request: PlanRequest, layers: float | str = "auto") -> int:
    """The largest power of 2, up to the request's multiple, that removes what is asked to within RATIO_TOLERANCE; else 1.

    GGUF_BLOCK, on which files for llama.cpp insist, may miss by GGUF_TOLERANCE. The plan is the uniform one without biases, so the
    multiple is the same for all methods.
    """
    asked = replace(request, biased=False)
    while asked.multiple > 1:
        with suppress(InputError):  # steps of this size are too large for so narrow a model
            plan = uniform_plan(replace(asked, drop=range(drop_count(asked, layers))))
            if plan.removed <= request.ratio + (GGUF_TOLERANCE if asked.multiple == GGUF_BLOCK else RATIO_TOLERANCE):
                break
        asked = replace(asked, multiple=asked.multiple // 2)
    return asked.multiple


def neurons_for(request: PlanRequest, share_of: Callable[[float, int], float]) -> tuple[int, ...]:
    """Widths with the least removal that reaches the ratio, found by bisection on a common factor.

    `share_of(factor, layer)` is the share of its neurons that a layer loses; it grows with the factor.
    Raises InputError when the ratio is out of reach.
    """
    multiple = request.multiple

    def widths(factor: float) -> tuple[int, ...]:
        kept = []
        for layer in request.layers:
            full = request.shape.neurons[layer]
            share = min(max(share_of(factor, layer), 0.0), 1.0 - SMALLEST_SHARE)
            # the tiny addition forgives the rounding of full * (1 - share) when it is a multiple already
            rounded = int((full * (1.0 - share) + 1e-6) // multiple) * multiple if share > 0 else full
            kept.append(max(rounded, min(multiple, full)))
        return tuple(kept)

    low, high = 0.0, 1e4
    if (most := request.removed(widths(high))) < request.ratio:
        got = f"{request.ratio:g}: drop layers or KV groups, or ask for less"
        raise InputError(
            f"expected a ratio that these layers and groups allow, at most {most:.3f}, got {got}"
        )
    if request.removed(widths(low)) >= request.ratio:
        return widths(low)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if request.removed(widths(middle)) >= request.ratio else (middle, high)
    return widths(high)
