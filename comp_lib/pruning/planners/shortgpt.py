"""ShortGPT (Men et al. 2024): drop the whole layers that turn the residual stream least.

    BI_l = 1 - mean_t cos(h_t, h'_t)          h, h': the streams before and after layer l

The fewest layers that reach the ratio go, so that more is removed than asked for; nothing is narrowed.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ...decoder.decoder import Decoder
from ...decoder.shape import Shape
from ...hybrid_granularity.plan import Plan, PlanRequest
from ...importance.layers import layers_to_drop
from ...utils.errors import OutOfReach
from ...utils.progress import Progress
from ..settings import CompleteSettings, Settings


def make_plan(
    decoder: Decoder, ids: Tensor, settings: CompleteSettings, name: str, progress: Progress
) -> Plan:
    """Drop the fewest layers of least block influence on ids (S, L).

    Raises OutOfReach when dropping all but one layer does not reach the ratio.
    """
    shape = Shape.of(decoder)
    order, _ = layers_to_drop(
        "block-influence", decoder, ids, shape.layer_count - 1, settings.device, progress
    )
    full_request = settings.plan_request(shape, name)
    for count in range(1, shape.layer_count):
        request = replace(full_request, drop=order[:count])
        neurons, groups = _whole_widths(request)
        if request.removed_share(neurons, groups) >= settings.ratio:
            return request.exact_plan([range(width) for width in neurons], [range(width) for width in groups])
    raise _out_of_reach(shape, settings)


def check_settings(shape: Shape, settings: CompleteSettings) -> None:
    """Raises OutOfReach where even dropping all layers but the smallest does not reach the ratio."""
    request = settings.plan_request(shape)
    largest_share = 0.0
    for kept in range(shape.layer_count):
        alone = replace(request, drop=tuple(layer for layer in range(shape.layer_count) if layer != kept))
        largest_share = max(largest_share, alone.removed_share(*_whole_widths(alone)))
    if largest_share < settings.ratio:
        raise _out_of_reach(shape, settings)


def _whole_widths(request: PlanRequest) -> tuple[list[int], list[int]]:
    """Neurons and KV groups of each layer that stays, all of them."""
    neurons = [request.shape.neurons[layer] for layer in request.layers]
    groups = [request.shape.kv_groups[layer] for layer in request.layers]
    return neurons, groups


def _out_of_reach(shape: Shape, settings: Settings) -> OutOfReach:
    return OutOfReach(
        expected="a ratio that whole layers can reach",
        got=f"{settings.ratio:g} with {shape.layer_count} layers, one of which must stay",
        hint="ask for less",
    )
