"""Two models in one picture: what pruning bought, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from .base import COLOURS, figure_with_axes

Spread = tuple[float, float, float]  # median, smallest, largest


def plot_comparison(ratios: Mapping[str, float | Spread]) -> Figure:
    """Pruned / dense of each measure, as bars in percent; a measure that came with its spread gets whiskers."""
    figure, axes = figure_with_axes(1, 1, (8.0, 1.2 + 0.5 * len(ratios)))
    spreads = {name: value if isinstance(value, tuple) else (value,) * 3 for name, value in ratios.items()}
    names, places = list(spreads), list(range(len(spreads)))
    middles = [100 * middle for middle, _, _ in spreads.values()]
    axes.barh(places, middles, color=COLOURS[0], height=0.6)
    for place, (middle, low, high) in zip(places, spreads.values(), strict=True):
        if low < high:
            whiskers = [[100 * (middle - low)], [100 * (high - middle)]]
            axes.errorbar(100 * middle, place, xerr=whiskers, color="black", capsize=4)
    axes.axvline(100, color="black", linestyle="--", linewidth=1)
    right = max(high for _, _, high in spreads.values()) * 100
    for place, middle, (_, _, high) in zip(places, middles, spreads.values(), strict=True):
        axes.text(100 * high + 0.02 * right, place, f"{middle:.0f}%", va="center")
    axes.set_xlim(0, 1.12 * right)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlabel("pruned model, in % of the dense one (dashed: the same)")
    axes.grid(axis="y", visible=False)
    words = [
        f"{name} {middle:.0%}" + (f" (from {low:.0%} to {high:.0%} over the rounds)" if low < high else "")
        for name, (middle, low, high) in spreads.items()
    ]
    figure.alt_text = f"Bar chart of the pruned model in percent of the dense one: {'; '.join(words)}."
    return figure
