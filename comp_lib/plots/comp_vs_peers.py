"""Figures of a comparison (lesson 07): loss against ratio, time, memory, and the amount of calibration text.

All take the finished rows of `compare.run` with their `label` (see `summary.finished`); points are means over seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from .base import BESIDE, COLOURS, LOSS, MARKERS, REMOVED, Picture, figure_with_axes, logarithmic_y, note

LEAST_SPAN = 2.0  # percentage points on an axis of removed parameters: a smaller one would magnify rounding


def label(method: str, recovery: str) -> str:
    """What a method is called in tables and figures."""
    return method if recovery == "none" else f"{method} + {recovery}"


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, loss) that no other point beats: none is as good in both and better in one.

    In the order of rising cost.
    """
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: points[i]):
        if not front or points[index][1] < points[front[-1]][1] or points[index] == points[front[-1]]:
            front.append(index)
    return front


def draw_front(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    """A dashed line through the points of a Pareto front."""
    axes.plot(*zip(*points, strict=True), "k--", linewidth=1, zorder=2, label="Pareto front")


def plot_increase(rows: pd.DataFrame) -> Picture:
    """Loss increase against the part really removed; the band spans the seeds."""
    figure, axes = figure_with_axes(1, 1, (8.0, 4.4))
    words = []
    for name, style, own in _methods(rows, rows):
        groups = own.groupby("ratio")
        x = 100 * groups.removed.mean()
        y = _line_with_band(axes, x, groups.increase, name, style)
        words.append(f"{name} from {y.iloc[0]:.2f} nats at {x.iloc[0]:.0f}% to {y.iloc[-1]:.2f} at {x.iloc[-1]:.0f}%")
    low, high = axes.get_xlim()
    if high - low < LEAST_SPAN:
        axes.set_xlim((low + high - LEAST_SPAN) / 2, (low + high + LEAST_SPAN) / 2)
    _finish([axes], rows)
    axes.set_xlabel(REMOVED)
    return figure.described(f"Lines of the loss increase against the part removed{_seeds(rows)}: {'; '.join(words)}.")


def plot_latency(rows: pd.DataFrame) -> Picture:
    """Loss increase against the time to decode one token, all ratios in one panel, with the Pareto front."""
    figure, axes = figure_with_axes(1, 1, (8.0, 4.4))
    front = _cloud(axes, rows, rows, "decode_ratio")
    _finish([axes], rows)
    axes.set_xlabel("time to decode one token (dense model = 1)")
    return figure.described(
        f"Dots of the loss increase against decoding time{_seeds(rows)}, one for each method and ratio. On the Pareto "
        f"front, fastest first: {front}."
    )


def plot_memory(rows: pd.DataFrame) -> Picture:
    """Loss increase against the peak memory of pruning, a panel for each ratio, each with its Pareto front."""
    figure, panels = _panels(rows)
    fronts = []
    for ratio, axes in panels.items():
        fronts.append(f"at {ratio:.0%}, {_cloud(axes, rows[rows.ratio == ratio], rows, 'peak_megabytes')}")
        axes.set_xlabel("peak memory above\nimports (MB)")
        axes.xaxis.set_major_locator(MaxNLocator(3))
    _finish(list(panels.values()), rows)
    return figure.described(
        f"Dots of the loss increase against peak memory of pruning{_seeds(rows)}, a panel for each ratio. On the "
        f"Pareto front, least memory first: {'; '.join(fronts)}."
    )


def plot_sequences(rows: pd.DataFrame) -> Picture:
    """Loss increase against the number of calibration sequences, a panel for each ratio; the band spans the seeds.

    A ratio that was tried with one number only is left out, unless all were.
    """
    several = rows.groupby("ratio").filter(lambda own: own.sequences.nunique() > 1)
    rows = several if len(several) else rows
    sizes = sorted(rows.sequences.unique())
    figure, panels = _panels(rows)
    words = []
    for ratio, axes in panels.items():
        for name, style, own in _methods(rows[rows.ratio == ratio], rows):
            groups = own.groupby("sequences").increase
            y = _line_with_band(axes, groups.mean().index, groups, name, style)
            words.append(f"{name} at {ratio:.0%} from {y.iloc[0]:.2f} to {y.iloc[-1]:.2f} nats")
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.set_xlabel("calibration sequences")
    _finish(list(panels.values()), rows)
    return figure.described(
        f"Lines of the loss increase against calibration sequences, {sizes[0]} to {sizes[-1]}{_seeds(rows)}: "
        f"{'; '.join(words)}."
    )


def _methods(rows: pd.DataFrame, everything: pd.DataFrame) -> Iterator[tuple[str, dict[str, Any], pd.DataFrame]]:
    """(label, colour and marker, its rows); a label has one colour and marker throughout `everything`."""
    for place, name in enumerate(everything.label.unique()):
        own = rows[rows.label == name]
        if len(own):
            yield name, {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}, own


def _line_with_band(axes: Axes, x: Any, groups: Any, name: str, style: dict[str, Any]) -> pd.Series:
    """The mean of each group against x, within a band from the smallest to the largest; returns the means."""
    means = groups.mean()
    axes.plot(x, means, label=name, **style)
    axes.fill_between(x, groups.min(), groups.max(), color=style["color"], alpha=0.2, linewidth=0)
    return means


def _cloud(axes: Axes, rows: pd.DataFrame, everything: pd.DataFrame, cost: str) -> str:
    """A dot for each method and ratio of `rows`, the Pareto front through them; returns the front in words."""
    points, names, several = [], [], rows.ratio.nunique() > 1
    for name, style, own in _methods(rows, everything):
        means = own.groupby("ratio")[[cost, "increase"]].mean()
        axes.scatter(means[cost], means.increase, label=name, zorder=3, **style)
        for ratio, x, y in means.itertuples():
            points.append((x, y))
            names.append(f"{name} at {ratio:.0%}" if several else name)
            if several:
                note(axes, f"{ratio:.0%}", (x, y), (6, -2), fontsize=7)
    front = pareto_front(points)
    draw_front(axes, [points[i] for i in front])
    return ", ".join(f"{names[i]} ({points[i][0]:.3g}, {points[i][1]:.2f} nats)" for i in front)


def _panels(rows: pd.DataFrame) -> tuple[Picture, dict[float, Axes]]:
    """A panel for each ratio, side by side."""
    ratios = sorted(rows.ratio.unique())
    size = max(4.0, 2.6 * len(ratios)) + 2.0, 4.0
    figure, (panels,) = figure_with_axes(1, len(ratios), size, sharey=True, squeeze=False)
    for axes, ratio in zip(panels, ratios, strict=True):
        axes.set_title(f"{ratio:.0%} to remove")
    return figure, dict(zip(ratios, panels, strict=True))


def _finish(panels: Sequence[Axes], rows: pd.DataFrame) -> None:
    """Name the y axis, make it logarithmic unless some value has no logarithm, and add the legend."""
    if rows.increase.min() > 0:
        for axes in panels:
            logarithmic_y(axes)
    panels[0].set_ylabel(LOSS)
    panels[-1].legend(**BESIDE)


def _seeds(rows: pd.DataFrame) -> str:
    count = rows.seed.nunique()
    return f" (means over {count} seeds)" if count > 1 else ""
