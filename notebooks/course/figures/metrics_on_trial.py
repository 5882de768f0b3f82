"""Pictures of metrics on trial (lesson 02b): what each foretells, what it costs, what the ridge does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from comp_lib.plots.base import BLUE, DASHED, GREEN, RED, Numbers, Picture, note, panels, plain_ticks, style

from . import Interval, spans

Spreads = Mapping[str, Interval]


def plot_spreads(
    found: Mapping[str, Mapping[str, Spreads]],
    xlabel: str,
    percent: bool = False,
    log: bool = False,
    reference: float | None = None,
) -> Picture:
    """found[panel][series][row] as dots with their intervals: the first row on top, in every figure of a lesson."""
    order = list(
        dict.fromkeys(name for series in found.values() for rows in series.values() for name in rows)
    )[::-1]
    size = (4.3 * len(found) + 2.6, 0.42 * len(order) + 1.5)
    figure, axes = panels(
        1, len(found), size, "xy", title=list(found) if len(found) > 1 else "", xlabel=xlabel
    )
    words = []
    for axis, (panel, series) in zip(axes, found.items(), strict=True):
        middle = (len(series) - 1) / 2
        for place, (label, rows) in enumerate(series.items()):
            heights = np.array([order.index(name) for name in rows]) + 0.22 * (place - middle)
            means, apart = spans(list(rows.values()))
            look = style(place) | {"markersize": 5, "linestyle": "none"}
            axis.errorbar(means, heights, xerr=apart, capsize=2, **look)
            if axis is axes[0] and middle:  # its name beside its dot in the top row
                spot = (rows[order[-1]][2], len(order) - 1 + 0.22 * (place - middle))
                note(
                    axis, label, spot, (5, 3 * (place - middle)), va="center", color=look["color"], fontsize=7
                )
            form = "{:.1%}" if percent else "{:.3f}"
            numbers = ", ".join(
                f"{name} {form.format(rows[name][0])}" for name in reversed(order) if name in rows
            )
            words.append(f"{f'{panel}, ' if panel else ''}{label}: {numbers}")
        if log:
            axis.set_xscale("log")
            plain_ticks(axis.xaxis, axis.get_xlim(), percent, most=7)
        if reference is not None:
            axis.axvline(reference, **DASHED)
    axes[0].set_yticks(range(len(order)), order)
    axes[0].set_ylim(-0.6, len(order) - 0.4)
    return figure.described(
        f"Dots with 95% intervals for {len(order)} metrics, {xlabel}. ".replace("\n", " "), words
    )


def plot_ridges(
    ridges: Numbers,
    errors: Mapping[str, tuple[Numbers, Sequence[Interval]]],
    condition: Numbers,
    removed: float,
) -> Picture:
    """What the ridge does: errors[calibration] = (on its text, on unseen text), and the median condition."""
    titles = [f"{removed:.0%} of the neurons removed, refitted (95%)", "Median condition, the larger text"]
    ylabels, xlabel = ["error left (% of ‖Y‖²)", "median condition κ"], "ridge λ (of each input's own energy)"
    figure, (left, right) = panels(
        1, 2, (10.0, 4.0), xscale="log", title=titles, xlabel=xlabel, ylabel=ylabels
    )
    words = [f"Two line charts over ridges from {ridges[0]:g} to {ridges[-1]:g}"]
    for (label, (seen, unseen)), colour in zip(errors.items(), (RED, BLUE, GREEN), strict=False):
        means, apart = (100 * part for part in spans(unseen))
        left.plot(ridges, [100 * e for e in seen], "o--", color=colour)
        left.errorbar(ridges, means, apart, fmt="X-", capsize=3, color=colour)
        for start, text, up in ((100 * seen[0], "calibration", -12), (means[0], "unseen", 7)):
            note(left, f"{label}, {text}", (ridges[0], start), (7, up), color=colour)
        best = int(np.argmin(means))
        ends = f"with {label} the error goes from {seen[0]:.1%} to {seen[-1]:.1%} on the calibration text"
        lowest = (
            f"is lowest at {means[best]:.1f}% with a ridge of {ridges[best]:g}, and ends at {means[-1]:.1f}%"
        )
        words.append(f"{ends}, on unseen text it starts at {means[0]:.1f}%, {lowest}")
    left.set_ylim(bottom=0)
    right.plot(ridges, condition, "o-", color=GREEN)
    right.set_ylim(bottom=1.0)
    for axis in (left, right):
        plain_ticks(axis.xaxis, axis.get_xlim())
    words.append(f"the median condition falls from {condition[0]:.2f} to {condition[-1]:.2f}")
    return figure.described("", words)
