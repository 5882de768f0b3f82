"""SlimGPT (Ling et al. 2024): the optimal brain surgeon for neurons, and widths that fall with depth.

An error of a layer reaches all layers after it, so early layers lose less: with n layers, layer i (from 0)
loses

    r_i = x log(i + 1) / log(n)

of its neurons. The summaries of the paper that we have say that the ratio rises with the logarithm of depth.
That it starts at zero is our choice, and x is the smallest that reaches the ratio. The inverse of C decides
greedily which neurons go, and the others take over their work: COMP's price and refit are the same formula.
The authors damp C by a hundredth of its mean diagonal and weigh all tokens alike; here `ridge=0.01,
token_weights=False` comes closest. Heads stay.
"""

from __future__ import annotations

import math

from torch import Tensor

from ...decoder.decoder import Decoder
from ...decoder.shape import Shape
from ...hybrid_granularity.plan import Plan, PlanRequest
from ...hybrid_granularity.uniform import widths_for_ratio
from ...utils.progress import Progress
from ..settings import CompleteSettings


def make_plan(
    decoder: Decoder, ids: Tensor, settings: CompleteSettings, name: str, progress: Progress
) -> Plan:
    """Widths that fall with depth; the text does not count.

    Raises OutOfReach when the ratio cannot be reached.
    """
    return falling_widths(settings.plan_request(Shape.of(decoder), name))


def check_settings(shape: Shape, settings: CompleteSettings) -> None:
    """Raises OutOfReach when the ratio cannot be reached."""
    falling_widths(settings.plan_request(shape))


def falling_widths(request: PlanRequest) -> Plan:
    """Widths that fall with the logarithm of depth.

    Raises OutOfReach when the ratio cannot be reached.
    """
    scale = math.log(max(2, len(request.layers)))
    depth = {layer: math.log(index + 1) / scale for index, layer in enumerate(request.layers)}
    return request.plan_with(widths_for_ratio(request, lambda factor, layer: factor * depth[layer]))
