"""The largest ratio that a given loss allows, found by pruning in memory a few times."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ...decoder.types import Model
from ...evaluation.by_kind import judge
from ...evaluation.format import describe_chance
from ...pruning.checks import checked_call
from ...pruning.comp import prune
from ...pruning.planning import make_plan
from ...pruning.settings import Settings
from ...utils.errors import InputError, NoNumber, OutOfReach, warn_once
from ...utils.progress import Progress, no_progress
from ..gguf.write import GgufType, as_stored

SMALLEST_RATIO = 0.01  # no ratio below it is tried
LARGEST_RATIO = 0.8  # no ratio above it is tried
TRIES = 5  # prunings at most
SUFFICIENT_SHARE = 0.9  # a ratio that costs this share of the allowed loss ends the search


@dataclass(frozen=True)
class Outcome:
    """The outcome of one ratio that is tried."""

    cost: float | None
    """By how much the loss rises, nats per token; None: no model of that ratio has a loss."""
    words: str
    """The same in words."""
    hint: str
    """What to do where this is too much."""


def ratio_within(
    at_most: float,
    model: Model,
    ids: Tensor,
    windows_by_text: Mapping[str, Tensor],
    settings: Settings,
    *,
    saved_dtype: torch.dtype,
    gguf_type: GgufType | None = None,
    progress: Progress = no_progress,
) -> float:
    """The largest ratio found that raises the loss by no more than `at_most`, nats per token.

    The loss is the mean over the texts in `windows_by_text`. For each ratio that `largest_ratio` tries, the
    model is pruned in memory on ids (S, L) with these settings. It is judged with the numbers that files in
    `saved_dtype` will hold, or that a GGUF file of the type `gguf_type` will, which is made of them.

    A ratio whose loss is no number counts as too large: weights can be finite in memory, and infinite in the
    dtype of the files.

    Raises OutOfReach when even the smallest step costs more; NoNumber for a loss of `model` itself that is
    none.
    """
    ids, settings = checked_call(model, ids, settings)
    dense_loss = judge(model, windows_by_text).mean.loss
    for sentence in describe_chance("the model", dense_loss, model.config.vocab_size):
        warn_once(sentence)

    def outcome_of(ratio: float) -> Outcome:
        tried = replace(settings, ratio=ratio)
        try:
            plan = make_plan(model, ids, tried, progress=progress)
        except OutOfReach:
            return Outcome(None, f"no plan reaches the ratio {ratio:g}", "choose other settings")
        except NoNumber:
            words = f"a divergence that a plan for the ratio {ratio:g} needs is no number"
            return Outcome(None, words, "choose other settings")
        small = prune(model, ids, tried, plan=plan, progress=progress)
        round_weights(small.model, saved_dtype, gguf_type)
        removed_part = f"{small.plan.removed:.1%} of the decoder"
        try:
            cost = judge(small.model, windows_by_text).mean.loss - dense_loss
        except NoNumber:
            return Outcome(None, f"the loss without {removed_part} is no number", "choose other settings")
        return Outcome(cost, f"{removed_part} costs {cost:.3f} already", "allow more")

    outcomes = list[Outcome]()

    def cost_of(ratio: float) -> float | None:
        outcomes.append(outcome_of(ratio))
        return outcomes[-1].cost

    found = largest_ratio(at_most, cost_of, progress)
    if found is None:
        last = outcomes[-1]
        raise OutOfReach(
            expected="at_most to allow the loss that the smallest step costs, in nats per token",
            got=f"{at_most:g}, where {last.words}",
            hint=last.hint,
        )
    return found


def largest_ratio(
    at_most: float, cost_of: Callable[[float], float | None], progress: Progress = no_progress
) -> float | None:
    """The largest of TRIES ratios, or fewer, that costs no more than `at_most`; None where none of them does.

    The next ratio is where a parabola through the two nearest measured ones, flat at the lower of them, costs
    `at_most`. It is moved into the middle half of the interval between them.

    Args:
        at_most: the cost that is allowed, nats per token.
        cost_of: gives what a ratio costs, nats per token; None: the ratio is out of reach.
        progress: called after each try.
    """
    low = 0.0  # the largest ratio that costs no more than allowed
    low_cost = 0.0
    high = LARGEST_RATIO  # the smallest ratio that costs too much
    high_cost = math.inf
    for number in range(1, TRIES + 1):
        ratio = _next_ratio(at_most, low, low_cost, high, high_cost)
        if number == TRIES and not low:
            ratio = SMALLEST_RATIO
        cost = cost_of(ratio)
        if cost is None or not math.isfinite(cost):
            cost = math.inf
        progress(f"ratio {ratio:.3f}: {cost:+.3f} nats", number, TRIES)
        if cost <= at_most:
            low = ratio
            low_cost = cost
        else:
            high = ratio
            high_cost = cost
        if high == SMALLEST_RATIO or low_cost >= SUFFICIENT_SHARE * at_most:
            break
    return low or None


@torch.no_grad()
def round_weights(model: Model, dtype: torch.dtype, gguf_type: GgufType | None = None) -> None:
    """Give `model` the numbers that it will have when it is read again from files in `dtype`.

    gguf_type: the type of the matrices of a GGUF file that is made of those; None: none is.

    Its tensors are replaced, not written to: it may share them with its parent.
    """
    if dtype == model.dtype and gguf_type is None:
        return
    for module_name, module in model.named_modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            rounded = weight.detach().to(dtype).to(weight.dtype)
            if gguf_type is not None:
                rounded = as_stored(f"{module_name}.{name}", rounded, gguf_type)
            setattr(module, name, nn.Parameter(rounded, requires_grad=weight.requires_grad))
    model.tie_weights()


def _next_ratio(at_most: float, low: float, low_cost: float, high: float, high_cost: float) -> float:
    """The ratio that costs `at_most` on a parabola from (`low`, `low_cost`), flat there, to the other point.

    It is moved into the middle half of the interval between `low` and `high`.
    """
    share = math.sqrt((at_most - low_cost) / (high_cost - low_cost))
    share = min(max(share, 0.25), 0.75)
    ratio = low + (high - low) * share
    return round(max(SMALLEST_RATIO, ratio), 3)


def parse_nats(text: object) -> float:
    """The number in "0.2" or "0.2nats".

    Raises InputError unless it is a finite number above 0.
    """
    with suppress(ValueError):
        nats = float(str(text).strip().removesuffix("nats"))
        if 0.0 < nats < math.inf:
            return nats
    raise InputError(
        expected="at_most as a number of nats per token above 0, such as 0.2nats",
        got=repr(text),
        hint="0.2 lets the loss rise by that much",
    )
