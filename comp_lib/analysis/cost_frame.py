"""What pruning costs, measured: the loss on each kind of text against the ratio, for a few ways to spend it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import pandas as pd
from torch import Tensor

from ..errors import InputError, suggestion
from ..evaluation.by_kind import ByKind, judge
from ..evaluation.confidence import UNKNOWN
from ..families import family_of
from ..families.protocol import Model
from ..planning import check_request
from ..prune import prune
from ..settings import METHODS, PRESETS, Settings, default_recovery
from ..system import hashes
from ..system.cache import remembered
from .columns import ALL, tidy
from .harm import entry
from .sample import Sample

# How the parameters to go can be found: one width for all layers, or widths by measurement.
WAYS: dict[str, dict[str, Any]] = {"uniform": PRESETS["stock"], "measured": PRESETS["best"]}


def settings_for(model: Model, way: str, ratio: float, multiple: int, device: str = "cpu", seed: int = 0) -> Settings:
    """What `prune` is told for one of WAYS, or for a method by its name. Raises InputError when that cannot be met."""
    if way not in (*WAYS, *METHODS):
        known = (*WAYS, *METHODS)
        expected = f"a way to prune or a method among {', '.join(known)}"
        raise InputError(f"expected {expected}, got {way!r}: {suggestion(way, known)}")
    biases = bool(family_of(model).bias_fields)
    how = WAYS.get(way, {"method": way, "recovery": default_recovery(way, biases)})
    settings = Settings(ratio=ratio, multiple=multiple, device=device, seed=seed, **how)
    check_request(model, settings)
    return settings


def costs(
    model: Model,
    sample: Sample,
    windows: Mapping[str, Tensor],
    ratios: Sequence[float] = (0.1, 0.2, 0.3),
    ways: Sequence[str] = ("uniform",),
    multiple: int = 64,
    device: str = "cpu",
) -> pd.DataFrame:
    """Loss by kind of text for each way and ratio, pruned for real on `sample`; columns: COLUMNS["costs"].

    windows: (S, L) of the text of each kind that judges, as `evaluation.by_kind.kind_windows` gives them.
    Raises InputError, before any work, for a way that is not known or a ratio that no plan reaches.
    """
    asked = [
        (way, share, settings_for(model, way, share, multiple, device, sample.seed)) for way in ways for share in ratios
    ]
    texts = {kind: hashes.of_tensor(ids) for kind, ids in windows.items()}
    rows: list[dict[str, Any]] = []
    for way, share, settings in asked:
        measure = partial(_measured, model, sample, windows, settings)
        measured = remembered(entry("costs", model, sample, texts, asdict(settings)), measure)
        rows += [{"way": way, "ratio": share} | row for row in measured]
    return tidy("costs", rows, model, sample.seed)


def _measured(model: Model, sample: Sample, windows: Mapping[str, Tensor], settings: Settings) -> list[dict[str, Any]]:
    """The rows of one plan: one for each kind, and one for their mean where there are several."""
    small = prune(model, sample.ids, settings).model
    decoders = [family_of(one).layers(one) for one in (model, small)]
    before, left, whole = (sum(each.numel() for each in part.parameters()) for part in (*decoders, small))
    sizes = {"removed": 1 - left / before, "parameters": whole, "layers_left": len(decoders[1])}  # biases that came too
    return [sizes | row for row in rows_of(judge(small, windows, model))]


def rows_of(judged: ByKind) -> list[dict[str, Any]]:
    """Losses, their difference with its interval, KL and agreement, for each kind and for the mean of several."""
    sizes = {kind: [len(one.losses), one.tokens] for kind, one in judged.kinds.items()}
    of_kinds = {kind: (one.values(), one.intervals()) for kind, one in judged.kinds.items()}
    if len(sizes) > 1:
        sizes[ALL] = list(map(sum, zip(*sizes.values(), strict=True)))
        of_kinds[ALL] = judged.mean, judged.intervals()
    rows = []
    for kind, (values, bounds) in of_kinds.items():
        row: dict[str, Any] = {"kind": kind} | dict(zip(("windows", "tokens"), sizes[kind], strict=True)) | values
        low, high = bounds["increase"] or UNKNOWN
        rows.append(row | {"low": low, "high": high, "agreement": values["top1_agreement"]})
    return rows
