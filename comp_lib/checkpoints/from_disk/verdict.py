"""The verdict that `prune_model` returns: how much smaller a model has become, and at what price."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

import torch
from torch import Tensor

from ...decoder.shape import widths_in_words
from ...evaluation.by_kind import ComparisonByText
from ...evaluation.format import number_format, perplexity_factor, with_interval
from ...evaluation.loss import ComparedEvaluation, perplexity_of
from ...hybrid_granularity.uniform import RATIO_TOLERANCE
from ...pruning.planning import why_more_was_removed
from .from_disk import SavedModel

COLUMNS = 80  # columns of a terminal


@dataclass(frozen=True, kw_only=True)
class Verdict(SavedModel):
    """A pruned model on disk: how much smaller it is than its parent, and at what price."""

    parent_name: str
    """Name of the parent, as the user knows it."""
    parent_megabytes: float
    """Size of the parent's files of weights."""
    parent_megabytes_in_new_type: float
    """Size that they would have in the type of the model's: compare this with `megabytes`."""
    megabytes: float
    """Size of the model's files of weights."""
    parent_stored_type: str
    """Type of most numbers in the parent's files, such as "BF16"; of a GGUF file, of the layers' matrices."""
    stored_type: str
    """The same of the model's files."""
    quality: ComparisonByText | None
    """`loss`, `dense_loss` and `increase` on each text, nats per token; None where nothing was measured."""
    warnings: tuple[str, ...]
    """Sentences on what makes the result worthless: a parent that reads by chance. Mostly none."""
    seconds: float
    """Time that the call took; an earlier call that was stopped is not counted."""
    next_command: str
    """The command that looks closer."""

    def as_dict(self) -> dict[str, Any]:
        """The numbers that `comp-lib prune --json` writes."""
        return {
            "saved": str(self.path),
            "parent": self.parent_name,
            "removed": self.plan.removed,
            "parameters": {
                "before": self.parent_shape.total_parameters,
                "after": self.shape.total_parameters,
            },
            "megabytes": {
                "before": self.parent_megabytes,
                "before_in_the_new_type": self.parent_megabytes_in_new_type,
                "after": self.megabytes,
            },
            "decoder_parameters": {
                "before": self.parent_shape.decoder_parameters,
                "after": self.shape.decoder_parameters,
            },
            "stored": {"before": self.parent_stored_type, "after": self.stored_type},
            "loss": self._losses(),
            "increase_interval": self._interval(),
            "warnings": list(self.warnings),
            "seconds": self.seconds,
            "calibration_tokens": self.report.token_count,
            "next": self.next_command,
        }

    def _losses(self) -> dict[str, dict[str, float]]:
        """Text -> its losses, and for several texts "mean" -> those of their mean."""
        if self.quality is None:
            return {}
        losses = {name: evaluation.values for name, evaluation in self.quality.texts.items()}
        if len(losses) > 1:
            losses["mean"] = self.quality.mean.values
        return losses

    def _interval(self) -> list[float] | None:
        """The 95% interval of the mean increase of the loss; None where there is none."""
        if self.quality is None or self.quality.intervals.increase is None:
            return None
        return list(self.quality.intervals.increase)

    def __str__(self) -> str:
        """What was removed, a table of sizes, what was lost, the warnings, and the next command."""
        return "\n".join([*self.describe(), f"next: {self.next_command}"])

    __repr__ = __str__  # what a notebook shows

    def describe(self) -> list[str]:
        """The lines of the verdict without its last, the next command."""
        settings = self.report.settings
        removal = f"{self.plan.removed:.1%} of the decoder removed by {settings.method}"
        lines = [f"{removal}, in {self.seconds:.0f} s on {self.report.token_count:,} tokens"]
        if self.plan.removed > self.plan.ratio + RATIO_TOLERANCE:
            lines.append(why_more_was_removed(self.plan, settings, self.parent_shape))
        lines += self._table()
        if self.quality is not None:
            lines += _quality_lines(self.quality)
        return [*lines, *self.warnings, f"saved: {self.path}"]

    def _table(self) -> list[str]:
        """The lines of a table: sizes, and each number of the shape that has changed, before and after."""
        before = self.parent_shape
        after = self.shape
        remark = ""
        if self.parent_stored_type != self.stored_type:
            file_name = Path(self.parent_name).name
            remark = f"{file_name} itself: {self.parent_megabytes:.1f} MB, {self.parent_stored_type}"
        old_size = f"{self.parent_megabytes_in_new_type:.1f} MB"
        new_size = f"{self.megabytes:.1f} MB"
        shapes = [
            ("layers", str(before.layer_count), str(after.layer_count), ""),
            ("neurons a layer", widths_in_words(before.neurons), widths_in_words(after.neurons), ""),
            ("KV groups a layer", widths_in_words(before.kv_groups), widths_in_words(after.kv_groups), ""),
        ]
        rows = [
            ("", "before", "after", ""),
            ("parameters", f"{before.total_parameters:,}", f"{after.total_parameters:,}", ""),
            (f"weights, {self.stored_type}", old_size, new_size, remark),
            *(row for row in shapes if row[1] != row[2]),
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return [
            f"{label:{widths[0]}} {old:>{widths[1]}}  {new:>{widths[2]}}  {remark}".rstrip()
            for label, old, new, remark in rows
        ]


def _quality_lines(quality: ComparisonByText) -> list[str]:
    """What the model lost: on the mean of the texts with its interval, and by kind of text."""
    losses = quality.mean.values
    interval = quality.intervals.increase
    increase = with_interval(losses["increase"], interval, "+")
    factor = perplexity_factor(losses["increase"], interval)
    before, after = (perplexity_of(losses[name]) for name in ("dense_loss", "loss"))
    lines = [
        f"perplexity, {quality.mean_name}: {before:.1f} to {after:.1f}, times {factor}",
        f"loss, nats/token: {losses['dense_loss']:.3f} to {losses['loss']:.3f}, {increase}",
    ]
    if len(quality.texts) > 1:
        rows = quality.make_rows()
        window_counts = [len(evaluation.losses) for evaluation in quality.texts.values()]
        label = "by kind"
        if any(intervals["increase"] is None for _, intervals in rows.values()):
            label = f"by kind, rough ({min(window_counts)} windows each)"
        increases = ", ".join(
            f"{kind} {values['increase']:+{number_format(intervals['increase'])}}"
            for kind, (values, intervals) in rows.items()
        )
        lines += wrap(f"{label}: {increases}", COLUMNS, subsequent_indent="  ")
    return lines


def quality_of(saved: SavedModel, windows_by_text: Mapping[str, Tensor]) -> ComparisonByText | None:
    """The quality of a model on each text, from the losses in its windows; None if none was measured."""
    if not windows_by_text:
        return None
    texts = {}
    start = 0
    for name, ids in windows_by_text.items():
        losses = torch.tensor(saved.losses[start : start + len(ids)], dtype=torch.float64)  # (windows, 2)
        start += len(ids)
        dense_losses, small_losses = losses.T
        texts[name] = ComparedEvaluation.of_losses(dense_losses, small_losses, ids)
    return ComparisonByText(texts)
