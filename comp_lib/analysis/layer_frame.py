"""The frame of layers: how much each turns the stream, and what the model loses without it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ..errors import InputError
from ..evaluation.confidence import confidence_intervals
from ..families import family_of
from ..families.protocol import STEPS, Device, Model
from .columns import tidy
from .harm import greedy_harm, layer_harm, step_harm
from .one_pass import PARTS, one_pass
from .sample import Sample
from .store import fingerprint

HARMS = ("layer", "steps")  # of what harm is measured


def layers(
    model: Model,
    sample: Sample,
    harm: tuple[str, ...] = ("layer",),
    greedy: int = 0,
    judged: Sample | None = None,
    device: Device = "cpu",
) -> pd.DataFrame:
    """Every layer by each measure, for each kind of text and for all; columns: COLUMNS["layers"].

    Block influence is that of `sample`. harm: of HARMS, measured on `judged` (None: on the sample); greedy: rounds of
    greedy removal. Cost: harm of layers takes about layers / 2 passes over the judged windows; of steps twice that;
    each round of greedy removal as much as that of layers.
    Raises InputError for another word in `harm`, or for more rounds than there are layers to lose.
    """
    count = len(family_of(model).layers(model))
    if set(harm) - set(HARMS) or not 0 <= greedy < count:
        got = f"{', '.join(harm)} and {greedy}: choose among these"
        raise InputError(f"expected harm of {' or '.join(HARMS)}, and 0 to {count - 1} rounds, got {got}")
    judged = sample if judged is None else judged
    found = list(one_pass(model, sample, device=device))
    rows: list[dict[str, Any]] = []
    for part in PARTS:
        turns = torch.stack([of_layer[f"turn:{part}"] for of_layer in found])
        rows += _observations(sample, turns, {"part": part, "measure": "block influence", "round": 0})
    harms = {"layer": layer_harm(model, judged, (), device)} if "layer" in harm else {}
    if "steps" in harm:
        harms |= {which: step_harm(model, judged, which, device) for which in STEPS}
    for part, values in harms.items():
        rows += _observations(judged, values, {"part": part, "measure": "harm", "round": 0})
    for turn, values in enumerate(greedy_harm(model, judged, greedy, device)[1] if greedy else ()):
        rows += _observations(judged, values, {"part": "layer", "measure": "greedy", "round": turn})
    return tidy("layers", rows, fingerprint(model), sample.seed)


def _observations(sample: Sample, values: Tensor, asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each layer and kind of text: the mean of its values (layers, S), and its interval.

    Layers whose values are NaN are gone, and have no row.
    """
    for kind, places in sample.places().items():
        of_kind = values[:, places].double()
        size = {"kind": kind, "windows": len(places), "tokens": len(places) * sample.ids.shape[1]}
        bounds = confidence_intervals(of_kind.numpy()).tolist()
        for layer, (mean, (low, high)) in enumerate(zip(of_kind.mean(1).tolist(), bounds, strict=True)):
            if not math.isnan(mean):
                yield asked | size | {"layer": layer, "value": mean, "low": low, "high": high}
