"""Figures of a finished grid of runs (lesson 05): what each part is worth, loss against ratio, spread over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .base import COLOURS, LOSS, REMOVED, Picture, figure_with_axes, labelled_bars, logarithmic_y, loss_lines


def plot_ablation(increases: Mapping[str, float], reference: str) -> Picture:
    """Bars of the loss increase of each variant, best on top, `reference` marked."""
    names = sorted(increases, key=increases.__getitem__, reverse=True)
    figure, axes = figure_with_axes(1, 1, (8.5, 0.36 * len(names) + 1.2))
    labelled_bars(axes, {name: increases[name] for name in names}, "{:.3f}", reference)
    axes.margins(x=0.1, y=0.02)
    axes.set_xlabel(LOSS.replace("\n", " "))
    best, worst = names[-1], names[0]
    return figure.described(
        f"Horizontal bars of the loss increase of {len(names)} variants. Best is {best} with {increases[best]:.2f} "
        f"nats, worst {worst} with {increases[worst]:.2f}; {reference} has {increases[reference]:.2f}."
    )


def plot_ratios(curves: Mapping[str, Sequence[tuple[float, float]]]) -> Picture:
    """Loss increase against the part removed: for each name, (removed, increase) pairs."""
    lines = {
        name: [(100 * removed, increase) for removed, increase in sorted(points)] for name, points in curves.items()
    }
    figure, axes = loss_lines(lines, REMOVED)
    logarithmic_y(axes)
    words = [f"{name} goes from {line[0][1]:.2f} to {line[-1][1]:.2f} nats" for name, line in lines.items()]
    return figure.described(f"Lines of the loss increase against the part removed, logarithmic: {'; '.join(words)}.")


def plot_spread(groups: Mapping[str, Sequence[float]]) -> Picture:
    """The loss increase of each run, a dot for each calibration seed, and their mean as a bar."""
    figure, axes = figure_with_axes(1, 1, (6.5, 3.6))
    words = []
    for place, (name, values) in enumerate(groups.items()):
        mean = np.mean(values)
        axes.scatter([place] * len(values), values, color=COLOURS[place], zorder=3)
        axes.hlines(mean, place - 0.25, place + 0.25, color=COLOURS[place], linewidth=3, alpha=0.5)
        words.append(f"{name}: {min(values):.3f} to {max(values):.3f}, mean {mean:.3f}")
    axes.set_xticks(range(len(groups)), list(groups))
    axes.set(xlim=(-0.6, len(groups) - 0.4), ylim=(0.0, None), ylabel=LOSS)
    return figure.described(f"Dots of the loss increase for each seed. {'; '.join(words)}.")
