"""Pictures of recovery (lesson 04): the variance of masks, their cost, and how a fit does on other tokens."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from comp_lib.reports.plots.base import (
    COLOURS,
    DASHED_LINE,
    LEGEND_BESIDE,
    MARKERS,
    Picture,
    figure_with_axes,
    layer_axis,
    note,
)

from . import TITLE, Interval, spans

Arrays = Mapping[str, ArrayLike]
SMALLEST_VARIANCE = 1e-6  # where a variance of zero stands on a logarithmic axis


def plot_variances(variances: Arrays, bound: float, title: str) -> Picture:
    """Variance of the mask in each layer, label -> (layers,), and the guard's bound."""
    figure, axis = figure_with_axes((8.5, 3.6), title=title, ylabel="variance of the mask", yscale="log")
    phrases = []
    for (label, values), colour, marker in zip(variances.items(), COLOURS, MARKERS, strict=False):
        heights = np.maximum(np.asarray(values, dtype=float), SMALLEST_VARIANCE)
        axis.plot(heights, marker=marker, ls="", color=colour, alpha=0.8, label=label)
        above = f"{(heights > bound).sum()} of {len(heights)} layers above the bound"
        phrases.append(f"{label}: highest {heights.max():.3g} in layer {heights.argmax()}, {above}")
    axis.axhline(bound, label=f"the guard's bound, {bound:g}", **DASHED_LINE)
    layer_axis(axis)
    axis.legend(fontsize=8, **LEGEND_BESIDE)
    return figure.with_alt_text(f"{title}. Variance of the mask by layer, logarithmic. ", phrases)


def plot_losses(
    outcomes: Mapping[str, Mapping[str, Interval]], marks: Mapping[str, float], title: str
) -> Picture:
    """Losses as dots with their 95% intervals: outcomes[case][way] = (mean, low, high).

    Each way of each case has a row. The `marks` are losses to compare with: dashed lines that bear their
    names.
    """
    rows: list[str] = []
    for case, losses in outcomes.items():
        rows += [way if len(outcomes) == 1 else f"{case}, {way}" for way in losses]
    figure, axis = figure_with_axes((8.5, 0.35 * len(rows) + 1.5), ylim=(len(rows) - 0.4, -0.6))
    phrases = []
    top = 0  # row of the case's first way
    for (case, losses), colour, marker in zip(outcomes.items(), COLOURS, MARKERS, strict=False):
        means, whiskers = spans(list(losses.values()))
        looks = {"color": colour, "marker": marker, "ls": "", "capsize": 3, "ms": 6}
        axis.errorbar(means, range(top, top + len(losses)), xerr=whiskers, **looks)
        top += len(losses)
        numbers = [f"{way} {mean:.2f} ({low:.2f} to {high:.2f})" for way, (mean, low, high) in losses.items()]
        phrases.append(f"{case}: {', '.join(numbers)}")
    for (mark, value), line in zip(marks.items(), ("--", ":", "-."), strict=False):
        axis.axvline(value, color="black", ls=line, lw=1)
        note(axis, mark, (value, -0.6), (0, 3), ha="center", va="bottom", fontsize=8)
        phrases.append(f"{mark}: {value:.2f}")
    axis.set_title(title, pad=TITLE)
    axis.set_yticks(range(len(rows)), rows)
    axis.set_xlabel("loss (nats per token, lower is better); bars: 95% interval over windows")
    return figure.with_alt_text(f"{title}. Losses with 95% intervals. ", phrases)
