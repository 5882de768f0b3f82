"""Pictures of metrics on trial (lesson 02b): how well each predicts, what it costs, what the ridge does."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from comp_lib.reports.plots.base import DASHED_LINE, Picture, panels, plain_ticks, style

from . import Interval, spans

Rows = Mapping[str, Interval]


def plot_spreads(
    intervals: Mapping[str, Mapping[str, Rows]],
    xlabel: str,
    percent: bool = False,
    log: bool = False,
    reference: float | None = None,
) -> Picture:
    """intervals[panel][series][row] as dots with their intervals; the row that comes first stands on top."""
    names: list[str] = []  # of the rows, from the top
    for series in intervals.values():
        for rows in series.values():
            names += [name for name in rows if name not in names]
    height_of_row = {name: height for height, name in enumerate(reversed(names))}
    number_format = ".1%" if percent else ".3f"
    size = (4.3 * len(intervals) + 2.6, 0.42 * len(names) + 1.8)
    titles = list(intervals) if len(intervals) > 1 else ""
    figure, axes = panels(1, len(intervals), size, "xy", title=titles, xlabel=xlabel)
    phrases = []
    for axis, (panel, series) in zip(axes, intervals.items(), strict=True):
        for number, (label, rows) in enumerate(series.items()):
            steps_from_middle = number - (len(series) - 1) / 2
            shift = 0.22 * steps_from_middle  # the series of a row lie above each other
            heights = np.array([height_of_row[name] for name in rows]) + shift
            means, whiskers = spans(list(rows.values()))
            looks = style(number) | {"markersize": 5, "linestyle": "none"}
            axis.errorbar(means, heights, xerr=whiskers, capsize=2, label=label, **looks)
            numbers = [f"{name} {rows[name][0]:{number_format}}" for name in names if name in rows]
            full_label = f"{panel}, {label}" if panel else label
            phrases.append(f"{full_label}: {', '.join(numbers)}")
        if log:
            axis.set_xscale("log")
            plain_ticks(axis.xaxis, axis.get_xlim(), percent, max_ticks=7)
        if reference is not None:
            axis.axvline(reference, **DASHED_LINE)
    axes[0].set_yticks(list(height_of_row.values()), list(height_of_row))
    axes[0].set_ylim(-0.6, len(names) - 0.4)
    handles, labels = axes[0].get_legend_handles_labels()
    if len(labels) > 1:  # one legend for all panels, with the series in the order from the top
        figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=len(labels), fontsize=8)
    opening = f"Dots with 95% intervals for {len(names)} metrics, {xlabel}. ".replace("\n", " ")
    return figure.with_alt_text(opening, phrases)
