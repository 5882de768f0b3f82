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
from ..shape import Shape
from ..system.hashes import hash_of_tensor
from .columns import ALL, Sample, cached, tidy


def settings_for(model: Model, way: str, ratio: float, device: str = "cpu", seed: int = 0) -> Settings:
    """What `prune` is told for a preset or a method, by its name. Raises InputError when that cannot be met."""
    if way not in (known := (*PRESETS, *METHODS)):
        expected = f"a preset or a method among {', '.join(known)}"
        raise InputError(f"expected {expected}, got {way!r}: {suggestion(way, known)}")
    biases = bool(family_of(model).bias_fields)
    how = PRESETS.get(way) or PRESETS["stock"] | {"method": way, "recovery": default_recovery(way, biases)}
    settings = Settings(ratio=ratio, device=device, seed=seed, **how)
    check_request(model, settings)
    return settings


def costs(
    model: Model,
    sample: Sample,
    windows: Mapping[str, Tensor],
    ratios: Sequence[float] = (0.1, 0.2, 0.3),
    ways: Sequence[str] = ("stock",),
    device: str = "cpu",
) -> pd.DataFrame:
    """Loss by kind of text for each way and ratio, pruned for real on `sample`; columns: COLUMNS["costs"].

    windows: (S, L) of the text of each kind that judges, as `calibration.windows.windows_of` gives them.
    Raises InputError, before any work, for a way that is not known or a ratio that no plan reaches.
    """
    asked = [
        (way, share, settings_for(model, way, share, device, sample.seed)) for way in ways for share in ratios
    ]
    texts = {kind: hash_of_tensor(ids) for kind, ids in windows.items()}
    rows: list[dict[str, Any]] = []
    for way, share, settings in asked:
        measure = partial(_measured, model, sample, windows, settings)
        measured = cached("costs", model, sample, [texts, asdict(settings)], measure)
        rows += [{"way": way, "ratio": share} | row for row in measured]
    return tidy("costs", rows, model, sample.seed)


def _measured(
    model: Model, sample: Sample, windows: Mapping[str, Tensor], settings: Settings
) -> list[dict[str, Any]]:
    """The rows of one plan: one for each kind, and one for their mean where there are several."""
    small = prune(model, sample.ids, settings).model
    before, left = Shape.of(model), Shape.of(small)
    sizes = {"removed": 1 - left.decoder / before.decoder, "parameters": left.total}
    return [sizes | row for row in rows_of(judge(small, windows, model))]


def rows_of(judged: ByKind) -> list[dict[str, Any]]:
    """Losses, their difference with its interval, KL and agreement, for each kind and for the mean of several."""
    rows: list[dict[str, Any]] = []
    for name, (values, bounds) in judged.rows().items():
        kind, seen = (
            (name, [judged.kinds[name]]) if name in judged.kinds else (ALL, list(judged.kinds.values()))
        )
        low, high = bounds["increase"] or UNKNOWN
        size = {"windows": sum(len(one.losses) for one in seen), "tokens": sum(one.tokens for one in seen)}
        interval = {"low": low, "high": high, "agreement": values["top1_agreement"]}
        rows.append({"kind": kind} | size | values | interval)
    return rows
