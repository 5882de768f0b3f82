"""How good a model is on each kind of text that ships, and on the mean over the kinds.

One text can hide a loss: a pruned model may keep its prose and forget how to write code. So every kind is judged by
itself, by what `loss` measures, and the mean gives each kind the same weight, however long its text is.

The interval of that mean is a stratified bootstrap: sequences are drawn anew within each kind, the kinds stay (Davison
and Hinkley, Bootstrap Methods and their Application, 1997, section 3.2). It needs as many sequences of each kind as an
interval of that kind alone.
"""

from __future__ import annotations

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
from .confidence import FEWEST, TAILS, Interval, resampled_means
from .loss import Evaluation, compare, evaluation_tokens, perplexity

MEASURES = ("dense_loss", "loss", "increase", "kl", "top1_agreement")  # fields of an Evaluation
Row = tuple[dict[str, float], dict[str, Interval | None]]  # value of each measure; its 95% interval


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

    def intervals(self, seed: int = 0) -> dict[str, Interval | None]:
        """95% intervals of `mean`; None unless each kind has FEWEST sequences, all finite."""
        if len(self.counted) == 1:
            own = self.kinds[self.counted[0]].intervals(seed)
            return {name: own[name] for name in self.mean}
        random, draws = np.random.default_rng(seed), []
        columns = [_by_sequence(self.kinds[name]) for name in self.counted]  # (measures, S) of each kind
        if min(values.shape[1] for values in columns) < FEWEST:
            return dict.fromkeys(self.mean)
        for values in columns:
            draws.append(resampled_means(values, random))  # (measures, RESAMPLES)
        bounds = np.quantile(np.mean(draws, 0), TAILS, axis=1).T.tolist()
        usable = np.all([np.isfinite(values).all(1) for values in columns], 0)
        return {
            name: (low, high) if fine else None
            for name, (low, high), fine in zip(self.mean, bounds, usable, strict=True)
        }

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
    """The measures of each sequence, (measures, S), in the order of `values_of`."""
    if not one.dense_losses:
        return np.array([one.losses])
    dense, losses = np.array(one.dense_losses), np.array(one.losses)
    return np.array([dense, losses, losses - dense, one.kls, one.agreements])
