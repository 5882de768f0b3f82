"""`Pruned`: what `comp.prune` returns. It prints as a table; `save_model` writes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..decoder.shape import Shape
from ..decoder.types import CausalLM
from ..hybrid_granularity.plan import Plan
from .report import Report

if TYPE_CHECKING:  # transformers is slow to import
    pass


@dataclass(frozen=True)
class Pruned:
    """A pruned model, with its plan and report: what `prune` returns."""

    model: CausalLM
    """The smaller model."""
    plan: Plan
    """Names the neurons and KV groups that stay."""
    report: Report
    """Says what happened to each layer."""
    parent_shape: Shape
    """The shape of the parent."""
    shape: Shape
    """The shape of `model`, as pruning left it."""

    def __str__(self) -> str:
        """A line about what was removed, and the report as a table."""
        before = self.parent_shape
        after = self.shape
        line = (
            f"{self.plan.removed:.1%} of the decoder removed: {after.total_parameters:,} parameters of "
            f"{before.total_parameters:,}, {after.layer_count} layers of {before.layer_count}"
        )
        return f"{line}\n{self.report}"

    __repr__ = __str__  # what a notebook shows
