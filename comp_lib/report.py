"""What a run of COMP did, and what it took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class LayerReport:
    """What happened to one decoder layer."""

    layer: int  # in the parent
    neurons: int
    kv_groups: int
    # ||X W - X V||^2 / ||X W||^2 of down_proj after recovery, over the calibration text, weighted as the settings say
    error: float
    attention_error: float  # the same for o_proj
    condition_median: float | None  # kappa of the neurons before anything went
    condition_max: float | None
    mask_mean: float | None
    mask_variance: float | None
    ridge: float | None  # lambda with which the recovery of down_proj was solved
    seconds: float
    peak_megabytes: float  # most resident memory that the process ever had, in MiB


@dataclass(frozen=True)
class Report:
    """What `prune` did, and what it took."""

    settings: dict[str, Any]
    tokens: int  # of calibration
    layers: tuple[LayerReport, ...]
    layer_importance: tuple[float, ...] | None  # by the layer metric, for every layer of the parent; None: not needed
    seconds: float  # of the last attempt, where an earlier one was cut off
    parameters_before: int
    parameters_after: int


class Progress(Protocol):
    """What long work calls as it goes on."""

    def __call__(self, what: str, done: int, total: int, report: LayerReport | None = None) -> None:
        """What is being done, steps done, steps in all; the report of a decoder layer that has just been finished."""


def no_progress(what: str, done: int, total: int, report: LayerReport | None = None) -> None:
    """The silent `Progress`."""
