"""Two checkpoints side by side: base and tuned, dense and pruned, before and after healing.

They must read the same tokens into a stream of the same width. Layers are matched by their number, or, where whole
layers were dropped, by the plan that a pruned checkpoint carries.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ..calibration.stream import embed, rotary, through, to_device
from ..errors import InputError
from ..evaluation.by_kind import ByKind
from ..evaluation.confidence import confidence_intervals
from ..families import layers_of, parts
from ..families.protocol import Device, Layer, Model
from ..models.load import open_model
from ..models.save import PLAN_FILE
from ..plan import Plan
from ..shape import Shape
from .columns import Sample, tidy
from .cost_frame import rows_of


def paired(one: tuple[str, Model], two: tuple[str, Model]) -> tuple[Model, Model, Plan | None]:
    """Two models, by their names, as they can be compared, the larger first; the plan that the other carries.

    Raises InputError as `match`, and for a broken plan.
    """
    (_, first), (name, other) = sorted((one, two), key=lambda named: -Shape.of(named[1]).decoder)
    match(first, other, plan := carried(name))
    return first, other, plan


def carried(name: str) -> Plan | None:
    """The plan by which the model of that name was pruned, or None. Raises InputError for a broken one."""
    path = open_model(name)[1].place / PLAN_FILE
    return Plan.load(path) if path.is_file() else None


def match(model: Model, other: Model, plan: Plan | None = None) -> dict[int, int]:
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
    places, walks = match(model, other, plan), [_walk(one, sample, device) for one in (model, other)]
    rows: list[dict[str, Any]] = []
    for index, (layer, state) in enumerate(walks[0]):
        row = {"layer": index, "kind": sample.name, "tokens": sample.ids.numel(), "windows": len(sample.ids)}
        row |= {"neurons": parts(layer)["mlp"].linear.in_features, "other_neurons": 0}
        if (place := places.get(index)) is not None:
            second, other_state = next(walks[1])  # layers that stay, stay in order
            turns = 1.0 - cosine_similarity(state.float(), other_state.float(), dim=-1).mean(1).double()
            [(low, high)] = confidence_intervals(turns[None].double().cpu().numpy()).tolist()
            row |= {"other_layer": place, "stream": float(turns.mean()), "low": low, "high": high}
            row |= {
                "weights": _weight_change(layer, second),
                "other_neurons": parts(second)["mlp"].linear.in_features,
            }
        rows.append(row)
    return tidy("changed_layers", rows, model, sample.seed)


def _walk(model: Model, sample: Sample, device: Device) -> Iterator[tuple[Layer, Tensor]]:
    """Each layer, and the stream behind it (S, L, d)."""
    hidden = embed(model, sample.ids)
    rope = rotary(model, sample.ids.shape[1], device, hidden.dtype)
    for layer in layers_of(model):
        hidden = through(to_device(layer, device), hidden, rope, device)
        yield layer, hidden


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
