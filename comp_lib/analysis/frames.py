"""Frames of layers, and of what is in them: neurons, KV groups, and the error against the width.

All come from `one_pass`, so that the first of them takes the time, and the others none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ..errors import InputError
from ..evaluation.confidence import confidence_intervals
from ..families import family_of
from ..families.protocol import STEPS, Device, Model
from .columns import tidy
from .harm import layer_harm
from .one_pass import PARTS, RIVALS, Tensors, one_pass
from .sample import Sample

Asked = Collection[int] | None  # layers; None: all


def layers(model: Model, sample: Sample, judged: Sample | None = None, device: Device = "cpu") -> pd.DataFrame:
    """Every layer by block influence on `sample`, and by harm on `judged`; columns: COLUMNS["layers"].

    judged: None measures no harm, which takes about layers / 2 passes over it.
    """
    looked = one_pass(model, sample, range(len(family_of(model).layers(model))), device)
    turns = {part: torch.stack([of_layer[f"turn:{part}"] for of_layer in looked]) for part in PARTS}
    rows = [row for part, values in turns.items() for row in _measured(sample, values, part, "block influence")]
    if judged is not None:
        rows += _measured(judged, layer_harm(model, judged, (), device), "layer", "harm")
    return tidy("layers", rows, model, sample.seed)


def _measured(sample: Sample, values: Tensor, part: str, measure: str) -> Iterator[dict[str, Any]]:
    """A row for each layer: the mean of its values (layers, S), and its interval."""
    shared = {"part": part, "measure": measure, "kind": sample.name, "windows": len(sample.ids)}
    bounds = confidence_intervals(values.double().numpy()).tolist()
    for layer, (mean, (low, high)) in enumerate(zip(values.mean(1).tolist(), bounds, strict=True)):
        yield shared | {"tokens": sample.tokens, "layer": layer, "value": mean, "low": low, "high": high}


def neurons(model: Model, sample: Sample, layers: Asked = None, device: Device = "cpu") -> pd.DataFrame:
    """What each MLP neuron is worth, one row a neuron of `layers` (None: all); columns: COLUMNS["neurons"].

    Raises InputError for a layer that is not there.
    """

    def columns(looked: Tensors) -> pd.DataFrame:
        rivals = {name.replace("-", "_"): looked[f"mlp:{name}"] for name in RIVALS}
        return pd.DataFrame({"condition": looked["mlp:condition"]} | _blocks(looked, "mlp", "neuron") | rivals)

    return _frame("neurons", columns, model, sample, layers, device)


def groups(model: Model, sample: Sample, layers: Asked = None, device: Device = "cpu") -> pd.DataFrame:
    """What each KV group is worth, one row a group of `layers` (None: all); columns: COLUMNS["groups"].

    Raises InputError for a layer that is not there.
    """

    def columns(looked: Tensors) -> pd.DataFrame:
        values = _blocks(looked, "attention", "group")
        condition = looked["attention:condition"].reshape(len(values["cost"]), -1).amax(1)  # of a group's inputs
        return pd.DataFrame(values | {"condition": condition})

    return _frame("groups", columns, model, sample, layers, device)


def _blocks(looked: Tensors, part: str, unit: str) -> dict[str, Any]:
    """What neurons and KV groups have in common. A layer that writes nothing has shares of 0."""
    energy, order = looked[f"{part}:energy"], looked[f"{part}:order"]
    return {
        unit: range(len(order)),
        "energy": energy / energy.sum().clamp_min(torch.finfo(torch.float64).tiny),
        "cost": looked[f"{part}:cost"],
        "removed_at": torch.where(order > 0, order.double() / len(order), torch.nan),
    }


def curves(model: Model, sample: Sample, layers: Asked = None, device: Device = "cpu") -> pd.DataFrame:
    """Error of both dense layers of `layers` (None: all) against their width; columns: COLUMNS["curves"].

    Raises InputError for a layer that is not there.
    """

    def columns(looked: Tensors) -> pd.DataFrame:
        parts = []
        for part in STEPS:
            gone, whole = looked[f"{part}:counts"], len(looked[f"{part}:order"])
            widths = {"part": part, "gone": gone, "width": whole - gone, "share_gone": gone.double() / whole}
            parts.append(pd.DataFrame(widths | {"error": looked[f"{part}:errors"]}))
        return pd.concat(parts)

    return _frame("curves", columns, model, sample, layers, device)


def _frame(
    name: str, columns: Callable[[Tensors], pd.DataFrame], model: Model, sample: Sample, layers: Asked, device: Device
) -> pd.DataFrame:
    """The frame of these columns of each layer. Raises InputError for a layer that the model has not."""
    count = len(family_of(model).layers(model))
    asked = sorted(set(range(count) if layers is None else layers))
    if wrong := set(asked) - set(range(count)):
        raise InputError(f"expected layers from 0 to {count - 1}, got {min(wrong)}: choose among these")
    shared = {"kind": sample.name, "tokens": sample.tokens}
    looked = zip(asked, one_pass(model, sample, asked, device), strict=True)
    tables = [columns(of_layer).assign(layer=layer, **shared) for layer, of_layer in looked]
    return tidy(name, pd.concat(tables, ignore_index=True), model, sample.seed)
