"""A plan for a budget in time: layers where they win, neurons where they do.

The cost model (`latency`) gives, for each number of whole layers dropped, the widest uniform width that meets the
budget. These candidates are equally fast; which does least harm, no formula here can say: dropped layers and narrowed
ones err in different coins (notebook 03). So a few of them, evenly spread, are tried: pruned for real on some of the
calibration text and judged by the loss on the rest of it, which no trial was fitted to. The best one is the plan.

A trial has less text to refit from than the final run, and narrow widths profit most from text, so the choice leans
towards layers; and with a few hundred tokens to judge by, candidates that differ by less than some hundredths of a nat
are a toss-up. The table of trials is returned, so that one can see.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from ..baselines import PLANNERS
from ..errors import InputError
from ..evaluation.loss import perplexity
from ..families.protocol import Model
from ..importance.layers import layers_to_drop
from ..plan import SMALLEST_SHARE, Plan
from ..prune import IMPORTANCE_SEQUENCES, prune
from ..report import Progress, no_progress
from ..settings import Settings
from ..shape import Shape
from .latency import Budget, CostModel, measure, widest

TRIALS = 4  # candidates that are tried
TRIAL_TOKENS = 4096  # that a trial is fitted to, at most: a trial is to choose, not to be good
JUDGED = 4  # sequences that judge it, a quarter of what there is at most


@dataclass(frozen=True)
class Trial:
    plan: Plan
    share: float  # of the dense model's time, as the cost model predicts
    loss: float | None  # on calibration text that the trial was not fitted to, nats per token; None: not tried


def candidates(
    cost: CostModel, shape: Shape, share: float, multiple: int, kv_groups: int | None = None
) -> list[tuple[int, int]]:
    """(layers dropped, width) for each number of layers with which `share` of the time can be met, at its widest.

    Up to the first that needs no narrowing: to drop more layers would only do more harm. No width is under a tenth.
    Raises InputError when there is none.
    """
    pairs, floor = [], SMALLEST_SHARE * min(shape.neurons)
    for dropped in range(shape.layers):
        width = widest(cost, shape, dropped, share, multiple, kv_groups)
        if width >= floor:
            pairs.append((dropped, width))
        if width == min(shape.neurons):
            break
    if not pairs:
        least = cost.milliseconds((max(1, int(floor)),), (1,)) / cost.milliseconds(shape.neurons, shape.kv_groups)
        wanted = f"a budget that some plan meets, at least about {least:.2f} of the time here"
        raise InputError(f"expected {wanted}, got {share:g}: even a single narrow layer takes longer; allow more")
    return pairs


def timed_plan(
    model: Model,
    ids: Tensor,
    settings: Settings,
    budget: Budget,
    *,
    cost: CostModel | None = None,
    trials: int = TRIALS,
    name: str = "",
    progress: Progress = no_progress,
) -> tuple[Plan, list[Trial], CostModel]:
    """The plan with which `model` meets the budget on `settings.device`, the candidates, and the cost model.

    ids (S, L): calibration tokens, of which the last quarter, at most JUDGED sequences, judges the trials. The ratio of
    `settings` is not looked at. With trials=0 nothing is tried, and the candidate that drops fewest layers is taken.
    Where no cost model is given, all of the model is on the device while it is timed.
    Raises InputError: per-layer widths, a method that plans by itself, too little text, or a budget out of reach.
    """
    if settings.widths != "uniform" or settings.method in PLANNERS:
        wanted = "uniform widths and a method that leaves the plan to others with a budget in time"
        got = f"{settings.widths} widths and {settings.method}"
        raise InputError(f"expected {wanted}, got {got}: ask for a --ratio instead")
    if trials and len(ids) < 2:
        raise InputError(f"expected at least 2 calibration sequences, to fit and to judge, got {len(ids)}: give more")
    if cost is None:
        before = model.device
        model.to(settings.device)
        try:
            cost = measure(model, progress=progress)[budget.kind]
        finally:
            model.to(before)
    shape = Shape.of(model)
    pairs = candidates(cost, shape, budget.share, settings.multiple, settings.kv_groups)
    count = settings.layer_count(shape.layers)
    if count is not None:
        pairs = [(dropped, width) for dropped, width in pairs if dropped == count]
        if not pairs:
            raise InputError(f"expected a number of layers with which the budget can be met, got {count}: say auto")
    few = ids[:IMPORTANCE_SEQUENCES]
    order, _ = layers_to_drop(settings.layer_metric, model, few, pairs[-1][0], settings.device, progress)
    plans = []
    for dropped, width in pairs:
        request = replace(settings.request(shape, name), drop=order[:dropped])
        plan = request.plan((width,) * len(request.layers))
        plans.append(replace(plan, ratio=plan.removed))
    tried = spread(len(plans), trials) if len(plans) > 1 else []
    judged = max(1, min(JUDGED, len(ids) // 4))
    fitted = ids[: min(len(ids) - judged, max(1, TRIAL_TOKENS // ids.shape[1]))]
    losses: dict[int, float] = {}
    for index in tried:
        progress("trials", len(losses), len(tried))
        small = prune(model, fitted, settings, plan=plans[index], name=name).model
        losses[index] = perplexity(small, ids[-judged:]).loss
        progress("trials", len(losses), len(tried))
    best = min(losses, key=losses.__getitem__) if losses else 0
    rows = [Trial(plan, cost.fraction(shape, plan), losses.get(index)) for index, plan in enumerate(plans)]
    return plans[best], rows, cost


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the indices 0 to count - 1, evenly spread, the first and the last among them.

    >>> spread(8, 4)
    [0, 2, 5, 7]
    """
    steps = min(count, most)
    return [round(step * (count - 1) / max(steps - 1, 1)) for step in range(steps)]
