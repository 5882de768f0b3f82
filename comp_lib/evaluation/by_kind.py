"""How good a model is on each kind of text that ships, and on the mean over the kinds.

One text can hide a loss: a pruned model may keep its prose and forget how to write code. So the model is
judged on every kind by itself, by what `loss` measures. In the mean each kind weighs the same, however long
its text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import overload

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..calibration.defaults import USUAL_WINDOW
from ..calibration.in_memory import Source
from ..calibration.texts import EVERY_KIND, check_tokenizer
from ..decoder.structure import check_model
from ..decoder.types import Model
from ..utils.errors import InputError
from ..utils.progress import Progress, check_progress, no_progress
from .confidence import Interval, Intervals
from .format import with_interval
from .loss import ComparedEvaluation, Comparison, Evaluation, Measures, compare_losses, measure_loss
from .windows import windows_of

Row = tuple[dict[str, float], dict[str, Interval | None]]
"""The value of each measure, and its 95% interval where it has one."""


@dataclass(frozen=True)
class EvaluationByText:
    """Quality of a model on several texts, and on their mean."""

    texts: Mapping[str, Evaluation]
    """Name of a text -> the quality on it."""

    @property
    def mean(self) -> Measures:
        """The mean of each measure over the texts."""
        rows = [evaluation.values for evaluation in self.texts.values()]
        return Measures(**{measure: float(np.mean([row[measure] for row in rows])) for measure in rows[0]})

    @property
    def intervals(self) -> Intervals:
        """95% intervals of `mean` (see `confidence`)."""
        return Intervals.of([evaluation.by_sequence for evaluation in self.texts.values()])

    def make_rows(self) -> dict[str, Row]:
        """Values and 95% intervals of each text, in the order of `texts`."""
        return {
            name: (evaluation.values, vars(evaluation.intervals)) for name, evaluation in self.texts.items()
        }

    @property
    def mean_name(self) -> str:
        """How a table calls the mean, such as "mean of 8"; where there is one text, its own name."""
        if len(self.texts) > 1:
            return f"mean of {len(self.texts)}"
        (name,) = self.texts
        return name

    def make_mean_row(self) -> tuple[str, Row] | None:
        """The name of the mean, with its values and 95% intervals.

        It is None where there is one text, which is its own mean.
        """
        if len(self.texts) == 1:
            return None
        return self.mean_name, (self.mean.values, vars(self.intervals))

    def make_rows_and_mean(self) -> dict[str, Row]:
        """The rows of a table: `make_rows`, and the row of the mean below them where there is one."""
        rows = self.make_rows()
        mean_row = self.make_mean_row()
        if mean_row is not None:
            name, row_of_mean = mean_row
            rows[name] = row_of_mean
        return rows

    def __str__(self) -> str:
        """A line for each text, and one for their mean where there are several.

        A line has the increase of the loss over a parent, or the loss, in nats per token, with its interval.
        """
        rows = self.make_rows_and_mean()
        width = max(map(len, rows))
        lines = []
        for text, (measures, bounds) in rows.items():
            measure = "increase" if "increase" in measures else "loss"
            lines.append(f"{text:{width}}  {measure} {with_interval(measures[measure], bounds[measure])}")
        return "\n".join(lines)

    __repr__ = __str__  # what a notebook shows


@dataclass(frozen=True, repr=False)
class ComparisonByText(EvaluationByText):
    """Quality of a model on several texts beside that of its parent, and on their mean."""

    texts: Mapping[str, ComparedEvaluation]
    """Name of a text -> the quality on it."""

    @property
    def mean(self) -> Comparison:
        """The mean of each measure over the texts."""
        return Comparison(**super().mean.values)


@overload
def evaluate(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    judged_on: Source = EVERY_KIND,
    *,
    parent: Model,
    window_length: int | None = None,
    window_count: int | None = None,
    progress: Progress = no_progress,
) -> ComparisonByText: ...


@overload
def evaluate(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    judged_on: Source = EVERY_KIND,
    *,
    parent: Model | None = None,
    window_length: int | None = None,
    window_count: int | None = None,
    progress: Progress = no_progress,
) -> EvaluationByText: ...


def evaluate(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    judged_on: Source = EVERY_KIND,
    *,
    parent: Model | None = None,
    window_length: int | None = None,
    window_count: int | None = None,
    progress: Progress = no_progress,
) -> EvaluationByText:
    """Measure `model` on a text, beside its `parent` where it is given.

    Args:
        judged_on: text that judges, as for `load_text`, or a list of texts in memory, which count as one. The
            default is a text of each kind that ships.
        parent: the model that was pruned, for what was lost; None: `model` is measured alone. With a parent a
            `ComparisonByText` comes back, whose mean and texts have both losses and their difference.
        window_length: tokens of each window; None: USUAL_WINDOW, or as many as both models read.
        window_count: how many windows of each text; None: see `windows_of`.
        progress: called after each batch of windows.

    Raises InputError for arguments of the wrong type, for a text that cannot be read or is too short, and as
    `loss.compare_losses` does.

        from comp_lib import evaluate, load_model

        small, tokenizer = load_model("build/small")
        parent, _ = load_model("smollm2-135m")
        quality = evaluate(small, tokenizer, "evaluation:code", parent=parent)
        print(quality.mean.increase)  # nats per token
        print(quality.intervals.increase)  # its 95% interval
    """
    check_model(model)
    if parent is not None:
        check_model(parent)
    check_tokenizer(tokenizer)
    if window_length is None:
        window_length = usual_window_length(model, parent)
    windows_by_text = windows_of(judged_on, tokenizer, window_length, window_count)
    return judge(model, windows_by_text, parent, progress=progress)


def usual_window_length(model: Model, parent: Model | None = None) -> int:
    """USUAL_WINDOW, or as many tokens as `model` and its `parent`, where it is given, can read."""
    length = USUAL_WINDOW
    for reader in (model, parent):
        if reader is not None:
            length = min(length, reader.config.max_position_embeddings)
    return length


def judge(
    model: Model,
    windows_by_text: Mapping[str, Tensor],
    parent: Model | None = None,
    *,
    progress: Progress = no_progress,
) -> EvaluationByText:
    """Measure `model`, beside its `parent` if it is given, on the windows (S, L) that `windows_of` gives.

    `progress` is called with the name of the text and with its sequences.

    Raises InputError for anything but such windows, and as `loss.compare_losses` does.
    """
    check_progress(progress)
    if not isinstance(windows_by_text, Mapping) or not windows_by_text:
        raise InputError(
            expected="the windows of each text, as windows_of gives them",
            got=repr(windows_by_text)[:40],
            hint="evaluate takes the name of a text",
        )
    if parent is None:
        return EvaluationByText(
            {name: measure_loss(model, ids, progress, name) for name, ids in windows_by_text.items()}
        )
    return ComparisonByText(
        {name: compare_losses(model, parent, ids, progress, name) for name, ids in windows_by_text.items()}
    )
