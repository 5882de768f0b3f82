"""How good a model is on each kind of text that ships, and on the mean over the kinds.

One text can hide a loss: a pruned model may keep its prose and forget how to write code. So every kind is judged by
itself, by what `loss` measures, and the mean gives each kind the same weight, however long its text is.

The interval of that mean is a stratified bootstrap: sequences are drawn anew within each kind, the kinds stay (Davison
and Hinkley, Bootstrap Methods and their Application, 1997, section 3.2). What `confidence` says of few sequences holds
here too.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..calibration.text import EVERY_KIND, KINDS, load_text
from ..errors import InputError
from ..families.protocol import Model
from ..report import LayerReport, Progress, no_progress
from .confidence import RESAMPLES
from .loss import Evaluation, compare, evaluation_tokens, perplexity

MEASURES = ("dense_loss", "loss", "increase", "kl", "top1_agreement")  # fields of an Evaluation
Row = tuple[dict[str, float], dict[str, tuple[float, float]]]  # value of each measure; its interval


@dataclass(frozen=True)
class ByKind:
    """Quality of a model on several texts, and on the mean over those that count."""

    kinds: dict[str, Evaluation]  # of each text, by its name
    counted: tuple[str, ...]  # the texts in the mean

    @property
    def mean(self) -> dict[str, float]:
        """Mean over kinds of `loss`, nats per token.

        Where a dense model was compared with, also of `dense_loss`, `increase` and `kl`, nats per token, and of
        `top1_agreement`, a share from 0 to 1.
        """
        rows = [values_of(self.kinds[name]) for name in self.counted]
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}

    def intervals(self, level: float = 0.95, seed: int = 0) -> dict[str, tuple[float, float]]:
        """Bootstrap intervals of `mean`; NaN unless each kind has 2 sequences, all finite."""
        random, draws = np.random.default_rng(seed), []
        for name in self.counted:
            values = _by_sequence(self.kinds[name])  # (S, measures)
            places = (random.integers(len(values), size=(100, len(values))) for _ in range(RESAMPLES // 100))
            draws.append(np.concatenate([values[drawn].mean(1) for drawn in places]))  # (RESAMPLES, measures)
        bounds = np.quantile(np.mean(draws, 0), [(1 - level) / 2, (1 + level) / 2], axis=0)  # (2, measures)
        return {name: (low, high) for name, (low, high) in zip(self.mean, bounds.T.tolist(), strict=True)}

    def rows(self) -> dict[str, Row]:
        """Values and 95% intervals of each text, as they came, and at the end of the mean, called `mean of 8`."""
        texts = {name: (values_of(one), one.intervals()) for name, one in self.kinds.items()}
        return texts | {f"mean of {len(self.counted)}": (self.mean, self.intervals())}


def kind_windows(
    tokenizer: Any, length: int = 512, sequences: int | None = None, others: Mapping[str, str] | None = None
) -> dict[str, Tensor]:
    """Windows (S, L) of the evaluation text of each of KINDS, in order, then of the texts `others`, by their names.

    sequences: S of each text; None takes all whole windows.

    Raises InputError: a text too short for that, or one of `others` with the name of a kind.
    """
    windows = {}
    texts = [(kind, load_text(f"evaluation:{kind}")) for kind in KINDS] + list((others or {}).items())
    for name, text in texts:
        if name in windows:
            raise InputError(f"expected names other than those of the kinds, got {name!r}: choose another name")
        try:
            windows[name] = evaluation_tokens(tokenizer, text, length, sequences)
        except InputError as error:
            raise InputError(f"{error} (this text: {name})") from error
    return windows


def windows_of(name: str | Path, tokenizer: Any, length: int = 512, sequences: int | None = None) -> dict[str, Tensor]:
    """Windows (S, L) of the text of that name or file, by its name; of each of KINDS for EVERY_KIND.

    Raises InputError as `load_text` and `evaluation_tokens` do.
    """
    if str(name) == EVERY_KIND:
        return kind_windows(tokenizer, length, sequences)
    return {str(name): evaluation_tokens(tokenizer, load_text(name), length, sequences)}


def judge(
    model: Model,
    windows: Mapping[str, Tensor],
    dense: Model | None = None,
    counted: Collection[str] = KINDS,
    progress: Progress = no_progress,
) -> ByKind:
    """`model` on each of `windows` (S, L), as `kind_windows` gives them, beside `dense` where it is given.

    counted: names of the texts in the mean. `progress` is told the name of the text and its sequences.

    Raises InputError: a counted text that is not there, or what `loss.compare` refuses.
    """
    if not counted or set(counted) - set(windows):
        got = f"{', '.join(counted) or 'none'}: leave out what has no windows"
        raise InputError(f"expected some of the texts {', '.join(windows)} in the mean, got {got}")
    judged = {}
    for name, ids in windows.items():

        def named(what: str, done: int, total: int, report: LayerReport | None = None, name: str = name) -> None:
            progress(name, done, total, report)

        if dense is None:
            judged[name] = perplexity(model, ids, progress=named)
        else:
            judged[name] = compare(model, dense, ids, progress=named)
    return ByKind(judged, tuple(counted))


def values_of(one: Evaluation) -> dict[str, float]:
    """Those of MEASURES that were measured."""
    values = {name: getattr(one, name) for name in MEASURES}
    return {name: value for name, value in values.items() if value is not None}


def _by_sequence(one: Evaluation) -> np.ndarray:
    """The measures of each sequence, (S, measures), in the order of `_values`; what is no use is NaN."""
    columns = [one.dense_losses, one.losses, one.kls, one.agreements] if one.dense_losses else [one.losses]
    values = np.array(columns).T
    values[~np.isfinite(values) | (len(values) < 2)] = math.nan
    return np.insert(values, 2, values[:, 1] - values[:, 0], axis=1) if one.dense_losses else values
