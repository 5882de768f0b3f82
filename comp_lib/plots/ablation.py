"""Figures of a finished grid of runs: what each part is worth, quality against ratio, spread over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from .base import COLOURS, figure_with_axes, plain_ticks

UNIT = "increase of the loss over the dense model (nats per token)"


def plot_ablation(increases: Mapping[str, float], reference: str) -> Figure:
    """Bars of the loss increase of each variant, best on top, `reference` marked."""
    names = sorted(increases, key=increases.__getitem__, reverse=True)
    figure, axes = figure_with_axes(1, 1, (8.5, 0.36 * len(names) + 1.2))
    values = [increases[name] for name in names]
    axes.barh(names, values, color=[COLOURS[2] if name == reference else COLOURS[0] for name in names])
    axes.margins(x=0.1, y=0.02)
    axes.grid(axis="y", visible=False)
    for place, value in enumerate(values):
        axes.annotate(
            f"{value:.3f}", (value, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.set_xlabel(UNIT)
    best, worst = names[-1], names[0]
    figure.alt_text = (
        f"Horizontal bars of the loss increase of {len(names)} variants. Best is {best} with {increases[best]:.2f} "
        f"nats, worst {worst} with {increases[worst]:.2f}; {reference} has {increases[reference]:.2f}."
    )
    return figure


def plot_ratios(curves: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Loss increase against the part removed: for each name, (removed, increase) pairs."""
    figure, axes = figure_with_axes(1, 1, (7.5, 4.0))
    words = []
    for place, (name, points) in enumerate(curves.items()):
        points = sorted(points)
        axes.plot(
            [100 * x for x, _ in points],
            [y for _, y in points],
            marker="osD^v"[place % 5],
            color=COLOURS[place],
            label=name,
        )
        words.append(f"{name} goes from {points[0][1]:.2f} to {points[-1][1]:.2f} nats")
    axes.set_yscale("log")
    plain_ticks(axes.yaxis, axes.get_ylim())
    axes.set_xlabel("removed (% of the decoder's parameters)")
    axes.set_ylabel(UNIT.replace(" over", "\nover"))
    axes.legend()
    figure.alt_text = "Lines of the loss increase against the part removed, logarithmic: " + "; ".join(words) + "."
    return figure


def plot_spread(groups: Mapping[str, Sequence[float]]) -> Figure:
    """The loss increase of each run, a dot for each calibration seed, and their mean as a bar."""
    figure, axes = figure_with_axes(1, 1, (6.5, 3.6))
    words = []
    for place, (name, values) in enumerate(groups.items()):
        mean = sum(values) / len(values)
        axes.scatter([place] * len(values), values, color=COLOURS[place], zorder=3)
        axes.hlines(mean, place - 0.25, place + 0.25, color=COLOURS[place], linewidth=3, alpha=0.5)
        words.append(f"{name}: {min(values):.3f} to {max(values):.3f}, mean {mean:.3f}")
    axes.set_xticks(range(len(groups)), list(groups))
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.set_ylim(0.0, None)
    axes.set_ylabel(UNIT.replace(" over", "\nover"))
    figure.alt_text = "Dots of the loss increase for each seed. " + "; ".join(words) + "."
    return figure
