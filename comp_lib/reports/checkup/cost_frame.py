"""The cost of pruning: loss on each kind of text against the ratio, for presets and methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ...decoder.shape import Shape
from ...decoder.types import Model
from ...evaluation.by_kind import ComparisonByText, EvaluationByText, Row, judge
from ...evaluation.confidence import NO_INTERVAL
from ...evaluation.loss import ComparedEvaluation, Evaluation
from ...pruning.checks import check_settings_for
from ...pruning.comp import prune
from ...pruning.methods import METHODS
from ...pruning.planning import complete_settings
from ...pruning.settings import PRESETS, USUAL_PRESET, Settings
from ...utils.arguments import suggestion
from ...utils.errors import InputError
from ...utils.hashes import hash_of_tensor
from ...utils.progress import Progress, no_progress, with_label
from .columns import ALL_KINDS, Sample, load_or_compute, tidy


def settings_for(model: Model, way: str, ratio: float, device: str = "cpu", seed: int = 0) -> Settings:
    """Settings of `prune` for a way to prune: the name of a preset or of a method.

    Raises InputError for another name, or where no plan for the model meets the settings.
    """
    ways = (*PRESETS, *METHODS)
    if way not in ways:
        raise InputError(
            expected=f"a way to prune, a preset or a method, among {', '.join(ways)}",
            got=repr(way),
            hint=suggestion(way, ways),
        )
    if way in PRESETS:
        settings = Settings(ratio=ratio, device=device, seed=seed, **PRESETS[way])
    else:
        settings = Settings(ratio=ratio, device=device, seed=seed, method=way)
    check_settings_for(model, complete_settings(model, settings))
    return settings


def dense_quality(
    model: Model, windows_by_text: Mapping[str, Tensor], progress: Progress = no_progress
) -> EvaluationByText:
    """The losses of a model on the windows (S, L) of each kind; cached, since `costs` needs them again."""
    ids, shapes = cache_key(windows_by_text)

    def measure() -> dict[str, list[float]]:
        judged = judge(model, windows_by_text, progress=with_label("dense model", progress))
        return {kind: list(evaluation.losses) for kind, evaluation in judged.texts.items()}

    losses_by_kind = load_or_compute("dense", model, ids, shapes, measure)
    texts = {}
    for kind, losses in losses_by_kind.items():
        columns = {"loss": torch.tensor(losses, dtype=torch.float64)}
        texts[kind] = Evaluation.of(columns, windows_by_text[kind])
    return EvaluationByText(texts)


def cache_key(windows_by_text: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, list[int]]]:
    """All tokens of the windows (S, L) of each kind, and the sizes of the windows: a key for the cache."""
    ids = torch.cat([windows.flatten() for windows in windows_by_text.values()])
    return ids, {kind: list(windows.shape) for kind, windows in windows_by_text.items()}


def costs(
    model: Model,
    sample: Sample,
    windows_by_text: Mapping[str, Tensor],
    ratios: Sequence[float] = (0.1, 0.2, 0.3),
    ways: Sequence[str] = (USUAL_PRESET,),
    device: str = "cpu",
    progress: Progress = no_progress,
) -> pd.DataFrame:
    """Loss by kind of text for each way and ratio, pruned for real on `sample`; columns: COLUMNS["costs"].

    Args:
        windows_by_text: the windows (S, L) of each kind that judge, as `windows_of` gives them. The
            dense model is judged on them once.
        progress: called as `prune` and `judge` call it, with the way and the ratio in the label.

    Raises InputError, before any work, for an unknown way, or a ratio that no plan reaches.
    """
    requests = []
    for way in ways:
        for ratio in ratios:
            requests.append((way, ratio, settings_for(model, way, ratio, device, sample.seed)))
    window_hashes = {kind: hash_of_tensor(ids) for kind, ids in windows_by_text.items()}
    rows: list[dict[str, Any]] = []
    for way, ratio, settings in requests:
        key = [window_hashes, asdict(settings)]
        labelled_progress = with_label(f"{way} {ratio:.0%}", progress)
        measure = partial(_measure, model, sample, windows_by_text, settings, labelled_progress)
        rows_of_plan = load_or_compute("costs", model, sample.ids, key, measure)
        rows += [{"way": way, "ratio": ratio} | row for row in rows_of_plan]
    return tidy("costs", rows, model, sample.seed)


def _measure(
    model: Model,
    sample: Sample,
    windows_by_text: Mapping[str, Tensor],
    settings: Settings,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Prune and judge: a row for each kind, and a row for their mean where there are several kinds."""
    small = prune(model, sample.ids, settings, progress=progress).model
    small_shape = Shape.of(small)
    removed = Shape.of(model).removed_share(small_shape)
    sizes = {"removed": removed, "parameters": small_shape.total_parameters}
    judged = compare_with_dense(small, model, windows_by_text, progress)
    return [sizes | row for row in rows_of(judged)]


def compare_with_dense(
    model: Model, parent: Model, windows_by_text: Mapping[str, Tensor], progress: Progress = no_progress
) -> ComparisonByText:
    """The losses of a model and of its parent on each kind; the parent is judged once for all models."""
    dense = dense_quality(parent, windows_by_text, progress)
    judged = judge(model, windows_by_text, progress=progress)
    texts = {}
    for kind, ids in windows_by_text.items():
        dense_losses = torch.tensor(dense.texts[kind].losses, dtype=torch.float64)
        losses = torch.tensor(judged.texts[kind].losses, dtype=torch.float64)
        texts[kind] = ComparedEvaluation.of_losses(dense_losses, losses, ids)
    return ComparisonByText(texts)


def rows_of(judged: EvaluationByText) -> list[dict[str, Any]]:
    """The measures and the columns WINDOWS of each kind, and of their mean where there are several kinds."""
    rows: list[dict[str, Any]] = []
    for kind, row in judged.make_rows().items():
        rows.append(_columns_of(kind, row, [judged.texts[kind]]))
    mean_row = judged.make_mean_row()
    if mean_row is not None:
        _, row = mean_row
        rows.append(_columns_of(ALL_KINDS, row, list(judged.texts.values())))
    return rows


def _columns_of(kind: str, row: Row, evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """The measures and the columns WINDOWS of a row, which is about these evaluations."""
    values, intervals = row
    low, high = intervals["increase"] or NO_INTERVAL
    columns = {
        "kind": kind,
        "windows": sum(len(evaluation.losses) for evaluation in evaluations),
        "tokens": sum(evaluation.token_count for evaluation in evaluations),
        "low": low,
        "high": high,
    }
    return columns | values
