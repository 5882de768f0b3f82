"""The paper's widths: important layers keep more.

The summaries of the paper that we have say that layers go first, by importance, and that each layer that
stays gets a ratio of its own from the same importance. Our reading: with I_l the importance, layer l loses of
its neurons the share

    min(1 - SMALLEST_SHARE, x (1 / I_l) / mean_k (1 / I_k)),

and the common factor x is the smallest that reaches the ratio. No layer is emptied.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..plan import Plan, PlanRequest
from .uniform import widths_for_ratio


def paper_plan(request: PlanRequest, importance: Sequence[float]) -> Plan:
    """Widths in inverse proportion to `importance`, one number for each layer of the parent.

    Raises OutOfReach as `uniform_plan` does.
    """
    floor = max(max(importance) * 1e-3, 1e-12)  # importances are differences: they can be zero or below
    inverse = {layer: 1.0 / max(float(importance[layer]), floor) for layer in request.layers}
    mean = sum(inverse.values()) / len(inverse)
    return request.plan(widths_for_ratio(request, lambda factor, layer: factor * inverse[layer] / mean))
