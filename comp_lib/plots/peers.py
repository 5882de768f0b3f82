"""Figures of a comparison: loss against ratio, against time and memory, and against the amount of calibration text.

All take the finished rows of `compare.run` with their `label` (see `summary.finished`); points are means over seeds.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .base import COLOURS, figure_with_axes, plain_ticks

UNIT = "increase of the loss over the\ndense model (nats per token)"
MARKERS = "osD^vPX*<>"


def label(method: str, recovery: str) -> str:
    """What a method is called in tables and figures."""
    return method if recovery == "none" else f"{method} + {recovery}"


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, loss) that no other point beats: none is as good in both and better in one.

    In the order of rising cost.
    """
    front, best = [], float("inf")
    for index in sorted(range(len(points)), key=lambda i: points[i]):
        twin = bool(front) and points[front[-1]] == points[index]
        if points[index][1] < best or twin:
            front.append(index)
            best = points[index][1]
    return front


def plot_increase(rows: pd.DataFrame) -> Figure:
    """Loss increase against the part really removed; the band spans the seeds."""
    figure, axes = figure_with_axes(1, 1, (8.0, 4.4))
    words = []
    for name, colour, marker, some in _methods(rows, rows):
        groups = some.groupby("ratio")
        x, y = 100 * groups.removed.mean(), groups.increase
        axes.plot(x, y.mean(), color=colour, marker=marker, label=name)
        axes.fill_between(x, y.min(), y.max(), color=colour, alpha=0.2, linewidth=0)
        words.append(
            f"{name} from {y.mean().iloc[0]:.2f} nats at {x.iloc[0]:.0f}% to {y.mean().iloc[-1]:.2f} at "
            f"{x.iloc[-1]:.0f}%"
        )
    _logarithmic(axes, rows.increase)
    axes.set_xlabel("removed (% of the decoder's parameters)")
    axes.set_ylabel(UNIT)
    _legend(axes)
    figure.alt_text = f"Lines of the loss increase against the part removed{_seeds(rows)}: " + "; ".join(words) + "."
    return figure


def plot_latency(rows: pd.DataFrame) -> Figure:
    """Loss increase against the time to decode one token, all ratios in one panel, with the Pareto front."""
    figure, axes = figure_with_axes(1, 1, (8.0, 4.4))
    front = _cloud(axes, rows, rows, "decode_ratio")
    axes.set_xlabel("time to decode one token (dense model = 1)")
    axes.set_ylabel(UNIT)
    _legend(axes)
    figure.alt_text = (
        f"Dots of the loss increase against decoding time{_seeds(rows)}, one for each method and ratio. On the Pareto "
        f"front, fastest first: {front}."
    )
    return figure


def plot_memory(rows: pd.DataFrame) -> Figure:
    """Loss increase against the peak memory of pruning, a panel for each ratio, each with its Pareto front."""
    ratios = sorted(rows.ratio.unique())
    figure, panels = _panels(len(ratios))
    words = []
    for axes, ratio in zip(panels, ratios, strict=True):
        front = _cloud(axes, rows[rows.ratio == ratio], rows, "peak_megabytes")
        axes.set_title(f"{ratio:.0%} to remove")
        axes.set_xlabel("peak memory above\nimports (MB)")
        axes.xaxis.set_major_locator(MaxNLocator(3))
        words.append(f"at {ratio:.0%}, {front}")
    panels[0].set_ylabel(UNIT)
    _legend(panels[-1])
    figure.alt_text = (
        f"Dots of the loss increase against peak memory of pruning{_seeds(rows)}, a panel for each ratio. On the "
        f"Pareto front, least memory first: {'; '.join(words)}."
    )
    return figure


def plot_sequences(rows: pd.DataFrame) -> Figure:
    """Loss increase against the number of calibration sequences, a panel for each ratio; the band spans the seeds.

    A ratio that was tried with one number only is left out, unless all were.
    """
    several = rows.groupby("ratio").filter(lambda some: some.sequences.nunique() > 1)
    rows = several if len(several) else rows
    ratios = sorted(rows.ratio.unique())
    figure, panels = _panels(len(ratios))
    words = []
    for axes, ratio in zip(panels, ratios, strict=True):
        for name, colour, marker, some in _methods(rows[rows.ratio == ratio], rows):
            y = some.groupby("sequences").increase
            x = y.mean().index
            axes.plot(x, y.mean(), color=colour, marker=marker, label=name)
            axes.fill_between(x, y.min(), y.max(), color=colour, alpha=0.2, linewidth=0)
            words.append(f"{name} at {ratio:.0%} from {y.mean().iloc[0]:.2f} to {y.mean().iloc[-1]:.2f} nats")
        sizes = sorted(rows.sequences.unique())
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.set_title(f"{ratio:.0%} to remove")
        axes.set_xlabel("calibration sequences")
        _logarithmic(axes, rows.increase)
    panels[0].set_ylabel(UNIT)
    _legend(panels[-1])
    figure.alt_text = (
        f"Lines of the loss increase against calibration sequences, {sizes[0]} to {sizes[-1]}{_seeds(rows)}: "
        + "; ".join(words)
        + "."
    )
    return figure


def _methods(rows: pd.DataFrame, everything: pd.DataFrame):
    """(label, colour, marker, its rows); a label has one colour and marker throughout `everything`."""
    for place, name in enumerate(everything.label.unique()):
        some = rows[rows.label == name]
        if len(some):
            yield name, COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)], some


def _cloud(axes: Axes, rows: pd.DataFrame, everything: pd.DataFrame, cost: str) -> str:
    """A dot for each method and ratio of `rows`, the Pareto front through them; returns the front in words."""
    points, names, annotate = [], [], rows.ratio.nunique() > 1
    for name, colour, marker, some in _methods(rows, everything):
        means = some.groupby("ratio")[[cost, "increase"]].mean()
        axes.scatter(means[cost], means.increase, color=colour, marker=marker, label=name, zorder=3)
        for ratio, x, y in means.itertuples():
            points.append((x, y))
            names.append(f"{name} at {ratio:.0%}" if annotate else name)
            if annotate:
                axes.annotate(f"{ratio:.0%}", (x, y), xytext=(6, -2), textcoords="offset points", fontsize=7)
    front = pareto_front(points)
    axes.plot(
        *zip(*(points[i] for i in front), strict=True),
        color="black",
        linestyle="--",
        linewidth=1,
        zorder=2,
        label="Pareto front",
    )
    _logarithmic(axes, everything.increase)
    return ", ".join(f"{names[i]} ({points[i][0]:.3g}, {points[i][1]:.2f} nats)" for i in front)


def _panels(count: int) -> tuple[Figure, Sequence[Axes]]:
    figure, axes = figure_with_axes(1, count, (max(4.0, 2.6 * count) + 2.0, 4.0), sharey=True, squeeze=False)
    return figure, axes[0]


def _legend(axes: Axes) -> None:
    """Beside the axes: data can be anywhere."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)


def _logarithmic(axes: Axes, values: pd.Series) -> None:
    """A logarithmic axis, unless some value has no logarithm."""
    if values.min() > 0:
        axes.set_yscale("log")
        plain_ticks(axes.yaxis, axes.get_ylim())


def _seeds(rows: pd.DataFrame) -> str:
    count = rows.seed.nunique()
    return f" (means over {count} seeds)" if count > 1 else ""
