"""Two checkpoints side by side: base and tuned, dense and pruned, before and after healing.

Both must read the same tokens into a stream of the same width. Layers are matched by their number. Where
whole layers were dropped, they are matched by the plan that a pruned checkpoint carries.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import torch

from ...checkpoints.load import open_model
from ...checkpoints.new_folder import PLAN_FILE
from ...decoder.shape import Shape
from ...decoder.structure import parts
from ...decoder.types import Device, Layer, Model
from ...decoder.walk import walk
from ...evaluation.by_kind import EvaluationByText
from ...evaluation.confidence import confidence_intervals
from ...hybrid_granularity.plan import Plan
from ...importance.layers import cosine_distance
from ...utils.errors import InputError
from .columns import Sample, tidy
from .cost_frame import rows_of

Named = tuple[str, Model]
"""A model and the name by which it was loaded."""


def pair(one_model: Named, another_model: Named) -> tuple[Model, Model, Plan | None]:
    """The two models, the smaller first, the larger as its parent, and the plan that the smaller one carries.

    Of two models of one size, the first that was given is the parent.

    Raises InputError as `match_layers` does, and for a broken plan.
    """
    both = sorted((one_model, another_model), key=lambda named: -Shape.of(named[1]).decoder_parameters)
    (_, parent), (name, model) = both
    plan = carried_plan(name)
    match_layers(model, parent, plan)
    return model, parent, plan


def carried_plan(name: str) -> Plan | None:
    """The plan by which the model of that name was pruned, or None.

    Raises InputError for a broken plan.
    """
    path = open_model(name)[1].path / PLAN_FILE
    return Plan.load(path) if path.is_file() else None


def match_layers(model: Model, parent: Model, plan: Plan | None = None) -> dict[int, int]:
    """The number of each layer of `parent` that stayed -> its number in `model`.

    Models with as many layers match by number. Otherwise `plan` says which layers of `parent` stayed; it must
    be the plan that pruned `model` from `parent`. (A pruned model and its healed copy carry the same plan,
    and neither was pruned from the other.)

    Raises InputError for models of other widths or vocabularies, or with layers that cannot be matched.
    """
    hidden = model.config.hidden_size
    vocabulary = model.config.vocab_size
    parent_hidden = parent.config.hidden_size
    parent_vocabulary = parent.config.vocab_size
    if (parent_hidden, parent_vocabulary) != (hidden, vocabulary):
        raise InputError(
            expected=(
                f"another model with a stream of {parent_hidden} numbers and {parent_vocabulary:,} tokens "
                "in its vocabulary"
            ),
            got=f"{hidden} numbers and {vocabulary:,} tokens",
            hint="compare relatives only",
        )
    shape = Shape.of(model)
    parent_shape = Shape.of(parent)
    if parent_shape.layer_count == shape.layer_count:
        return {layer: layer for layer in range(parent_shape.layer_count)}
    if plan is None or (plan.parent_layers, plan.neurons) != (parent_shape.layer_count, shape.neurons):
        raise InputError(
            expected=f"another model with {parent_shape.layer_count} layers",
            got=f"{shape.layer_count}, and no {PLAN_FILE} that says which of them stayed",
            hint="compare with its parent",
        )
    return {parent_layer: layer for layer, parent_layer in enumerate(plan.layers)}


@torch.no_grad()
def changed_layers(
    model: Model, parent: Model, sample: Sample, plan: Plan | None = None, device: Device = "cpu"
) -> pd.DataFrame:
    """How far each layer of `parent` has changed in `model`; columns: COLUMNS["changed_layers"].

    The index names `parent`.

    plan: the plan of `model`, where whole layers were dropped.

    Raises InputError as `match_layers` does.
    """
    numbers = match_layers(model, parent, plan)
    visits = walk(model, sample.ids, device)
    rows: list[dict[str, Any]] = []
    for parent_visit in walk(parent, sample.ids, device):
        row = {
            "layer": parent_visit.index,
            "kind": sample.name,
            "tokens": sample.ids.numel(),
            "windows": len(sample.ids),
            "neurons": parts(parent_visit.layer)["mlp"].output_linear.in_features,
            "other_neurons": 0,
        }
        if parent_visit.index in numbers:
            visit = next(visits)  # pruning does not change the order of layers
            distances = cosine_distance(parent_visit.after, visit.after)
            [(low, high)] = confidence_intervals(distances[None].cpu().numpy()).tolist()
            row |= {
                "other_layer": numbers[parent_visit.index],
                "stream": float(distances.mean()),
                "low": low,
                "high": high,
                "weights": _weight_change(parent_visit.layer, visit.layer),
                "other_neurons": parts(visit.layer)["mlp"].output_linear.in_features,
            }
        rows.append(row)
    return tidy("changed_layers", rows, parent, sample.seed)


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


def changed_kinds(judged: EvaluationByText, parent: Model, seed: int = 0) -> pd.DataFrame:
    """Where a model and its parent disagree, by kind of text; columns: COLUMNS["changed_kinds"].

    judged: the model beside `parent`, as `evaluation.by_kind.judge` gives it.
    """
    return tidy("changed_kinds", rows_of(judged), parent, seed)
