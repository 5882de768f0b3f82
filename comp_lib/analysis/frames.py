"""Frames of layers, and of what is in them: neurons, KV groups, and the error against the width.

All stand on one pass over the layers of the model, which is cached: the first of them takes the time, the others none.
Of few tokens the sums are kept in their dual form (`statistics.few_tokens`), as the method itself does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ..errors import InputError
from ..evaluation.confidence import confidence_intervals
from ..families.find import layers_of, parts
from ..families.probe import gain_behind
from ..families.protocol import STEPS, Device, Model, Step
from ..families.steps import attention_step, mlp_step
from ..importance.layers import sequence_loss_increase
from ..importance.matrix_condition import scores_of, sweep
from ..importance.neurons import METRICS, RIDGE, Problem
from ..statistics.few_tokens import TokenStatistics
from ..statistics.gram import Gram, Statistics, token_weight, tokens_for_gram
from ..statistics.solve import Inverse, penalty
from ..surgery import upstream
from ..walk import Visit, batches, walk
from .columns import Sample, cached, tidy

Asked = Collection[int] | None  # layers; None: all
Tables = dict[str, dict[str, Tensor]]  # of one layer: name of a frame -> its columns
PARTS = ("layer", *STEPS)
UNITS: dict[Step, tuple[str, str]] = {"attention": ("groups", "group"), "mlp": ("neurons", "neuron")}
FURTHEST = (
    0.6  # share of a layer's neurons up to which removal is followed: beyond it a layer is better dropped
)
POINTS = 24  # removals of a whole layer are looked at in so many steps
RIVALS = ("wanda-sp", "activation", "magnitude")  # metrics that the scores of neurons are compared with


def layers(
    model: Model, sample: Sample, judged: Sample | None = None, device: Device = "cpu"
) -> pd.DataFrame:
    """Every layer by block influence on `sample`, and by harm on `judged`; columns: COLUMNS["layers"].

    judged: None measures no harm, which takes about layers / 2 passes over it.
    """
    looked = _look_at(model, sample, list(range(len(layers_of(model)))), device)
    rows: list[dict[str, Any]] = []
    for part in PARTS:
        turns = torch.stack([tables["layers"][part] for tables in looked])
        rows += _measured(sample, turns, part, "block influence")
    if judged is not None:
        rows += _measured(judged, layer_harm(model, judged, device), "layer", "harm")
    return tidy("layers", rows, model, sample.seed)


def layer_harm(model: Model, sample: Sample, device: Device = "cpu") -> Tensor:
    """`importance.layers.sequence_loss_increase`, from the cache where it is there: (layers, S), nats per token."""
    harm: Tensor = cached(
        "harm", model, sample, [], lambda: sequence_loss_increase(model, sample.ids, device)
    )
    return harm


def _measured(sample: Sample, values: Tensor, part: str, measure: str) -> Iterator[dict[str, Any]]:
    """A row for each layer: the mean of its values (layers, S), and its interval."""
    shared = {"part": part, "measure": measure, "kind": sample.name, "windows": len(sample.ids)}
    bounds = confidence_intervals(values.double().numpy()).tolist()
    for layer, (mean, (low, high)) in enumerate(zip(values.mean(1).tolist(), bounds, strict=True)):
        yield shared | {"tokens": sample.ids.numel(), "layer": layer, "value": mean, "low": low, "high": high}


def neurons(model: Model, sample: Sample, layers: Asked = None, device: Device = "cpu") -> pd.DataFrame:
    """What each MLP neuron is worth, one row a neuron of `layers` (None: all); columns: COLUMNS["neurons"].

    Raises InputError for a layer that is not there.
    """
    return _frame("neurons", model, sample, layers, device)


def groups(model: Model, sample: Sample, layers: Asked = None, device: Device = "cpu") -> pd.DataFrame:
    """What each KV group is worth, one row a group of `layers`, as `neurons` has them; columns: COLUMNS["groups"]."""
    return _frame("groups", model, sample, layers, device)


def curves(model: Model, sample: Sample, layers: Asked = None, device: Device = "cpu") -> pd.DataFrame:
    """Error of the MLP of each of `layers`, as `neurons` has them, against its width; columns: COLUMNS["curves"]."""
    return _frame("curves", model, sample, layers, device)


def _frame(name: str, model: Model, sample: Sample, layers: Asked, device: Device) -> pd.DataFrame:
    """The frame of that name, of these layers. Raises InputError for no layer, or one that it has not."""
    count = len(layers_of(model))
    asked = sorted(set(range(count) if layers is None else layers))
    if (wrong := set(asked) - set(range(count))) or not asked:
        raise InputError(
            f"expected layers from 0 to {count - 1}, got {min(wrong, default='none')}: choose others"
        )
    shared = {"kind": sample.name, "tokens": sample.ids.numel()}
    looked = zip(asked, _look_at(model, sample, asked, device), strict=True)
    frames = [pd.DataFrame(tables[name]).assign(layer=layer, **shared) for layer, tables in looked]
    return tidy(name, pd.concat(frames, ignore_index=True), model, sample.seed)


def _look_at(model: Model, sample: Sample, asked: list[int], device: Device) -> list[Tables]:
    """The tables of each layer that is asked for, in order, on the CPU; from the cache where they are there.

    Memory: the hidden states of the sample, the sums of a layer, and three matrices of their size.
    """
    looked: list[Tables] = cached(
        "layers", model, sample, asked, lambda: list(_walk(model, sample, asked, device))
    )
    return looked


def _walk(model: Model, sample: Sample, asked: list[int], device: Device) -> Iterator[Tables]:
    for visit in walk(model, sample.ids, device):
        if visit.index > max(asked, default=-1):
            return
        if visit.index in asked:
            yield _look(visit)


def _look(visit: Visit) -> Tables:
    """All about the layer of a visit, through which the text passes.

    "layers" has 1 - mean cosine between the states before and after each of PARTS, (S,).
    """
    layer, hidden = visit.layer, visit.before
    after = torch.empty_like(hidden)
    sums: dict[Step, Statistics] = {}
    tokens = hidden.shape[0] * hidden.shape[1]
    for which in STEPS:
        linear = parts(layer)[which].linear
        form: type[Statistics] = TokenStatistics if tokens < tokens_for_gram(linear.in_features) else Gram
        sums[which] = form.zeros(linear.in_features, device=linear.weight.device)
    turns: dict[str, list[Tensor]] = {part: [] for part in PARTS}
    for rows in batches(*hidden.shape[:2]):
        first = hidden[rows].to(linear.weight.device)
        middle, x = attention_step(layer, first, visit.rope)
        last, y = mlp_step(layer, middle)
        sums["attention"].add(x, token_weight=token_weight(middle))
        sums["mlp"].add(y, token_weight=token_weight(last))
        after[rows] = last
        for part, (one, other) in zip(PARTS, ((first, last), (first, middle), (middle, last)), strict=True):
            turns[part].append(1.0 - cosine_similarity(one.float(), other.float(), dim=-1).mean(1).double())
    visit.after = after
    tables = {"layers": {part: torch.cat(values) for part, values in turns.items()}}
    for which, (name, unit) in UNITS.items():
        weight = parts(layer)[which].linear.weight.detach().T.to(sums[which].precision)  # (n, m)
        own = partial(upstream, layer, which), parts(layer)[which].block, RIDGE, gain_behind(layer, which)
        problem = Problem(sums.pop(which), weight, *own)
        inverse = problem.statistics.inverse(problem.ridge, problem.block)
        tables[name] = {unit: torch.arange(problem.blocks)} | _alone(problem, inverse)
    for name in RIVALS:  # of the MLP, whose turn was last
        scores = METRICS[name](problem, problem.blocks, torch.Generator()).scores.double()
        tables["neurons"][name.replace("-", "_")] = scores
    tables["neurons"]["removed_at"], tables["curves"] = _together(problem, inverse)
    return tables


def _alone(problem: Problem, inverse: Inverse) -> dict[str, Tensor]:
    """Energy, condition and cost of each block (g,); a layer that writes nothing has shares of 0."""
    own, weight = problem.statistics.diagonal(), problem.scaled_weight
    tiny = torch.finfo(own.dtype).tiny
    energy = problem.per_block(own * weight.square().sum(1))
    diagonal = inverse.blocks.diagonal(dim1=1, dim2=2).flatten()  # P_ii (n,)
    condition = ((own + penalty(own, problem.ridge)) * diagonal).clamp_min(1.0).sqrt()
    return {
        "energy": energy / energy.sum().clamp_min(tiny),
        "condition": condition.reshape(problem.blocks, -1).amax(1),
        "cost": scores_of(inverse.blocks, weight).double() / max(problem.statistics.energy(weight), tiny),
    }


def _together(problem: Problem, inverse: Inverse) -> tuple[Tensor, dict[str, Tensor]]:
    """When each neuron goes, as a share of all (n,), NaN where it stays; the error as they go. Spoils `inverse`."""
    count, step, weight = problem.blocks, max(1, problem.blocks // POINTS), problem.scaled_weight
    removed = max(1, int(FURTHEST * count / step)) * step if count > 1 else 0
    held = penalty(problem.statistics.diagonal(), problem.ridge).to(weight)
    swept = sweep(inverse, weight, removed, per_round=step, penalties=held)
    removed_at = torch.full((count,), torch.nan, dtype=torch.float64)
    removed_at[swept.order] = torch.arange(1, removed + 1, dtype=torch.float64) / count
    nothing, whole = swept.errors.new_zeros(1), problem.statistics.energy(weight)
    errors = ((swept.errors - swept.penalties) / max(whole, torch.finfo(torch.float64).tiny)).clamp_min(0.0)
    gone = torch.cat([nothing.long(), swept.counts])
    curve = {"gone": gone, "width": count - gone, "share_gone": gone.double() / count}
    return removed_at, curve | {"error": torch.cat([nothing, errors])}
