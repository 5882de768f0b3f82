"""Two checkpoints side by side: base and tuned, dense and pruned, before and after healing.

They must read the same tokens into a stream of the same width. Layers are matched by their number, or, where whole
layers were dropped, by the plan that a pruned checkpoint carries.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ..errors import InputError
from ..evaluation.by_kind import ByKind
from ..evaluation.confidence import confidence_intervals
from ..families.find import parts
from ..families.protocol import Device, Layer, Model
from ..models.load import open_model
from ..models.save import PLAN_FILE
from ..plan import Plan
from ..shape import Shape
from ..walk import walk
from .columns import Sample, tidy
from .cost_frame import rows_of


def pair(one: tuple[str, Model], two: tuple[str, Model]) -> tuple[Model, Model, Plan | None]:
    """Two models, by their names, as they can be compared, the larger first; the plan that the other carries.

    Raises InputError as `match`, and for a broken plan.
    """
    (_, first), (name, other) = sorted((one, two), key=lambda named: -Shape.of(named[1]).decoder)
    match_layers(first, other, plan := carried_plan(name))
    return first, other, plan


def carried_plan(name: str) -> Plan | None:
    """The plan by which the model of that name was pruned, or None. Raises InputError for a broken one."""
    path = open_model(name)[1].path / PLAN_FILE
    return Plan.load(path) if path.is_file() else None


def match_layers(model: Model, other: Model, plan: Plan | None = None) -> dict[int, int]:
    """Layers of `model` -> of `other`, by the `plan`, if it was pruned from `model` by that one, else by their numbers.

    A pruned model and its healed copy carry the same plan, and neither was pruned from the other.
    Raises InputError for models of other widths or vocabularies, or with layers that cannot be matched.
    """
    sizes = [(each.config.hidden_size, each.config.vocab_size) for each in (model, other)]
    if sizes[0] != sizes[1]:
        expected = f"another model with a stream of {sizes[0][0]} numbers and {sizes[0][1]:,} tokens in its vocabulary"
        raise InputError(
            f"expected {expected}, got {sizes[1][0]} and {sizes[1][1]:,}: compare relatives only"
        )
    whole, left = Shape.of(model), Shape.of(other)
    if whole.layers == left.layers:
        return {layer: layer for layer in range(whole.layers)}
    if plan is None or (plan.parent_layers, plan.neurons) != (whole.layers, left.neurons):
        got = f"{left.layers}, and no {PLAN_FILE} that says which of them stayed"
        raise InputError(
            f"expected another model with {whole.layers} layers, got {got}: compare with its parent"
        )
    return {layer: place for place, layer in enumerate(plan.layers)}


@torch.no_grad()
def changed_layers(
    model: Model, other: Model, sample: Sample, plan: Plan | None = None, device: Device = "cpu"
) -> pd.DataFrame:
    """How each layer of `model` differs in `other`, on the same text; columns: COLUMNS["changed_layers"].

    plan: of `other`, where whole layers were dropped. Raises InputError as `match` does.
    """
    positions = match_layers(model, other, plan)
    other_visits = walk(other, sample.ids, device)
    rows: list[dict[str, Any]] = []
    for visit in walk(model, sample.ids, device):
        row = {
            "layer": visit.index,
            "kind": sample.name,
            "tokens": sample.ids.numel(),
            "windows": len(sample.ids),
            "neurons": parts(visit.layer)["mlp"].linear.in_features,
            "other_neurons": 0,
        }
        if visit.index in positions:
            other_visit = next(other_visits)  # layers that stay, stay in order
            turns = _turns(visit.after, other_visit.after)
            [(low, high)] = confidence_intervals(turns[None].cpu().numpy()).tolist()
            row |= {
                "other_layer": positions[visit.index],
                "stream": float(turns.mean()),
                "low": low,
                "high": high,
                "weights": _weight_change(visit.layer, other_visit.layer),
                "other_neurons": parts(other_visit.layer)["mlp"].linear.in_features,
            }
        rows.append(row)
    return tidy("changed_layers", rows, model, sample.seed)


def _turns(states: Tensor, other_states: Tensor) -> Tensor:
    """1 - mean cosine between two streams (S, L, d), for each sequence (S,), float64."""
    cosines = cosine_similarity(states.float(), other_states.float(), dim=-1)
    return 1.0 - cosines.mean(1).double()


def _weight_change(layer: Layer, other: Layer) -> float:
    """||W' - W|| / ||W|| over all weights of the layers, NaN where one has another shape."""
    ours, theirs = (dict(one.named_parameters()) for one in (layer, other))
    if any(name not in theirs or theirs[name].shape != weight.shape for name, weight in ours.items()):
        return math.nan
    change = sum(
        float((theirs[name].float() - weight.float()).square().sum()) for name, weight in ours.items()
    )
    return float((change / sum(float(weight.float().square().sum()) for weight in ours.values())) ** 0.5)


def changed_kinds(model: Model, judged: ByKind, seed: int = 0) -> pd.DataFrame:
    """Where two models disagree, by kind of text; columns: COLUMNS["changed_kinds"].

    judged: the other one beside `model`, as `evaluation.by_kind.judge` gives it.
    """
    return tidy("changed_kinds", rows_of(judged), model, seed)
