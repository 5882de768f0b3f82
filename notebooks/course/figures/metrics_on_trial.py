"""Pictures of metrics on trial (lesson 02b): how well each predicts, what it costs, what the ridge does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from comp_lib.plots.base import (
    BLUE,
    DASHED_LINE,
    GREEN,
    RED,
    Numbers,
    Picture,
    note,
    panels,
    plain_ticks,
    style,
)

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
    size = (4.3 * len(intervals) + 2.6, 0.42 * len(names) + 1.5)
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
            axis.errorbar(means, heights, xerr=whiskers, capsize=2, **looks)
            if axis is axes[0] and len(series) > 1:
                # the name of the series stands beside its dot in the top row
                dot_end = (rows[names[0]][2], len(names) - 1 + shift)
                offset = (5, 3 * steps_from_middle)
                note(axis, label, dot_end, offset, va="center", color=looks["color"], fontsize=7)
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
    opening = f"Dots with 95% intervals for {len(names)} metrics, {xlabel}. ".replace("\n", " ")
    return figure.with_alt_text(opening, phrases)


def plot_ridges(
    ridges: Numbers,
    errors: Mapping[str, tuple[Numbers, Sequence[Interval]]],
    condition: Numbers,
    removed: float,
) -> Picture:
    """What the ridge does: errors[calibration] = (on its text, on unseen text), and the median condition."""
    titles = [f"{removed:.0%} of the neurons removed, refitted (95%)", "Median condition, the larger text"]
    ylabels = ["error left (% of ‖Y‖²)", "median condition κ"]
    xlabel = "ridge λ (of each input's own energy)"
    size = (10.0, 4.0)
    figure, (left, right) = panels(1, 2, size, title=titles, xlabel=xlabel, ylabel=ylabels, xscale="log")
    phrases = [f"Two line charts over ridges from {ridges[0]:g} to {ridges[-1]:g}"]
    for (label, (calibrated, unseen)), colour in zip(errors.items(), (RED, BLUE, GREEN), strict=False):
        means, whiskers = (100 * values for values in spans(unseen))
        left.plot(ridges, [100 * error for error in calibrated], "o--", color=colour)
        left.errorbar(ridges, means, whiskers, fmt="X-", capsize=3, color=colour)
        note(left, f"{label}, calibration", (ridges[0], 100 * calibrated[0]), (7, -12), color=colour)
        note(left, f"{label}, unseen", (ridges[0], means[0]), (7, 7), color=colour)
        best = int(np.argmin(means))
        phrases.append(
            f"with {label} the error goes from {calibrated[0]:.1%} to {calibrated[-1]:.1%} on the "
            f"calibration text, on unseen text it starts at {means[0]:.1f}%, is lowest at {means[best]:.1f}% "
            f"with a ridge of {ridges[best]:g}, and ends at {means[-1]:.1f}%"
        )
    left.set_ylim(bottom=0)
    right.plot(ridges, condition, "o-", color=GREEN)
    right.set_ylim(bottom=1.0)
    for axis in (left, right):
        plain_ticks(axis.xaxis, axis.get_xlim())
    phrases.append(f"the median condition falls from {condition[0]:.2f} to {condition[-1]:.2f}")
    return figure.with_alt_text("", phrases)
