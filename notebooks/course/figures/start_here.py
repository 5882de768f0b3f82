"""Pictures of a whole model (lessons 00 and 06): at first sight, after pruning, and beside the dense one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from comp_lib.reports.plots.base import (
    BLUE,
    DASHED_LINE,
    GREEN,
    ORANGE,
    Numbers,
    Picture,
    figure_with_axes,
    layer_axis,
    log_y,
    note,
    panels,
)

Spread = tuple[float, float, float]  # the value, and the ends of its whisker


def plot_layers(influence: Numbers, errors: Numbers) -> Picture:
    """Panels over the layers: how far each turns the states; the share of its MLP's output that is lost."""
    ylabels = ["block influence (no unit)\nlog scale", "error of the MLP\n(% of its output's energy)"]
    figure, (top, bottom) = panels(2, 1, (9.0, 4.6), "x", ylabel=ylabels)
    layers = range(len(influence))
    top.scatter(layers, influence, color=BLUE, zorder=2)
    log_y(top, max_ticks=6)
    bottom.bar(layers, [100 * error for error in errors], color=ORANGE)
    layer_axis(bottom, len(influence))
    strongest = int(np.argmax(influence))
    worst = int(np.argmax(errors))
    return figure.with_alt_text(
        f"Two charts over {len(influence)} decoder layers. Above, block influence is highest in layer "
        f"{strongest}. Below, the error of the pruned MLP is largest in layer {worst}, {errors[worst]:.1%} "
        f"of its output's energy; in layer {strongest} it is {errors[strongest]:.1%}."
    )


def plot_comparison(
    less_is_better: Mapping[str, float | Spread], more_is_better: Mapping[str, float | Spread]
) -> Picture:
    """Pruned / dense of each measure, as bars in percent, in two colours.

    A measure that comes with its spread gets whiskers.
    """
    ratios = {**less_is_better, **more_is_better}
    xlabel = "pruned model, in % of the dense one (dashed: the same)"
    figure, axes = figure_with_axes((8.0, 1.6 + 0.5 * len(ratios)), xlabel=xlabel)
    spreads = {name: value if isinstance(value, tuple) else (value,) * 3 for name, value in ratios.items()}
    middles, lows, highs = 100 * np.array(list(spreads.values())).T
    whiskers = np.where(lows < highs, [middles - lows, highs - middles], np.nan)
    border = len(less_is_better)
    groups = (("less is better", ORANGE, slice(border)), ("more is better", BLUE, slice(border, None)))
    for direction, colour, rows in groups:
        looks: dict[str, Any] = {"xerr": whiskers[:, rows], "color": colour, "height": 0.6, "capsize": 4}
        axes.barh([f"{name}\n({direction})" for name in list(spreads)[rows]], middles[rows], **looks)
    axes.axvline(100, **DASHED_LINE)
    for row, (middle, high) in enumerate(zip(middles, highs, strict=True)):
        axes.text(high + 0.02 * highs.max(), row, f"{middle:.0f}%", va="center")
    axes.set_xlim(0, 1.12 * highs.max())
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    phrases = []
    for name, (middle, low, high) in spreads.items():
        spread = f" (from {low:.0%} to {high:.0%})" if low < high else ""
        phrases.append(f"{name} {middle:.0%}{spread}")
    opening = (
        "Bar chart of the pruned model in percent of the dense one. Less is better of "
        f"{', '.join(less_is_better)}; more is better of {', '.join(more_is_better)}. Values: "
    )
    return figure.with_alt_text(opening, phrases)


def plot_variants(
    runs: Mapping[str, Numbers], marked: str, gemma: Mapping[str, float] | None = None
) -> Picture:
    """Extra loss of each variant, from the top, with a dot for each seed.

    A band spans the seeds of the `marked` variant. gemma: the same of Gemma 3, one run for each variant,
    drawn as diamonds.
    """
    size = (8.5, 1.2 + 0.42 * len(runs))
    figure, axes = figure_with_axes(size, xlabel="increase of the loss (nats per token)")
    low = min(runs[marked])
    high = max(runs[marked])
    axes.axvspan(low, high, color=GREEN, alpha=0.2)
    above_band = {"transform": axes.get_xaxis_transform(), "ha": "center", "va": "bottom"}
    axes.text((low + high) / 2, 1.01, f"seeds of {marked}", color=GREEN, **above_band)
    phrases = []
    for row, (name, values) in enumerate(runs.items()):
        places_from_middle = np.arange(len(values)) - (len(values) - 1) / 2
        heights = row + 0.14 * places_from_middle  # equal dots do not cover each other
        axes.scatter(values, heights, color=GREEN if name == marked else BLUE, zorder=2)
        phrase = f"{name} {np.mean(values):.3f}"
        if len(values) > 1:
            phrase += f" ({min(values):.3f} to {max(values):.3f}, {len(values)} seeds)"
        if gemma:
            phrase += f", Gemma 3 {gemma[name]:.3f}"
        phrases.append(phrase)
    if gemma:
        looks = {"marker": "D", "facecolors": "none", "edgecolors": ORANGE, "zorder": 3}
        axes.scatter(list(gemma.values()), range(len(gemma)), **looks)
        first = next(iter(gemma.values()))
        note(axes, "Gemma 3, one run", (first, 0), (-8, 0), ha="right", va="center")
    axes.set_yticks(range(len(runs)), list(runs))
    axes.set_xlim(min(0.0, 1.1 * min(map(min, runs.values()))))
    axes.set_ylim(len(runs) - 0.5, -0.5)  # the first on top
    return figure.with_alt_text("Dots of the increase of the loss, nats per token: ", phrases)
