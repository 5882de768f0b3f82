"""The paper's widths: important layers keep more.

The summaries of the paper that we have say that layers go first, by importance, and that each layer that
stays gets a ratio of its own from the same importance. Our reading: layer l loses of its neurons the share

    min(1 - FLOOR_SHARE, x (1 / I_l) / mean_k (1 / I_k)),

and the common factor x is the smallest that reaches the ratio. No layer is emptied. I_l is the importance of
layer l. The formula divides by it, but an importance is a difference, which may be zero or negative. So each
importance below a least value is replaced by that value. It is IMPORTANCE_FLOOR times the largest importance,
or SMALLEST_IMPORTANCE where that is more.
"""

from __future__ import annotations

from collections.abc import Sequence

from .plan import Plan, PlanRequest
from .uniform import widths_for_ratio

IMPORTANCE_FLOOR = 1e-3  # share of the largest importance, the least importance that counts
SMALLEST_IMPORTANCE = 1e-12  # the same where no layer is important


def paper_plan(request: PlanRequest, importance: Sequence[float]) -> Plan:
    """Widths in inverse proportion to `importance`, one number for each layer of the parent.

    Raises OutOfReach as `uniform_plan` does.
    """
    floor = max(max(importance) * IMPORTANCE_FLOOR, SMALLEST_IMPORTANCE)
    inverse = {layer: 1.0 / max(float(importance[layer]), floor) for layer in request.layers}
    mean = sum(inverse.values()) / len(inverse)
    return request.plan_with(widths_for_ratio(request, lambda factor, layer: factor * inverse[layer] / mean))
