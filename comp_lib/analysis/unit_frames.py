"""Frames of what is inside the layers: neurons, KV groups, spectra, and the error against the width.

All come from `one_pass`, so that the first of them takes the time, and the others none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ..errors import InputError
from ..families import family_of
from ..families.protocol import STEPS, Device, Model
from .columns import tidy
from .one_pass import RIVALS, one_pass
from .sample import Sample
from .store import Tensors, fingerprint

Rows = list[dict[str, Any]]


def neurons(
    model: Model, sample: Sample, layers: Collection[int] | None = None, device: Device = "cpu"
) -> pd.DataFrame:
    """What each MLP neuron is worth, one row a neuron of `layers` (None: all); columns: COLUMNS["neurons"].

    Raises InputError for a layer that is not there.
    """
    rows: Rows = []
    for layer, found in _of(model, sample, layers, device):
        width = len(found["mlp:energy"])
        names, shares = found["mlp:stand_ins"].tolist(), found["mlp:coefficients"].tolist()
        values = {
            "energy": _share(found["mlp:energy"]),
            "condition": found["mlp:condition"].tolist(),
            "cost": found["mlp:cost"].tolist(),
            "mask_cost": found["mlp:mask_cost"].tolist(),
            "removed_at": _removed_at(found["mlp:order"]),
            **{name.replace("-", "_"): found[f"mlp:{name}"].tolist() for name in RIVALS},
            "stand_ins": [", ".join(map(str, one)) for one in names],
            "coefficients": [", ".join(f"{share:.4g}" for share in one) for one in shares],
        }
        rows += _rows(sample, values, layer=[layer] * width, neuron=range(width))
    return tidy("neurons", rows, fingerprint(model), sample.seed)


def energies(frame: pd.DataFrame) -> pd.Series:
    """H_ii ||w_i||^2 over ||X W||^2 of each row of `neurons`, ridge included: cost times condition squared."""
    return frame.cost * frame.condition**2


def groups(model: Model, sample: Sample, layers: Collection[int] | None = None, device: Device = "cpu") -> pd.DataFrame:
    """What each KV group is worth, one row a group of `layers` (None: all); columns: COLUMNS["groups"].

    Raises InputError for a layer that is not there.
    """
    rows: Rows = []
    for layer, found in _of(model, sample, layers, device):
        count = len(found["attention:energy"])
        values = {
            "energy": _share(found["attention:energy"]),
            "condition": found["attention:condition"].reshape(count, -1).amax(1).tolist(),
            "cost": found["attention:cost"].tolist(),
            "removed_at": _removed_at(found["attention:order"]),
        }
        rows += _rows(sample, values, layer=[layer] * count, group=range(count))
    return tidy("groups", rows, fingerprint(model), sample.seed)


def spectra(
    model: Model, sample: Sample, layers: Collection[int] | None = None, most: int = 32, device: Device = "cpu"
) -> pd.DataFrame:
    """Eigenvalues of C and G of both dense layers of `layers` (None: all); columns: COLUMNS["spectra"].

    most: of each matrix about so many of its eigenvalues, at places that grow in proportion; sums are of all of them.
    Raises InputError for a layer that is not there.
    """
    rows: Rows = []
    for layer, found in _of(model, sample, layers, device):
        for part in STEPS:
            for matrix in ("C", "G"):
                eigenvalues = found[f"{part}:{matrix}"]
                if len(eigenvalues) and float(eigenvalues.sum()) > 0.0:
                    asked = {"layer": layer, "part": part, "matrix": matrix}
                    rows += [asked | row for row in _spectrum(eigenvalues, most, sample)]
    return tidy("spectra", rows, fingerprint(model), sample.seed)


def _spectrum(eigenvalues: Tensor, most: int, sample: Sample) -> Rows:
    shares = eigenvalues / eigenvalues.sum()
    whole = {"effective_rank": float(torch.special.entr(shares).sum().exp()), "size": len(shares)}
    places = sorted({round(len(shares) ** (step / max(most - 1, 1))) for step in range(most)})
    shown = torch.tensor(places, dtype=torch.long) - 1
    values = {"share": shares[shown].tolist(), "cumulative": shares.cumsum(0)[shown].tolist()}
    return [row | whole for row in _rows(sample, values, place=places)]


def curves(model: Model, sample: Sample, layers: Collection[int] | None = None, device: Device = "cpu") -> pd.DataFrame:
    """Error of both dense layers of `layers` (None: all) against their width; columns: COLUMNS["curves"].

    Raises InputError for a layer that is not there.
    """
    rows: Rows = []
    for layer, found in _of(model, sample, layers, device):
        for part in STEPS:
            whole, counts = len(found[f"{part}:order"]), found[f"{part}:counts"]
            values = {
                "width": (whole - counts).tolist(),
                "share_gone": (counts.double() / whole).tolist(),
                "error": found[f"{part}:errors"].tolist(),
            }
            parts = [layer] * len(counts), [part] * len(counts)
            rows += _rows(sample, values, layer=parts[0], part=parts[1], gone=counts.tolist())
    return tidy("curves", rows, fingerprint(model), sample.seed)


def _of(model: Model, sample: Sample, layers: Collection[int] | None, device: Device) -> Iterator[tuple[int, Tensors]]:
    """What `one_pass` knows of the layers that were asked for."""
    check_layers(model, layers)
    asked = range(len(family_of(model).layers(model))) if layers is None else sorted(set(layers))
    yield from zip(asked, one_pass(model, sample, asked, device=device), strict=True)


def check_layers(model: Model, layers: Collection[int] | None) -> None:
    """Raises InputError for a layer that the model has not."""
    count = len(family_of(model).layers(model))
    for layer in layers or ():
        if not 0 <= layer < count:
            raise InputError(f"expected layers from 0 to {count - 1}, got {layer}: choose among these")


def _share(values: Tensor) -> list[float]:
    """Of the sum; zeros where there is nothing."""
    shares: list[float] = (values / values.sum().clamp_min(torch.finfo(torch.float64).tiny)).tolist()
    return shares


def _removed_at(order: Tensor) -> list[float]:
    places = order.double() / len(order)
    removed: list[float] = torch.where(order > 0, places, torch.nan).tolist()
    return removed


def _rows(sample: Sample, values: dict[str, list[Any]], **names: Any) -> Rows:
    """Columns as rows, with the kind of text and the number of tokens."""
    columns = {name: list(column) for name, column in (names | values).items()}
    shared = {"kind": sample.name, "tokens": sample.tokens}
    return [shared | dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
