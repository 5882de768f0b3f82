"""What pruning costs, measured: the loss on each kind of text against the ratio, for a few ways to spend it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ..compare.one_run import NEW_TOKENS, PROMPT, ROUNDS, decoder_parameters
from ..errors import InputError, suggestion
from ..evaluation.by_kind import ByKind, judge
from ..evaluation.confidence import UNKNOWN, Interval
from ..evaluation.generation import measure_speed, prompt_ids, ratio
from ..families import Family, family_of
from ..families.protocol import Model
from ..prune import check_family, check_request, prune
from ..settings import METHODS, PRESETS, Settings, default_recovery
from ..shape import Shape
from ..system import hashes
from ..system.cache import remembered
from .columns import ALL, tidy
from .sample import Sample
from .store import entry, fingerprint

# How the parameters to go can be found: one width for all layers, widths by measurement, or whole layers and no width.
WAYS: dict[str, dict[str, Any]] = {
    "uniform": PRESETS["stock"],
    "measured": PRESETS["best"],
    "whole layers": {"method": "shortgpt", "recovery": "none"},
}
REFUSED = "refused"  # among the attrs of the frame


def told_for(way: str, family: Family) -> dict[str, Any]:
    """The settings that one of WAYS stands for, or a method with its own recovery."""
    return WAYS.get(way, {"method": way, "recovery": default_recovery(way, bool(family.bias_fields))})


def settings_for(model: Model, way: str, ratio: float, multiple: int, device: str = "cpu", seed: int = 0) -> Settings:
    """What `prune` is told for one of WAYS, or for a method by its name. Raises InputError when that cannot be met."""
    if way not in (*WAYS, *METHODS):
        known = (*WAYS, *METHODS)
        wanted = f"a way to prune or a method among {', '.join(known)}"
        raise InputError(f"expected {wanted}, got {way!r}: {suggestion(way, known)}")
    settings = Settings(ratio=ratio, multiple=multiple, device=device, seed=seed, **told_for(way, family_of(model)))
    check_family(model, settings)
    check_request(Shape.of(model), settings)
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
    Raises InputError, before any work, for a way that is not known or a ratio that no plan reaches. What only its own
    planner finds out of reach is left out, and told in `attrs[REFUSED]`: plan -> why.
    """
    asked = [
        (way, share, settings_for(model, way, share, multiple, device, sample.seed)) for way in ways for share in ratios
    ]
    rows: list[dict[str, Any]] = []
    refused: dict[str, str] = {}
    name = fingerprint(model)
    texts = {kind: hashes.of_tensor(ids) for kind, ids in windows.items()}
    for way, share, settings in asked:
        key = [name, hashes.of_tensor(sample.ids), texts, asdict(settings)]
        measure = partial(_measured, model, sample, windows, settings)
        measured = remembered(entry("cost_frame", "costs", *key), measure)
        if isinstance(measured, str):
            refused[f"{way} at {share:.0%}"] = measured
        else:
            rows += [{"way": way, "ratio": share} | row for row in measured]
    frame = tidy("costs", rows, name, sample.seed)
    frame.attrs[REFUSED] = refused
    return frame


def _measured(model: Model, sample: Sample, windows: Mapping[str, Tensor], settings: Settings) -> Any:
    """The rows of one plan: one for each kind, and one for their mean where there are several; or why it cannot be."""
    before, started = decoder_parameters(model), time.perf_counter()
    try:
        done = prune(model, sample.ids, settings)
    except InputError as error:
        return str(error)
    small, plan = done.model, done.plan
    seconds = time.perf_counter() - started
    judged = judge(small, windows, model)
    prompt = torch.tensor([prompt_ids(PROMPT)])
    dense_speed, speed = measure_speed([model, small], prompt, NEW_TOKENS, ROUNDS)
    faster, low, high = ratio(speed.decode, dense_speed.decode)
    shared = {
        "removed": 1 - decoder_parameters(small) / before,
        "parameters": sum(map(Tensor.numel, small.parameters())),
        "layers_left": len(plan.layers),
        "least_width": min(plan.neurons),
        "most_width": max(plan.neurons),
        "faster": faster,
        "faster_low": low,
        "faster_high": high,
        "seconds": seconds,
    }
    return [shared | row for row in rows_of(judged)]


def rows_of(judged: ByKind) -> list[dict[str, Any]]:
    """Losses, their difference and its interval, KL and agreement, for each kind and for the mean of several."""
    sizes = {kind: (one.sequences, one.tokens) for kind, one in judged.kinds.items()}
    rows = [_row(kind, one.values(), one.intervals(), *sizes[kind]) for kind, one in judged.kinds.items()]
    if len(rows) > 1:
        whole = [sum(parts) for parts in zip(*sizes.values(), strict=True)]
        rows.append(_row(ALL, judged.mean, judged.intervals(), *whole))
    return rows


def _row(
    kind: str, values: Mapping[str, float], bounds: Mapping[str, Interval | None], windows: int, tokens: int
) -> dict[str, Any]:
    row: dict[str, Any] = {name: values[name] for name in ("dense_loss", "loss", "increase", "kl")}
    row |= dict(zip(("low", "high"), bounds["increase"] or UNKNOWN, strict=True))
    row |= dict(zip(("kl_low", "kl_high"), bounds["kl"] or UNKNOWN, strict=True))
    row |= dict(zip(("agreement_low", "agreement_high"), bounds["top1_agreement"] or UNKNOWN, strict=True))
    return row | {"agreement": values["top1_agreement"], "windows": windows, "tokens": tokens, "kind": kind}
