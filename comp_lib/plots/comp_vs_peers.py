"""Figures of finished runs (lessons 05 and 07): what each part is worth; loss against ratio, time, memory and text.

Tables are the finished rows of `compare.run` with their `label` (see `summary.finished`); points are means over seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from .base import BESIDE, COLOURS, LOSS, Picture, figure_with_axes, labelled_bars, log_y, note, panels, style

REMOVED = "removed (% of the decoder's parameters)"
LEAST_SPAN = 2.0  # percentage points on an axis of removed parameters: a smaller one would magnify rounding
Points = Sequence[tuple[float, float]]


def label(method: str, recovery: str) -> str:
    """What a method is called in tables and figures."""
    return method if recovery == "none" else f"{method} + {recovery}"


def pareto_front(points: Points) -> list[int]:
    """Indices of the points (cost, loss) that no other point beats: none is as good in both and better in one.

    In the order of rising cost.
    """
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: points[i]):
        if not front or points[index][1] < points[front[-1]][1] or points[index] == points[front[-1]]:
            front.append(index)
    return front


def draw_front(axes: Axes, points: Points) -> None:
    """A dashed line through the points of a Pareto front."""
    axes.plot(*zip(*points, strict=True), "k--", linewidth=1, zorder=2, label="Pareto front")


def loss_lines(lines: Mapping[str, Points], xlabel: str) -> tuple[Picture, Axes]:
    """A figure of the loss increase against something else: for each name, points (x, nats per token) in order."""
    figure, axes = figure_with_axes((7.5, 4.4), xlabel=xlabel, ylabel=LOSS)
    for place, (name, points) in enumerate(lines.items()):
        axes.plot(*zip(*points, strict=True), label=name, **style(place))
    axes.legend()
    return figure, axes


def plot_ablation(increases: Mapping[str, float], reference: str) -> Picture:
    """Bars of the loss increase of each variant, best on top, `reference` marked."""
    names = sorted(increases, key=increases.__getitem__, reverse=True)
    figure, axes = figure_with_axes((8.5, 0.36 * len(names) + 1.2), xlabel=LOSS.replace("\n", " "))
    labelled_bars(axes, {name: increases[name] for name in names}, "{:.3f}", reference)
    axes.margins(x=0.1, y=0.02)
    best, worst = names[-1], names[0]
    return figure.described(
        f"Horizontal bars of the loss increase of {len(names)} variants. Best is {best} with {increases[best]:.2f} "
        f"nats, worst {worst} with {increases[worst]:.2f}; {reference} has {increases[reference]:.2f}."
    )


def plot_ratios(curves: Mapping[str, Points]) -> Picture:
    """Loss increase against the part removed: for each name, (removed, increase) pairs."""
    lines = {name: [(100 * x, increase) for x, increase in sorted(points)] for name, points in curves.items()}
    figure, axes = loss_lines(lines, REMOVED)
    log_y(axes)
    words = [f"{name} goes from {line[0][1]:.2f} to {line[-1][1]:.2f} nats" for name, line in lines.items()]
    return figure.described("Lines of the loss increase against the part removed, logarithmic: ", words)


def plot_spread(groups: Mapping[str, Sequence[float]]) -> Picture:
    """The loss increase of each run, a dot for each calibration seed, and their mean as a bar."""
    figure, axes = figure_with_axes((6.5, 3.6), ylabel=LOSS, xlim=(-0.6, len(groups) - 0.4))
    words = []
    for place, (name, values) in enumerate(groups.items()):
        mean, colour = np.mean(values), COLOURS[place]
        axes.scatter([place] * len(values), values, color=colour, zorder=3)
        axes.hlines(mean, place - 0.25, place + 0.25, color=colour, linewidth=3, alpha=0.5)
        words.append(f"{name}: {min(values):.3f} to {max(values):.3f}, mean {mean:.3f}")
    axes.set_xticks(range(len(groups)), list(groups))
    axes.set_ylim(0.0, None)
    return figure.described("Dots of the loss increase for each seed. ", words)


def plot_increase(rows: pd.DataFrame) -> Picture:
    """Loss increase against the part really removed; the band spans the seeds."""
    figure, axes = figure_with_axes((8.0, 4.4), xlabel=REMOVED)
    words = []
    for name, marks, own in _methods(rows, rows):
        groups = own.groupby("ratio")
        x = 100 * groups.removed.mean()
        y = _line_with_band(axes, x, groups.increase, name, marks)
        words.append(f"{name} from {y.iloc[0]:.2f} nats at {x.iloc[0]:.0f}% to {y.iloc[-1]:.2f} at {x.iloc[-1]:.0f}%")
    low, high = axes.get_xlim()
    if high - low < LEAST_SPAN:
        axes.set_xlim((low + high - LEAST_SPAN) / 2, (low + high + LEAST_SPAN) / 2)
    return _finished(figure, rows, "Lines of the loss increase against the part removed", ": ", words)


def plot_latency(rows: pd.DataFrame) -> Picture:
    """Loss increase against the time to decode one token, all ratios in one panel, with the Pareto front."""
    figure, axes = figure_with_axes((8.0, 4.4), xlabel="time to decode one token (dense model = 1)")
    front = _cloud(axes, rows, rows, "decode_ratio")
    words = ", one for each method and ratio. On the Pareto front, fastest first: "
    return _finished(figure, rows, "Dots of the loss increase against decoding time", words, [front])


def plot_memory(rows: pd.DataFrame) -> Picture:
    """Loss increase against the peak memory of pruning, a panel for each ratio, each with its Pareto front."""
    figure, by_ratio = _by_ratio(rows, "peak memory above\nimports (MB)")
    fronts = []
    for axes, ratio, own in by_ratio:
        fronts.append(f"at {ratio:.0%}, {_cloud(axes, own, rows, 'peak_megabytes')}")
        axes.xaxis.set_major_locator(MaxNLocator(3))
    words = ", a panel for each ratio. On the Pareto front, least memory first: "
    return _finished(figure, rows, "Dots of the loss increase against peak memory of pruning", words, fronts)


def plot_sequences(rows: pd.DataFrame) -> Picture:
    """Loss increase against the number of calibration sequences, a panel for each ratio; the band spans the seeds.

    A ratio that was tried with one number only is left out, unless all were.
    """
    several = rows.groupby("ratio").filter(lambda own: own.sequences.nunique() > 1)
    rows = several if len(several) else rows
    sizes = sorted(rows.sequences.unique())
    figure, by_ratio = _by_ratio(rows, "calibration sequences")
    words = []
    for axes, ratio, of_ratio in by_ratio:
        for name, marks, own in _methods(of_ratio, rows):
            groups = own.groupby("sequences").increase
            y = _line_with_band(axes, groups.mean().index, groups, name, marks)
            words.append(f"{name} at {ratio:.0%} from {y.iloc[0]:.2f} to {y.iloc[-1]:.2f} nats")
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
    what = f"Lines of the loss increase against calibration sequences, {sizes[0]} to {sizes[-1]}"
    return _finished(figure, rows, what, ": ", words)


def _methods(rows: pd.DataFrame, everything: pd.DataFrame) -> Iterator[tuple[str, dict[str, Any], pd.DataFrame]]:
    """(label, colour and marker, its rows); a label has one colour and marker throughout `everything`."""
    for place, name in enumerate(everything.label.unique()):
        own = rows[rows.label == name]
        if len(own):
            yield name, style(place), own


def _line_with_band(axes: Axes, x: Any, groups: Any, name: str, marks: dict[str, Any]) -> pd.Series:
    """The mean of each group against x, within a band from the smallest to the largest; returns the means."""
    means = groups.mean()
    axes.plot(x, means, label=name, **marks)
    axes.fill_between(x, groups.min(), groups.max(), color=marks["color"], alpha=0.2, linewidth=0)
    return means


def _cloud(axes: Axes, rows: pd.DataFrame, everything: pd.DataFrame, cost: str) -> str:
    """A dot for each method and ratio of `rows`, the Pareto front through them; returns the front in words."""
    points, names, several = [], [], rows.ratio.nunique() > 1
    for name, marks, own in _methods(rows, everything):
        means = own.groupby("ratio")[[cost, "increase"]].mean()
        axes.scatter(means[cost], means.increase, label=name, zorder=3, **marks)
        for ratio, x, y in means.itertuples():
            points.append((x, y))
            names.append(f"{name} at {ratio:.0%}" if several else name)
            if several:
                note(axes, f"{ratio:.0%}", (x, y), (6, -2), fontsize=7)
    front = pareto_front(points)
    draw_front(axes, [points[i] for i in front])
    return ", ".join(f"{names[i]} ({points[i][0]:.3g}, {points[i][1]:.2f} nats)" for i in front)


def _by_ratio(rows: pd.DataFrame, xlabel: str) -> tuple[Picture, list[tuple[Axes, float, pd.DataFrame]]]:
    """A panel for each ratio, side by side, with the ratio and its rows."""
    count = rows.ratio.nunique()
    figure, axes = panels(1, count, (max(4.0, 2.6 * count) + 2.0, 4.0), share="y", xlabel=xlabel)
    by_ratio = [(panel, ratio, own) for panel, (ratio, own) in zip(axes, rows.groupby("ratio"), strict=True)]
    for panel, ratio, _ in by_ratio:
        panel.set_title(f"{ratio:.0%} to remove")
    return figure, by_ratio


def _finished(figure: Picture, rows: pd.DataFrame, what: str, words: str, items: Iterable[str]) -> Picture:
    """Name the y axis, make it logarithmic unless some value has no logarithm, and add the legend and the alt text."""
    if rows.increase.min() > 0:
        for axes in figure.axes:
            log_y(axes)
    figure.axes[0].set_ylabel(LOSS)
    figure.axes[-1].legend(**BESIDE)
    count = rows.seed.nunique()
    return figure.described(f"{what}{f' (means over {count} seeds)' if count > 1 else ''}{words}", items)
