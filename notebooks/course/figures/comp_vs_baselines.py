"""Figures of lesson 07: two models window by window, and values with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from comp_lib.reports.plots.base import BLUE, DASHED_LINE, GREEN, GREY, ORANGE, Picture, figure_with_axes

from . import Interval, spans

METHODS = ["COMP", "FLAP", "Wanda-sp", "LLM-Pruner"]  # the position of a method gives its colour and marker


def plot_windows(losses: Mapping[str, Sequence[float]]) -> Picture:
    """Losses (windows,) of two models, name -> nats per token: a row for each window, the hardest on top."""
    first, second = losses  # names
    blue = np.asarray(losses[first])
    orange = np.asarray(losses[second])
    order = np.argsort(blue)
    rows = range(len(blue))
    size = (7.5, 0.2 * len(blue) + 1.4)
    labels = {"xlabel": "loss of the window (nats per token)", "ylabel": "one row: one window"}
    figure, axes = figure_with_axes(size, **labels)
    axes.hlines(rows, blue[order], orange[order], color=GREY, linewidth=1)
    axes.plot(blue[order], rows, "o", color=BLUE, label=first)
    axes.plot(orange[order], rows, "s", color=ORANGE, label=second)
    axes.set_yticks([])
    axes.legend(loc="lower right")
    gap = np.abs(blue - orange).mean()
    return figure.with_alt_text(
        f"Rows of two marks, the loss of a window in {first} and in {second}. {first}'s go from "
        f"{blue.min():.2f} to {blue.max():.2f} nats; the models differ by {gap:.2f} in a window."
    )


def plot_intervals(
    rows: Mapping[str, Interval], xlabel: str, title: str, first: str | None = None, limit: float = 0.0
) -> Picture:
    """Values with their 95% intervals, a row for each, from the top; dashed lines stand at 0 and the limit.

    A row whose name ends with `first` is green and begins a group. Its name is "GROUP: ROW"; the rows that
    follow are labelled with the part after the colon alone.
    """
    figure, axes = figure_with_axes((8.0, 0.38 * len(rows) + 1.2), xlabel=xlabel)
    middles, whiskers = spans(list(rows.values()))
    axes.errorbar(middles, range(len(rows)), xerr=whiskers, fmt="o", color=BLUE, capsize=3)
    row_labels = []
    for row, name in enumerate(rows):
        if first is None:
            row_labels.append(name)
        elif name.endswith(first):
            row_labels.append(name)
            axes.axhline(row - 0.5, color=GREY, linewidth=0.8)
            axes.plot(middles[row], row, "o", color=GREEN, markersize=8, zorder=3)
        else:
            row_labels.append(name.split(": ", 1)[-1])
    for value in {0.0, limit}:
        axes.axvline(value, **DASHED_LINE)
    axes.set_yticks(range(len(rows)), row_labels)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_title(title)
    phrases = [
        f"{name} {middle:+.2f} ({low:+.2f} to {high:+.2f})" for name, (middle, low, high) in rows.items()
    ]
    return figure.with_alt_text(f"Marks with 95% intervals, {xlabel}: ", phrases)
