"""Figures of the finished runs of a grid (lesson 07): loss against ratio, time, memory and calibration text.

Tables are the finished rows of `compare.run` with their `label` (see `summary.finished`). A large mark is the mean over
the seeds of the calibration text, a small one a seed; whiskers are the 95% interval over the evaluation windows (of
several seeds the mean of its ends).
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from comp_lib.compare.summary import line_with_whiskers, methods, name_losses, over_seeds
from comp_lib.plots.base import Picture, panels

Points = Sequence[tuple[float, float]]


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


def plot_costs(rows: pd.DataFrame, cost: str, xlabel: str, front: bool) -> Picture:
    """Mean loss increase of each method against a column `cost`, a panel for each ratio.

    `front`: whether to draw what no other method beats in both; of clocks it would be noise, since models of equal
    shape are equally fast.
    """
    figure, by_ratio = _by_ratio(rows, xlabel)
    words = []
    for axes, ratio, own in by_ratio:
        points = {}
        for name, marks, runs in methods(own, rows):
            points[name] = (float(runs[cost].mean()), float(runs.increase.mean()))
            axes.scatter(*points[name], 45, zorder=3, label=name, **marks)
        best = [list(points)[place] for place in pareto_front(list(points.values()))] if front else sorted(points)
        if front:
            draw_front(axes, [points[name] for name in best])
        words.append(
            f"at {ratio:.0%}, " + ", ".join("{} ({:.3g}, {:.2f} nats)".format(name, *points[name]) for name in best)
        )
        axes.xaxis.set_major_locator(MaxNLocator(3))
    name_losses(figure, rows)
    which = "On the Pareto front, " if front else ""
    return figure.described(f"Dots of the loss increase against a cost{over_seeds(rows)}. {which}", words)


def plot_sequences(rows: pd.DataFrame) -> Picture:
    """Loss increase against the number of calibration sequences, a panel for each ratio, with whiskers and seeds.

    A ratio that was tried with one number only is left out, unless all were.
    """
    several = rows.groupby("ratio").filter(lambda own: own.sequences.nunique() > 1)
    rows = several if len(several) else rows
    sizes = sorted(rows.sequences.unique())
    figure, by_ratio = _by_ratio(rows, "calibration sequences\n(log scale)")
    words = []
    for axes, ratio, of_ratio in by_ratio:
        for name, marks, own in methods(of_ratio, rows):
            groups = own.groupby("sequences")
            y = line_with_whiskers(axes, groups.increase.mean().index, groups, name, marks)
            words.append(f"{name} at {ratio:.0%} from {y.iloc[0]:.2f} to {y.iloc[-1]:.2f} nats")
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
    name_losses(figure, rows)
    what = f"Lines of the loss increase against calibration sequences, {sizes[0]} to {sizes[-1]}"
    return figure.described(f"{what}{over_seeds(rows)}: ", words)


def _by_ratio(rows: pd.DataFrame, xlabel: str) -> tuple[Picture, list[tuple[Axes, float, pd.DataFrame]]]:
    """A panel for each ratio, side by side, with the ratio and its rows."""
    count = rows.ratio.nunique()
    figure, axes = panels(1, count, (max(4.0, 2.6 * count) + 2.0, 4.0), share="xy", xlabel=xlabel)
    by_ratio = [(panel, ratio, own) for panel, (ratio, own) in zip(axes, rows.groupby("ratio"), strict=True)]
    for panel, ratio, _ in by_ratio:
        panel.set_title(f"{ratio:.0%} to remove")
    return figure, by_ratio
