"""Pictures of a whole model (lessons 00 and 06): at first sight, after pruning, and beside the dense one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from comp_lib.plots.base import BLUE, DASHED, GREEN, ORANGE, Numbers, Picture, figure_with_axes, note

Spread = tuple[float, float, float]  # median, smallest, largest


def plot_comparison(less: Mapping[str, float | Spread], more: Mapping[str, float | Spread]) -> Picture:
    """Pruned / dense of each measure, as bars in percent: of those `less` is better, of those `more`, in two colours.

    A measure that came with its spread gets whiskers.
    """
    ratios = {**less, **more}
    xlabel = "pruned model, in % of the dense one (dashed: the same)"
    figure, axes = figure_with_axes((8.0, 1.6 + 0.5 * len(ratios)), xlabel=xlabel)
    spreads = {name: value if isinstance(value, tuple) else (value,) * 3 for name, value in ratios.items()}
    middles, lows, highs = 100 * np.array(list(spreads.values())).T
    whiskers = np.where(lows < highs, [middles - lows, highs - middles], np.nan)
    groups = (("less is better", ORANGE, slice(len(less))), ("more is better", BLUE, slice(len(less), None)))
    for words, colour, part in groups:
        bars: dict[str, Any] = {"xerr": whiskers[:, part], "color": colour, "height": 0.6, "capsize": 4}
        axes.barh([f"{name}\n({words})" for name in list(spreads)[part]], middles[part], **bars)
    axes.axvline(100, **DASHED)
    for place, (middle, high) in enumerate(zip(middles, highs, strict=True)):
        axes.text(high + 0.02 * highs.max(), place, f"{middle:.0f}%", va="center")
    axes.set_xlim(0, 1.12 * highs.max())
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    numbers = [
        f"{name} {middle:.0%}" + (f" (from {low:.0%} to {high:.0%})" if low < high else "")
        for name, (middle, low, high) in spreads.items()
    ]
    directions = f"Less is better of {', '.join(less)}; more is better of {', '.join(more)}."
    return figure.described(
        f"Bar chart of the pruned model in percent of the dense one. {directions} Values: ", numbers
    )


def plot_variants(
    runs: Mapping[str, Numbers], marked: str, beside: Mapping[str, float] | None = None
) -> Picture:
    """Extra loss of each variant, a dot for each seed, from the top; the band spans the `marked` one's seeds.

    `beside` has the same of a second model, one run each: diamonds.
    """
    figure, axes = figure_with_axes(
        (8.5, 1.2 + 0.42 * len(runs)), xlabel="increase of the loss (nats per token)"
    )
    low, high = min(runs[marked]), max(runs[marked])
    axes.axvspan(low, high, color=GREEN, alpha=0.2)
    place_of_name = {"transform": axes.get_xaxis_transform(), "ha": "center", "va": "bottom"}
    axes.text((low + high) / 2, 1.01, f"seeds of {marked}", color=GREEN, **place_of_name)
    for place, (name, values) in enumerate(runs.items()):
        apart = place + 0.14 * (np.arange(len(values)) - (len(values) - 1) / 2)  # equal ones stay visible
        axes.scatter(values, apart, color=GREEN if name == marked else BLUE, zorder=2)
    if beside:
        looks = {"marker": "D", "facecolors": "none", "edgecolors": ORANGE, "zorder": 3}
        axes.scatter(list(beside.values()), range(len(beside)), **looks)
        note(axes, "Gemma 3, one run", (next(iter(beside.values())), 0), (-8, 0), ha="right", va="center")
    axes.set_yticks(range(len(runs)), list(runs))
    axes.set_xlim(min(0.0, 1.1 * min(map(min, runs.values()))))
    axes.invert_yaxis()
    words = [
        f"{name} {np.mean(values):.3f}"
        + (f" ({min(values):.3f} to {max(values):.3f}, {len(values)} seeds)" if len(values) > 1 else "")
        + (f", Gemma 3 {beside[name]:.3f}" if beside else "")
        for name, values in runs.items()
    ]
    return figure.described("Dots of the increase of the loss, nats per token: ", words)
