"""What pruning costs, measured: the loss on each kind of text against the ratio, for presets and methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import pandas as pd
from torch import Tensor

from ..comp import prune
from ..errors import InputError, suggestion
from ..evaluation.by_kind import ByKind, judge
from ..evaluation.confidence import NO_INTERVAL
from ..families.protocol import Model
from ..families.table import family_of
from ..methods import METHODS, default_recovery
from ..planning import check_request
from ..settings import PRESETS, Settings
from ..shape import Shape
from ..system.hashes import hash_of_tensor
from .columns import ALL, Sample, cached, tidy


def settings_for(model: Model, way: str, ratio: float, device: str = "cpu", seed: int = 0) -> Settings:
    """Settings of `prune` for a preset or a method of that name. Raises InputError if they cannot be met."""
    ways = (*PRESETS, *METHODS)
    if way not in ways:
        raise InputError(
            expected=f"a preset or a method among {', '.join(ways)}",
            got=repr(way),
            hint=suggestion(way, ways),
        )
    if way in PRESETS:
        options = PRESETS[way]
    else:
        recovery = default_recovery(way, biases=bool(family_of(model).bias_fields))
        options = PRESETS["stock"] | {"method": way, "recovery": recovery}
    settings = Settings(ratio=ratio, device=device, seed=seed, **options)
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
    Raises InputError, before any work, for an unknown way, or a ratio that no plan reaches.
    """
    requests = [
        (way, ratio, settings_for(model, way, ratio, device, sample.seed)) for way in ways for ratio in ratios
    ]
    text_hashes = {kind: hash_of_tensor(ids) for kind, ids in windows.items()}
    rows: list[dict[str, Any]] = []
    for way, ratio, settings in requests:
        key = [text_hashes, asdict(settings)]
        rows_of_plan = cached(
            "costs", model, sample, key, partial(_measure, model, sample, windows, settings)
        )
        rows += [{"way": way, "ratio": ratio} | row for row in rows_of_plan]
    return tidy("costs", rows, model, sample.seed)


def _measure(
    model: Model, sample: Sample, windows: Mapping[str, Tensor], settings: Settings
) -> list[dict[str, Any]]:
    """Prune and judge: a row for each kind, and a row for their mean where there are several."""
    small = prune(model, sample.ids, settings).model
    small_shape = Shape.of(small)
    removed = 1 - small_shape.decoder / Shape.of(model).decoder
    sizes = {"removed": removed, "parameters": small_shape.total}
    return [sizes | row for row in rows_of(judge(small, windows, model))]


def rows_of(judged: ByKind) -> list[dict[str, Any]]:
    """Losses, their difference with its interval, KL and agreement, for each kind and the mean of several."""
    rows: list[dict[str, Any]] = []
    for name, (values, intervals) in judged.rows().items():
        if name in judged.kinds:
            kind = name
            evaluations = [judged.kinds[name]]
        else:
            kind = ALL
            evaluations = list(judged.kinds.values())
        low, high = intervals["increase"] or NO_INTERVAL
        row = {
            "kind": kind,
            "windows": sum(len(evaluation.losses) for evaluation in evaluations),
            "tokens": sum(evaluation.tokens for evaluation in evaluations),
            "low": low,
            "high": high,
            "agreement": values["top1_agreement"],
        }
        rows.append(row | values)
    return rows
