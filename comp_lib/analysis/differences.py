"""Two checkpoints side by side: base and tuned, dense and pruned, before and after healing.

Both must read the same tokens into a stream of the same width. Layers are matched by their number. Where
whole layers were dropped, they are matched by the plan that a pruned checkpoint carries.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import torch

from ..errors import InputError
from ..evaluation.by_kind import EvaluationByKind
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
from .frames import cosine_distance

Named = tuple[str, Model]
"""A model and the name by which it was loaded."""


def pair(one_model: Named, another_model: Named) -> tuple[Model, Model, Plan | None]:
    """The two models, the larger first, and the plan that the smaller one carries.

    Raises InputError as `match_layers` does, and for a broken plan.
    """
    both = sorted((one_model, another_model), key=lambda named: -Shape.of(named[1]).decoder)
    (_, larger), (name, smaller) = both
    plan = carried_plan(name)
    match_layers(larger, smaller, plan)
    return larger, smaller, plan


def carried_plan(name: str) -> Plan | None:
    """The plan by which the model of that name was pruned, or None.

    Raises InputError for a broken plan.
    """
    path = open_model(name)[1].path / PLAN_FILE
    return Plan.load(path) if path.is_file() else None


def match_layers(model: Model, other_model: Model, plan: Plan | None = None) -> dict[int, int]:
    """The number of each layer of `model` -> its number in `other_model`.

    Models with as many layers match by number. Otherwise `plan` says which layers of `model` stayed; it must
    be the plan that pruned `other_model` from `model`. (A pruned model and its healed copy carry the same
    plan, and neither was pruned from the other.)

    Raises InputError for models of other widths or vocabularies, or with layers that cannot be matched.
    """
    hidden = model.config.hidden_size
    vocabulary = model.config.vocab_size
    other_hidden = other_model.config.hidden_size
    other_vocabulary = other_model.config.vocab_size
    if (hidden, vocabulary) != (other_hidden, other_vocabulary):
        raise InputError(
            expected=(
                f"another model with a stream of {hidden} numbers and {vocabulary:,} tokens in its vocabulary"
            ),
            got=f"{other_hidden} and {other_vocabulary:,}",
            hint="compare relatives only",
        )
    shape = Shape.of(model)
    other_shape = Shape.of(other_model)
    if shape.layers == other_shape.layers:
        return {layer: layer for layer in range(shape.layers)}
    if plan is None or (plan.parent_layers, plan.neurons) != (shape.layers, other_shape.neurons):
        raise InputError(
            expected=f"another model with {shape.layers} layers",
            got=f"{other_shape.layers}, and no {PLAN_FILE} that says which of them stayed",
            hint="compare with its parent",
        )
    return {layer: other_layer for other_layer, layer in enumerate(plan.layers)}


@torch.no_grad()
def changed_layers(
    model: Model, other_model: Model, sample: Sample, plan: Plan | None = None, device: Device = "cpu"
) -> pd.DataFrame:
    """How far each layer of `model` has changed in `other_model`; columns: COLUMNS["changed_layers"].

    plan: the plan of `other_model`, where whole layers were dropped.

    Raises InputError as `match_layers` does.
    """
    other_layers = match_layers(model, other_model, plan)
    other_visits = walk(other_model, sample.ids, device)
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
        if visit.index in other_layers:
            other_visit = next(other_visits)  # pruning does not change the order of layers
            distances = cosine_distance(visit.after, other_visit.after)
            [(low, high)] = confidence_intervals(distances[None].cpu().numpy()).tolist()
            row |= {
                "other_layer": other_layers[visit.index],
                "stream": float(distances.mean()),
                "low": low,
                "high": high,
                "weights": _weight_change(visit.layer, other_visit.layer),
                "other_neurons": parts(other_visit.layer)["mlp"].linear.in_features,
            }
        rows.append(row)
    return tidy("changed_layers", rows, model, sample.seed)


def _weight_change(layer: Layer, other_layer: Layer) -> float:
    """||W' - W|| / ||W|| over all weights of the layers, NaN where one has another shape."""
    weights = dict(layer.named_parameters())
    other_weights = dict(other_layer.named_parameters())
    squared_norm = 0.0
    squared_change = 0.0
    for name, weight in weights.items():
        if name not in other_weights or other_weights[name].shape != weight.shape:
            return math.nan
        squared_norm += float(weight.float().square().sum())
        squared_change += float((other_weights[name].float() - weight.float()).square().sum())
    return float((squared_change / squared_norm) ** 0.5)


def changed_kinds(model: Model, judged: EvaluationByKind, seed: int = 0) -> pd.DataFrame:
    """Where two models disagree, by kind of text; columns: COLUMNS["changed_kinds"].

    judged: the other model beside `model`, as `evaluation.by_kind.judge` gives it.
    """
    return tidy("changed_kinds", rows_of(judged), model, seed)
