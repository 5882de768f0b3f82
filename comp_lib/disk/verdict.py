"""The verdict that `prune_model` returns: how much smaller a model has become, and at what price."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

import torch
from torch import Tensor

from ..evaluation.by_kind import EvaluationByText
from ..evaluation.loss import Evaluation
from ..hybrid_granularity.uniform import RATIO_TOLERANCE
from ..planning import why_more_was_removed
from ..shape import span
from ..system.tensors import STORED_TYPES
from .from_disk import SavedModel
from .gguf_file import is_gguf_name

COLUMNS = 80  # columns of a terminal


@dataclass(frozen=True, kw_only=True)
class Verdict(SavedModel):
    """A pruned model on disk: how much smaller it is than its parent, and at what price."""

    parent: str
    """Name of the parent, as the user knows it."""
    megabytes: tuple[float, float]
    """Size of the files of weights, of the parent and of the model."""
    stored: tuple[str, str]
    """Type of most numbers in these files, such as "BF16" or "Q8_0", of the parent and of the model.

    For a GGUF file those of the matrices of the layers.
    """
    quality: EvaluationByText | None
    """`loss`, `dense_loss` and `increase` on each text, nats per token; None where nothing was measured."""
    seconds: float
    """Time that the call took; an earlier call that was stopped is not counted."""
    next_command: str
    """The command that looks closer."""

    def as_dict(self) -> dict[str, Any]:
        """The numbers that `comp-lib prune --json` writes."""
        return {
            "saved": str(self.path),
            "parent": self.parent,
            "removed": self.plan.removed,
            "parameters": {
                "before": self.parent_shape.total_parameters,
                "after": self.shape.total_parameters,
            },
            "megabytes": {"before": self.megabytes[0], "after": self.megabytes[1]},
            "decoder_parameters": {
                "before": self.parent_shape.decoder_parameters,
                "after": self.shape.decoder_parameters,
            },
            "stored": {"before": self.stored[0], "after": self.stored[1]},
            "loss": self._losses(),
            "seconds": self.seconds,
            "calibration_tokens": self.report.token_count,
            "next": self.next_command,
        }

    def _losses(self) -> dict[str, dict[str, float]]:
        """Text -> its losses, and for several texts those of their mean, by its name."""
        if self.quality is None:
            return {}
        losses = {name: evaluation.values for name, evaluation in self.quality.texts.items()}
        return losses | {self.quality.mean_name: self.quality.mean}

    def __str__(self) -> str:
        """At most 12 lines, and one more if clearly more went than was asked for."""
        settings = self.report.settings
        removal = f"{self.plan.removed:.1%} of the decoder removed by {settings.method}"
        lines = [f"{removal}, in {self.seconds:.0f} s on {self.report.token_count:,} tokens"]
        if self.plan.removed > self.plan.ratio + RATIO_TOLERANCE:
            lines.append(why_more_was_removed(self.plan, settings))
        lines += self._table()
        if self.quality is not None and len(self.quality.texts) > 1:
            increases = ", ".join(
                f"{kind} {evaluation.increase:+.3f}" for kind, evaluation in self.quality.texts.items()
            )
            lines += wrap(f"by kind: {increases}", COLUMNS, subsequent_indent="  ")
        return "\n".join([*lines, f"saved: {self.path}", f"next: {self.next_command}"])

    def _table(self) -> list[str]:
        """The lines of a table: one for each thing that is counted, before and after."""
        before = self.parent_shape
        after = self.shape
        old_type, new_type = self.stored
        note = new_type
        if is_gguf_name(self.path):
            note = new_type if old_type == new_type else f"{old_type}, {new_type}"
        elif old_type not in STORED_TYPES:  # the parent is quantised
            megabytes = before.total_parameters * 2 / 1e6
            note = f"{old_type}, {new_type}; the parent as {new_type}: {megabytes:.1f} MB"
        rows = [
            ("", "before", "after", ""),
            ("parameters", f"{before.total_parameters:,}", f"{after.total_parameters:,}", ""),
            ("weights", f"{self.megabytes[0]:.1f} MB", f"{self.megabytes[1]:.1f} MB", note),
            ("layers", str(before.layers), str(after.layers), ""),
            ("neurons a layer", span(before.neurons), span(after.neurons), ""),
            ("KV groups a layer", span(before.kv_groups), span(after.kv_groups), ""),
        ]
        if self.quality is not None:
            losses = self.quality.mean
            change = f"{losses['increase']:+.3f}, {self.quality.mean_name}"
            rows.append(("loss, nats/token", f"{losses['dense_loss']:.3f}", f"{losses['loss']:.3f}", change))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return [
            f"{label:{widths[0]}} {old:>{widths[1]}}  {new:>{widths[2]}}  {remark}".rstrip()
            for label, old, new, remark in rows
        ]


def quality_of(saved: SavedModel, windows_by_text: Mapping[str, Tensor]) -> EvaluationByText | None:
    """The quality of a model on each text, from the losses in its windows; None if none was measured."""
    if not windows_by_text:
        return None
    texts = {}
    start = 0
    for name, ids in windows_by_text.items():
        losses = torch.tensor(saved.losses[start : start + len(ids)], dtype=torch.float64)  # (windows, 2)
        start += len(ids)
        dense, small = losses.T
        texts[name] = Evaluation.of({"dense_loss": dense, "loss": small, "increase": small - dense}, ids)
    return EvaluationByText(texts)
