"""How long a decoder of given widths takes on this machine, and plans for a budget in time. (Our addition.)

Time, like parameters, adds up over what is there:

    t(plan) = fixed + sum over its layers of (layer + group * KV groups + neuron * neurons)

`fixed` is what no plan changes: embedding, head, the runtime's work for each call; `layer` what a layer costs whatever
its widths: norms, launches, attention over the tokens before. Narrowing saves only the last terms, dropping a layer all
three: this is why depth and width, equal in parameters, differ in time.

The microbenchmark times the model itself, cut to a few depths and widths (values do not matter for time, so the first
layers and neurons will do), in turns; the fit is least squares on relative errors, of the fastest run of each cut, with
no coefficient below 0. `CostModel.misfit` says how far the worst cut lies from it.

For each number of whole layers dropped, this gives the widest uniform width that meets a budget. These candidates are
equally fast; which does least harm, no formula here can say (notebook 03). So a few of them, evenly spread, are tried:
pruned for real on some of the calibration text and judged by the loss on the rest of it, which no trial was fitted to.
The best one is the plan. A trial has less text to refit from than the final run, and narrow widths profit most from
text, so the choice leans towards layers; and with a few hundred tokens to judge by, candidates that differ by less than
some hundredths of a nat are a toss-up. The table of trials is returned, so that one can see.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from ..baselines import PLANNERS
from ..errors import InputError
from ..evaluation.generation import measure_speed, prompt_ids
from ..evaluation.loss import perplexity
from ..families import family_of
from ..families.protocol import Model
from ..importance.layers import layers_to_drop
from ..plan import SMALLEST_SHARE, Plan
from ..prune import IMPORTANCE_SEQUENCES, prune
from ..report import Progress, no_progress
from ..search import spread, trial_text
from ..settings import Settings
from ..shape import Shape
from ..surgery import keep_layers, shallow_copy, shrink_attention, shrink_mlp, update_config

KINDS = ("decode", "prefill")
TRIALS = 4  # candidates that are tried
TRIAL_TOKENS = 4096  # that a trial is fitted to, at most
JUDGED = 4  # sequences that judge it, at most
Widths = tuple[tuple[int, ...], tuple[int, ...]]  # (neurons, KV groups), one entry for each layer


@dataclass(frozen=True)
class CostModel:
    """Milliseconds: of a token that is written ("decode"), or of a prompt that is read ("prefill")."""

    kind: str
    fixed: float
    layer: float
    group: float
    neuron: float
    misfit: float = 0.0  # largest relative error over the cuts that it was fitted to

    def milliseconds(self, neurons: Sequence[int], kv_groups: Sequence[int]) -> float:
        """Of a model with these widths, one entry for each layer."""
        return self.fixed + self.layer * len(neurons) + self.group * sum(kv_groups) + self.neuron * sum(neurons)

    def parts(self, shape: Shape) -> dict[str, float]:
        """Milliseconds of each term, for a model of this shape."""
        terms = {"fixed": self.fixed, "of each layer": self.layer * shape.layers}
        return terms | {"KV groups": self.group * sum(shape.kv_groups), "neurons": self.neuron * sum(shape.neurons)}

    def fraction(self, shape: Shape, plan: Plan) -> float:
        """Time of the plan over the time of its parent, which has this shape."""
        return self.milliseconds(plan.neurons, plan.kv_groups) / self.milliseconds(shape.neurons, shape.kv_groups)


def fit(kind: str, widths: Sequence[Widths], milliseconds: Sequence[float]) -> CostModel:
    """The cost model of least squared relative error, all of its coefficients at least 0.

    widths and milliseconds: one entry for each model timed. Where all have the same widths in some term, what that term
    costs counts as `fixed` or `layer`: nothing in the data could tell them apart.
    """
    terms = np.array([[1.0, len(neurons), sum(groups), sum(neurons)] for neurons, groups in widths])  # (cuts, 4)
    times = np.asarray(milliseconds, dtype=float)
    per_layer = terms[:, 2:] / terms[:, 1:2]
    told = np.array([True, np.ptp(terms[:, 1]) > 0, *(np.ptp(per_layer, axis=0) > 0)])
    scale = terms.max(axis=0)
    rows = (terms / scale / times[:, None])[:, told]
    costs = np.zeros(4)
    costs[told] = nnls(rows, np.ones(len(times)))[0] / scale[told]
    misfit = float(np.abs(terms @ costs / times - 1).max())
    fixed, layer, group, neuron = costs.tolist()
    return CostModel(kind, fixed, layer, group, neuron, misfit)


def cuts(shape: Shape) -> list[Widths]:
    """Few shapes that tell the terms apart: the whole, half the layers, narrow ones, both, and fewer KV groups."""
    neurons, groups = min(shape.neurons), min(shape.kv_groups)
    half, narrow = max(1, shape.layers // 2), max(1, neurons // 4)
    deep = [(shape.layers, neurons, groups), (half, neurons, groups)]
    thin = [(shape.layers, narrow, groups), (half, max(1, neurons // 2), groups)]
    fewer = [(shape.layers, neurons, 1)] if groups > 1 else []
    return [((width,) * layers, (kept,) * layers) for layers, width, kept in (*deep, *thin, *fewer)]


def measure(
    model: Model, prompt: int = 128, new_tokens: int = 8, rounds: int = 5, progress: Progress = no_progress
) -> dict[str, CostModel]:
    """The cost models of both kinds for `model` in transformers, on its device and with torch's threads.

    prompt: tokens that are read, within the model's context; new_tokens: written after the first, whose mean is taken.
    Memory: the cuts' narrower layers, less than twice the model in all.
    """
    shape = Shape.of(model)
    widths = cuts(shape)
    models = []
    for neurons, groups in widths:
        first = tuple(range(len(neurons)))
        models.append(cut(model, Plan("", shape.layers, first, neurons, groups, 0.0, "decoder", 0.0)))
    ids = torch.tensor([prompt_ids(min(prompt, model.config.max_position_embeddings - new_tokens))])
    speeds = measure_speed(models, ids, new_tokens, rounds, progress)
    decode = [1e3 / max(speed.decode) for speed in speeds]
    prefill = [1e3 * ids.shape[1] / max(speed.prefill) for speed in speeds]
    return {"decode": fit("decode", widths, decode), "prefill": fit("prefill", widths, prefill)}


def cut(model: Model, plan: Plan) -> Model:
    """A model of the plan's *shape* only, its first neurons and groups kept: for timing, where no value matters."""
    smaller, shape = shallow_copy(model), Shape.of(model)
    layers = family_of(smaller).layers(smaller)
    for layer, width, groups in zip(plan.layers, plan.neurons, plan.kv_groups, strict=True):
        if width < shape.neurons[layer]:
            shrink_mlp(layers[layer], torch.arange(width))
        if groups < shape.kv_groups[layer]:
            shrink_attention(layers[layer], torch.arange(groups))
    keep_layers(smaller, plan.layers)
    update_config(smaller)
    return smaller


