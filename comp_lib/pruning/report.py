"""The report of a run: what happened to each layer, and the plan as it was carried out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..decoder.shape import Shape
from ..hybrid_granularity.plan import Plan
from .settings import CompleteSettings


@dataclass(frozen=True)
class LayerReport:
    """The outcome of pruning one decoder layer that stays."""

    layer: int
    """Its index in the parent."""
    mlp_error: float
    """||X W - X V||^2 / ||X W||^2 of down_proj after the recovery, over the calibration text.

    The tokens are weighted as the settings say.
    """
    attention_error: float
    """The same for o_proj."""
    mlp_ridge: float | None
    """The lambda with which the recovery of down_proj was solved; None: it solves nothing."""
    seconds: float
    """The time that the layer took."""
    kept_neurons: Sequence[int]
    """Indices of the neurons that stay, ascending."""
    kept_groups: Sequence[int]
    """Indices of the KV groups that stay, ascending."""


@dataclass(frozen=True)
class Report:
    """The outcome of `prune`, layer by layer, and the time it took."""

    settings: CompleteSettings
    """The settings of the run."""
    token_count: int
    """How many tokens of text calibrated."""
    layers: tuple[LayerReport, ...]
    """The reports of the layers that stay."""
    seconds: float
    """The time of the run; of its last attempt, where an earlier one was cut off."""
    plan_given: bool = False
    """Whether a plan was given, so that of `settings` those in `settings.DECIDED_BY_PLAN` did not count."""

    def __str__(self) -> str:
        """A line about the run, and a table with a row for each layer that stays."""
        lines = [
            f"{self.settings.method} on {self.token_count:,} tokens, {self.seconds:.0f} s; errors: "
            "lost shares of the energy of an output",
            f"{'layer':>5}  {'neurons':>7}  {'KV groups':>9}  {'MLP error':>9}  {'attention error':>15}",
        ]
        for layer in self.layers:
            lines.append(
                f"{layer.layer:>5}  {len(layer.kept_neurons):>7,}  {len(layer.kept_groups):>9}  "
                f"{layer.mlp_error:>9.4f}  {layer.attention_error:>15.4f}"
            )
        return "\n".join(lines)

    __repr__ = __str__  # what a notebook shows


def finished_plan(plan: Plan, reports: Sequence[LayerReport], before: Shape, after: Shape) -> Plan:
    """The plan as it was carried out.

    before: the shape of the parent.
    after: the shape of the pruned model.
    """
    return replace(
        plan,
        kept_neurons=tuple(tuple(layer.kept_neurons) for layer in reports),
        kept_groups=tuple(tuple(layer.kept_groups) for layer in reports),
        removed=before.removed_share(after),
    )
