"""ShortGPT (Men et al. 2024): drop the whole layers that turn the residual stream least.

    BI_l = 1 - mean_t cos(h_t, h'_t)          h, h': the streams before and after layer l

The fewest layers that reach the ratio go, so that more is removed than asked for; nothing is narrowed.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ..decoder import Decoder
from ..errors import OutOfReach
from ..families.types import Model
from ..importance.layers import layers_to_drop
from ..plan import Plan
from ..progress import Progress, no_progress
from ..settings import Settings
from ..shape import Shape


def make_plan(
    model: Model | Decoder, ids: Tensor, settings: Settings, name: str = "", progress: Progress = no_progress
) -> Plan:
    """Drop the fewest layers of least block influence on ids (S, L).

    Raises OutOfReach when dropping all but one layer does not reach the ratio.
    """
    shape = Shape.of(model)
    order, _ = layers_to_drop("block-influence", model, ids, shape.layers - 1, settings.device, progress)
    full_request = settings.request(shape, name)
    for count in range(1, shape.layers):
        request = replace(full_request, drop=order[:count])
        neurons = [shape.neurons[layer] for layer in request.layers]
        groups = [shape.kv_groups[layer] for layer in request.layers]
        if request.removed_share(neurons, groups) >= settings.ratio:
            return request.exact_plan([range(width) for width in neurons], [range(width) for width in groups])
    raise OutOfReach(
        expected="a ratio that whole layers can reach",
        got=f"{settings.ratio:g} with {shape.layers} layers, one of which must stay",
        hint="ask for less",
    )


def check_settings(shape: Shape, settings: Settings) -> None:
    """Refuse nothing: which ratios can be reached is known only when the layers have been judged."""
