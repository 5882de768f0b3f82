"""The picture of a finished run: what went, what stayed, what error was left."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..plan import Plan
from .base import COLOURS, figure_with_axes


def plot_pruned(
    importance: Sequence[float],
    plan: Plan,
    parent_neurons: Sequence[int],
    parent_groups: Sequence[int],
    errors: Sequence[float],
    metric: str = "block influence",
) -> Figure:
    """What was removed: layer importance above, widths kept in the middle, errors of the layers below.

    importance, parent_neurons and parent_groups have one entry for each layer of the parent; errors, relative, one for
    each layer of the plan.
    """
    figure, (top, middle, bottom) = figure_with_axes(3, 1, (9.0, 7.5), sharex=True)
    layers = list(range(plan.parent_layers))
    dropped = set(plan.dropped)
    top.bar(layers, importance, color=[COLOURS[3] if layer in dropped else COLOURS[0] for layer in layers])
    top.set_ylabel(metric)
    top.set_title(f"What COMP removed: {plan.removed:.1%} of the {plan.of}'s parameters")
    kept = dict(zip(plan.layers, plan.neurons, strict=True))
    groups = dict(zip(plan.layers, plan.kv_groups, strict=True))
    middle.bar(layers, parent_neurons, color="lightgrey", label="removed")
    middle.bar(layers, [kept.get(layer, 0) for layer in layers], color=COLOURS[2], label="kept")
    for layer in layers:
        if groups.get(layer, 0) != parent_groups[layer]:
            middle.annotate(
                f"{groups.get(layer, 0)}/{parent_groups[layer]} KV",
                (layer, 0),
                rotation=90,
                ha="center",
                va="bottom",
                fontsize=7,
            )
    middle.set_ylabel("MLP neurons")
    middle.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    bottom.bar(plan.layers, [100 * error for error in errors], color=COLOURS[1])
    bottom.set_ylabel("error left after\nrecovery (% of energy)")
    bottom.set_xlabel("decoder layer of the parent")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    low, high = min(plan.neurons), max(plan.neurons)
    worst = max(range(len(errors)), key=errors.__getitem__)
    figure.alt_text = (
        f"Three bar charts over {plan.parent_layers} decoder layers. {metric.capitalize()} is highest in layer "
        f"{max(layers, key=lambda i: importance[i])} and lowest in layer {min(layers, key=lambda i: importance[i])}. "
        f"{len(dropped)} layers were dropped; the others keep {low if low == high else f'{low} to {high}'} of "
        f"{max(parent_neurons)} neurons. The error left is largest in layer {plan.layers[worst]}, "
        f"{errors[worst]:.1%} of the layer's energy."
    )
    return figure