def milliseconds(calls: Sequence[Callable[[], object]], repeats: int = 7) -> Tensor:
    """Wall-clock time of each call: (calls, repeats), after one warm-up each.

    The calls take turns, so that a machine that is busy for a while is unfair to all of them alike.
    """
    for call in calls:
        call()
    times = torch.zeros(len(calls), repeats, dtype=torch.float64)
    for turn in range(repeats):
        for which, call in enumerate(calls):
            start = time.perf_counter()
            call()
            times[which, turn] = 1e3 * (time.perf_counter() - start)
    return times


def widest(
    cost: CostModel, shape: Shape, dropped: int, share: float, multiple: int, kv_groups: int | None = None
) -> int:
    """Most neurons a layer, a multiple or all, with which the model takes at most `share` of its time; 0: none do.

    dropped: layers that are gone. The widths of `shape` are taken as its narrowest layer's.
    """
    layers, neurons = shape.layers - dropped, min(shape.neurons)
    groups = min(shape.kv_groups) if kv_groups is None else kv_groups
    allowed = share * cost.milliseconds(shape.neurons, shape.kv_groups) * (1 + 1e-12)

    def fits(width: int) -> bool:
        return cost.milliseconds((width,) * layers, (groups,) * layers) <= allowed

    widths = (neurons, *range((neurons - 1) // multiple * multiple, 0, -multiple))
    return next(filter(fits, widths), 0)


class Budget(NamedTuple):
    """A budget in time: a share of what the dense model takes for one of KINDS."""

    kind: str
    share: float


def parse_budget(text: str) -> Budget:
    """The budget in words such as "latency=0.75", which is that of decode. Raises InputError."""
    kind, _, number = text.partition("=")
    kind = {"latency": "decode"}.get(kind.strip(), kind.strip())
    try:
        share = float(number)
    except ValueError:
        share = float("nan")
    if kind not in KINDS or not 0.0 < share < 1.0:
        wanted = "a budget such as latency=0.75 (the same as decode=0.75) or prefill=0.75"
        hint = "say which share of the dense model's time is left, between 0 and 1"
        raise InputError(f"expected {wanted}, got {text!r}: {hint}")
    return Budget(kind, share)


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


def check_budget(settings: Settings) -> None:
    """Raises InputError for settings that a budget in time, which plans layers and one width, would not follow."""
    if settings.widths != "uniform" or settings.method in PLANNERS or settings.attentions:
        wanted = "uniform widths, all attentions, and a method that leaves the plan to others with a budget in time"
        got = f"{settings.widths} widths, {settings.attentions} attentions to leave out, and {settings.method}"
        raise InputError(f"expected {wanted}, got {got}: ask for a --ratio instead")


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
    Raises InputError: what `check_budget` refuses, too little text, or a budget out of reach.
    """
    check_budget(settings)
    fitted, judged = trial_text(ids, TRIAL_TOKENS, JUDGED) if trials else (ids, ids)
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
    losses: dict[int, float] = {}
    for index in tried:
        progress("trials", len(losses), len(tried))
        small = prune(model, fitted, settings, plan=plans[index], name=name).model
        losses[index] = perplexity(small, judged).loss
        progress("trials", len(losses), len(tried))
    best = min(losses, key=losses.__getitem__) if losses else 0
    rows = [Trial(plan, cost.fraction(shape, plan), losses.get(index)) for index, plan in enumerate(plans)]
    return plans[best], rows, cost
