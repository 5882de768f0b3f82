"""Pictures of a whole model (lessons 00 and 06): at first sight, after pruning, and beside the dense one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..plan import Plan
from ..shape import Shape
from .base import ABOVE, BLUE, DASHED, GREEN, ORANGE, RED, Numbers, Picture, figure_with_axes, layer_axis, note, panels

INFLUENCE = "block influence\n(1 - mean cosine)"
Spread = tuple[float, float, float]  # median, smallest, largest


def plot_overview(shape: Shape, influence: Numbers) -> Picture:
    """Parameters of each decoder layer, by what holds them, above; its block influence, one entry a layer, below."""
    figure, (top, bottom) = panels(2, 1, (9.0, 5.0), "x", ylabel=["parameters (millions)", INFLUENCE])
    layers = range(shape.layers)
    attention = np.array(shape.kv_groups) * shape.group_parameters / 1e6
    mlp = np.array(shape.neurons) * shape.neuron_parameters / 1e6
    top.bar(layers, attention, color=ORANGE, label="attention")
    top.bar(layers, mlp, bottom=attention, color=GREEN, label="MLP")
    top.legend(ncols=2, **ABOVE)
    bottom.bar(layers, influence, color=BLUE)
    layer_axis(bottom)
    return figure.described(
        f"Two bar charts over {shape.layers} decoder layers. Parameters: {mlp.sum() / (mlp + attention).sum():.0%} of "
        f"them are in the MLPs, the rest in attention. Block influence: highest, {max(influence):.3f}, in layer "
        f"{np.argmax(influence)}; lowest, {min(influence):.3f}, in layer {np.argmin(influence)}."
    )


def plot_pruned(
    importance: Numbers, plan: Plan, neurons: Numbers, groups: Numbers, errors: Numbers, metric: str = "block influence"
) -> Picture:
    """What was removed: layer importance above, widths kept in the middle, errors of the layers below.

    importance, neurons, groups: one entry for each layer of the parent; errors: relative, one for each of the plan.
    """
    labels = [metric, "MLP neurons", "error left after\nrecovery (% of energy)"]
    figure, (top, middle, bottom) = panels(3, 1, (9.0, 7.5), "x", ylabel=labels)
    layers, kept = range(plan.parent_layers), dict(zip(plan.layers, plan.kv_groups, strict=True))
    top.bar(layers, importance, color=[RED if layer in plan.dropped else BLUE for layer in layers])
    top.set_title(f"What COMP removed: {plan.removed:.1%} of the {plan.of}'s parameters")
    middle.bar(layers, neurons, color="lightgrey", label="removed")
    middle.bar(plan.layers, plan.neurons, color=GREEN, label="kept")
    for layer, whole in enumerate(groups):
        if (left := kept.get(layer, 0)) != whole:
            note(middle, f"{left}/{whole} KV", (layer, 0), rotation=90, ha="center", va="bottom", fontsize=7)
    middle.legend(ncols=2, **ABOVE)
    bottom.bar(plan.layers, [100 * error for error in errors], color=ORANGE)
    layer_axis(bottom, label="decoder layer of the parent")
    low, high, worst = min(plan.neurons), max(plan.neurons), int(np.argmax(errors))
    return figure.described(
        f"Three bar charts over {plan.parent_layers} decoder layers. {metric.capitalize()} is highest in layer "
        f"{np.argmax(importance)} and lowest in layer {np.argmin(importance)}. {len(plan.dropped)} layers were "
        f"dropped; the others keep {low if low == high else f'{low} to {high}'} of {max(neurons)} neurons. The "
        f"error left is largest in layer {plan.layers[worst]}, {errors[worst]:.1%} of the layer's energy."
    )


def plot_comparison(ratios: Mapping[str, float | Spread]) -> Picture:
    """Pruned / dense of each measure, as bars in percent; a measure that came with its spread gets whiskers."""
    xlabel = "pruned model, in % of the dense one (dashed: the same)"
    figure, axes = figure_with_axes((8.0, 1.2 + 0.5 * len(ratios)), xlabel=xlabel)
    spreads = {name: value if isinstance(value, tuple) else (value,) * 3 for name, value in ratios.items()}
    middles, lows, highs = 100 * np.array(list(spreads.values())).T
    whiskers = np.where(lows < highs, [middles - lows, highs - middles], np.nan)
    axes.barh(list(spreads), middles, xerr=whiskers, color=BLUE, height=0.6, capsize=4)
    axes.axvline(100, **DASHED)
    for place, (middle, high) in enumerate(zip(middles, highs, strict=True)):
        axes.text(high + 0.02 * highs.max(), place, f"{middle:.0f}%", va="center")
    axes.set_xlim(0, 1.12 * highs.max())
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    words = [
        f"{name} {middle:.0%}" + (f" (from {low:.0%} to {high:.0%} over the rounds)" if low < high else "")
        for name, (middle, low, high) in spreads.items()
    ]
    return figure.described("Bar chart of the pruned model in percent of the dense one: ", words)
