"""Figures of the finished runs of a grid (lesson 07): loss against ratio, time, memory and calibration text.

Tables are the finished rows of `compare.run` with their `label` (see `summary.finished`). A large mark is the mean over
the seeds of the calibration text, a small one a seed; whiskers are the 95% interval over the evaluation windows (of
several seeds the mean of its ends). Methods at one place are drawn beside each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from comp_lib.compare.picture import line_with_whiskers, methods, name_losses, over_seeds
from comp_lib.compare.picture import plot_increase as plot_increase
from comp_lib.plots.base import Picture, figure_with_axes, panels, style

Points = Sequence[tuple[float, float]]
Named = tuple[str, tuple[float, float]]  # a label, and its point (cost, loss)


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


def plot_latency(rows: pd.DataFrame) -> Picture:
    """Loss increase against the time to decode one token, all ratios in one panel.

    No front: models of equal shape decode equally fast, so which of them is faster is noise of the clock.
    """
    figure, axes = figure_with_axes((8.0, 4.4), xlabel="time to decode one token (dense model = 1)")
    points = sorted(_cloud(axes, rows, rows, "decode_ratio"), key=lambda named: named[1])
    words = ", one for each method and ratio. Fastest first: "
    return _finished(figure, rows, "Dots of the loss increase against decoding time", words, map(_said, points))


def plot_memory(rows: pd.DataFrame) -> Picture:
    """Loss increase against the peak memory of pruning, a panel for each ratio, each with its Pareto front."""
    figure, by_ratio = _by_ratio(rows, "peak memory above\nimports (MiB)")
    fronts = []
    for axes, ratio, own in by_ratio:
        named = _cloud(axes, own, rows, "peak_megabytes")
        front = [named[i] for i in pareto_front([point for _, point in named])]
        draw_front(axes, [point for _, point in front])
        fronts.append(f"at {ratio:.0%}, {', '.join(map(_said, front))}")
        axes.xaxis.set_major_locator(MaxNLocator(3))
    words = ", a panel for each ratio. On the Pareto front, least memory first: "
    return _finished(figure, rows, "Dots of the loss increase against peak memory of pruning", words, fronts)


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
    what = f"Lines of the loss increase against calibration sequences, {sizes[0]} to {sizes[-1]}"
    return _finished(figure, rows, what, ": ", words)


def _said(named: Named) -> str:
    name, (cost, loss) = named
    return f"{name} ({cost:.3g}, {loss:.2f} nats)"


def _cloud(axes: Axes, rows: pd.DataFrame, everything: pd.DataFrame, cost: str) -> list[Named]:
    """A mark for each method and ratio of `rows`; returns the name of each and its place.

    Colours are methods; where there are several ratios, their marks are in the legend too.
    """
    named, ratios = [], sorted(rows.ratio.unique())
    several, marker_of = len(ratios) > 1, {ratio: style(place)["marker"] for place, ratio in enumerate(ratios)}
    for name, marks, own in methods(rows, everything):
        means = own.groupby("ratio")[[cost, "increase"]].mean()
        for ratio, x, y in means.itertuples():
            named.append((f"{name} at {ratio:.0%}" if several else name, (x, y)))
            looks = marks | {"marker": marker_of[ratio]} if several else marks
            axes.scatter([x], [y], 45, zorder=3, **looks)
        axes.scatter([], [], label=name, **({**marks, "marker": "s"} if several else marks))
    for ratio, marker in marker_of.items() if several else ():
        axes.scatter([], [], color="black", marker=marker, label=f"{ratio:.0%} to remove")
    return named


def _by_ratio(rows: pd.DataFrame, xlabel: str) -> tuple[Picture, list[tuple[Axes, float, pd.DataFrame]]]:
    """A panel for each ratio, side by side, with the ratio and its rows."""
    count = rows.ratio.nunique()
    figure, axes = panels(1, count, (max(4.0, 2.6 * count) + 2.0, 4.0), share="xy", xlabel=xlabel)
    by_ratio = [(panel, ratio, own) for panel, (ratio, own) in zip(axes, rows.groupby("ratio"), strict=True)]
    for panel, ratio, _ in by_ratio:
        panel.set_title(f"{ratio:.0%} to remove")
    return figure, by_ratio


def _finished(figure: Picture, rows: pd.DataFrame, what: str, words: str, items: Iterable[str]) -> Picture:
    """Name the y axis, make it logarithmic unless some value has no logarithm, and add the legend and the alt text."""
    name_losses(figure, rows)
    return figure.described(f"{what}{over_seeds(rows)}{words}", items)
