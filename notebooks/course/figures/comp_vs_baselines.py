"""Figures of lesson 07: two models window by window, paired differences, and stored losses by ratio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from comp_lib.plots.base import (
    BLUE,
    DASHED,
    GREEN,
    GREY,
    LOSS,
    ORANGE,
    Picture,
    figure_with_axes,
    panels,
    plain_ticks,
    style,
)

from . import Interval, spans

METHODS = ["COMP", "FLAP", "Wanda-sp", "LLM-Pruner"]  # a method has its colour and marker from its place here


def plot_windows(losses: Mapping[str, Sequence[float]]) -> Picture:
    """Losses (windows,) of two models, name -> nats per token: a row for each window, the hardest at the top."""
    (one, ours), (other, theirs) = ((name, np.asarray(values)) for name, values in losses.items())
    order = np.argsort(ours)
    size, xlabel, ylabel = (
        (7.5, 0.2 * len(ours) + 1.4),
        "loss of the window (nats per token)",
        "one row: one window",
    )
    figure, axes = figure_with_axes(size, xlabel=xlabel, ylabel=ylabel)
    axes.hlines(range(len(ours)), ours[order], theirs[order], color=GREY, linewidth=1)
    for name, values, colour, marker in ((one, ours, BLUE, "o"), (other, theirs, ORANGE, "s")):
        axes.plot(values[order], range(len(ours)), marker, color=colour, label=name)
    axes.set_yticks([])
    axes.set_title("Windows differ more than models")
    axes.legend(loc="lower right")
    gap = np.abs(ours - theirs).mean()
    words = f"{one}'s go from {ours.min():.2f} to {ours.max():.2f} nats; the models differ by {gap:.2f} in a window."
    return figure.described(f"Rows of two marks, the loss of a window in {one} and in {other}. {words}")


def plot_intervals(
    rows: Mapping[str, Interval], xlabel: str, title: str, first: str | None = None, limit: float = 0.0
) -> Picture:
    """Values with their 95% intervals, a row for each, from the top; dashed: 0, and the limit.

    A row whose name ends with `first` is green and begins a group, whose name before the colon is said once.
    """
    figure, axes = figure_with_axes((8.0, 0.38 * len(rows) + 1.2), xlabel=xlabel)
    middles, whiskers = spans(list(rows.values()))
    axes.errorbar(middles, range(len(rows)), xerr=whiskers, fmt="o", color=BLUE, capsize=3)
    for place, name in enumerate(rows):
        if first is not None and name.endswith(first):
            axes.axhline(place - 0.5, color=GREY, linewidth=0.8)
            axes.plot(middles[place], place, "o", color=GREEN, markersize=8, zorder=3)
    for value in {0.0, limit}:
        axes.axvline(value, **DASHED)
    names = [name if first is None or name.endswith(first) else name.split(": ", 1)[-1] for name in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_title(title)
    words = [
        f"{name} {middle:+.2f} ({low:+.2f} to {high:+.2f})" for name, (middle, low, high) in rows.items()
    ]
    return figure.described(f"Marks with 95% intervals, {xlabel}: ", words)


def plot_ratios(models: Mapping[str, Mapping[str, Mapping[float, Interval]]]) -> Picture:
    """Loss increase against the ratio removed: model -> method -> ratio -> mean, low, high; a panel for each model."""
    size, xlabel = (3.2 * len(models) + 0.6, 3.6), "removed (% of the decoder)"
    figure, by_model = panels(1, len(models), size, share="xy", xlabel=xlabel, yscale="log")
    words = []
    for axes, (model, methods) in zip(by_model, models.items(), strict=True):
        axes.set_title(model)
        for method, values in methods.items():
            ratios, found = zip(*sorted(values.items()), strict=True)
            percent, (losses, whiskers) = [100 * ratio for ratio in ratios], spans(found)
            looks = style(METHODS.index(method)) | {"linewidth": 1, "capsize": 3}
            axes.errorbar(percent, losses, yerr=whiskers, label=method, **looks)
            words.append(
                f"{model}, {method}: {losses[0]:.2f} at {ratios[0]:.0%}, {losses[-1]:.2f} at {ratios[-1]:.0%}"
            )
        axes.set_xticks(percent)
    by_model[0].set_ylabel(LOSS)
    plain_ticks(by_model[0].yaxis, by_model[0].get_ylim())
    by_model[0].legend()
    return figure.described("Lines of the mean loss increase against the ratio removed. ", words)
