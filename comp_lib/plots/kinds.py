"""Pictures of a pruned model: what was removed, and its loss on every kind of text beside the dense one's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..evaluation.by_kind import Row
from ..evaluation.confidence import UNKNOWN
from ..plan import Plan
from .base import ABOVE, BLUE, GREEN, GREY, ORANGE, RED, Numbers, Picture, layer_axis, log_y, note, panels


def plot_kinds(rows: Mapping[str, Row]) -> Picture:
    """Bars of the loss on each text, from the top; the last row is their mean. See `evaluation.by_kind.ByKind.rows`.

    Whiskers are 95% intervals of the loss. Where rows have a `dense_loss`, it gets a bar too, and the whiskers are
    those of the increase, which is known far better than either loss.
    """
    compared = all("dense_loss" in values for values, _ in rows.values())
    measure, height = ("increase", 0.38) if compared else ("loss", 0.6)
    size = (7.8, (0.45 if compared else 0.36) * len(rows) + 1.2)
    figure, (axes,) = panels(1, 1, size, xlabel="loss (nats per token)")
    places = np.arange(len(rows))
    losses = np.array([values["loss"] for values, _ in rows.values()])
    middles = np.array([values[measure] for values, _ in rows.values()])
    lows, highs = np.array([intervals[measure] or UNKNOWN for _, intervals in rows.values()]).T
    whiskers = {"xerr": [middles - lows, highs - middles], "error_kw": {"elinewidth": 1.5}, "capsize": 3}
    label = f"{'pruned' if compared else 'model'}, with the 95% interval of its {measure}"
    if compared:
        dense = [values["dense_loss"] for values, _ in rows.values()]
        axes.barh(places - height / 2, dense, height, color=GREY, label="dense")
    axes.barh(places + compared * height / 2, losses, height, color=BLUE, label=label, **whiskers)
    ends = np.fmax(losses, losses + highs - middles)  # of the whiskers, where there are any
    for place, end, middle in zip(places, ends, middles, strict=True):
        number = f"{middle:+.2f}" if compared else f"{middle:.2f}"
        note(axes, number, (end, place + compared * height / 2), (5, 0), va="center", fontsize=9)
    axes.set_yticks(places, list(rows))
    axes.get_yticklabels()[-1].set_weight("bold")
    axes.axhline(len(rows) - 1.5, color="black", linewidth=0.8)
    axes.set(xlim=(0, 1.12 * max(ends[np.isfinite(ends)], default=1.0)), ylim=(len(rows) - 0.4, -0.6))
    axes.grid(axis="y", visible=False)
    axes.legend(ncols=2, **ABOVE)
    words = [
        f"{name} {_words(values, *(intervals[measure] or UNKNOWN))}"
        for name, (values, intervals) in rows.items()
    ]
    return figure.described("Bars of the loss on each text, in nats per token, with 95% intervals: ", words)


def _words(values: Mapping[str, float], low: float, high: float) -> str:
    span = "" if np.isnan(low) else f" ({low:.2f} to {high:.2f})"
    if "dense_loss" not in values:
        return f"{values['loss']:.2f}{span}"
    return f"{values['dense_loss']:.2f} dense, {values['loss']:.2f} pruned, {values['increase']:+.2f}{span}"


def plot_pruned(
    importance: Numbers, plan: Plan, neurons: Numbers, groups: Numbers, errors: Numbers
) -> Picture:
    """What was removed: block influence above, widths kept in the middle, errors of the layers below.

    importance, neurons, groups: one entry for each layer of the parent; errors: relative, one for each of the plan.
    """
    labels = ["block influence", "MLP neurons\n(green: kept)", "error left after\nrecovery (% of energy)"]
    figure, (top, middle, bottom) = panels(3, 1, (9.0, 7.5), "x", ylabel=labels)
    layers, kept = range(plan.parent_layers), dict(zip(plan.layers, plan.kv_groups, strict=True))
    colours = [RED if layer in plan.dropped else BLUE for layer in layers]
    top.scatter(layers, importance, c=colours, zorder=2)
    if min(importance) > 0:  # one layer may dwarf the others
        top.set_ylabel("block influence,\nlog scale")
        log_y(top, most=6)
    top.set_title(f"What COMP removed: {plan.removed:.1%} of the decoder's parameters")
    middle.bar(layers, neurons, color="lightgrey")
    middle.bar(plan.layers, plan.neurons, color=GREEN)
    for layer, whole in enumerate(groups):
        if (left := kept.get(layer, 0)) != whole:
            note(middle, f"{left}/{whole} KV", (layer, 0), rotation=90, ha="center", va="bottom", fontsize=7)
    bottom.bar(plan.layers, [100 * error for error in errors], color=ORANGE)
    layer_axis(bottom, label="decoder layer")
    low, high, worst = min(plan.neurons), max(plan.neurons), int(np.argmax(errors))
    return figure.described(
        f"Three charts over {plan.parent_layers} decoder layers. Block influence is highest in layer "
        f"{np.argmax(importance)} and lowest in layer {np.argmin(importance)}. {len(plan.dropped)} layers were "
        f"dropped; the others keep {low if low == high else f'{low} to {high}'} of {max(neurons)} neurons. The "
        f"error left is largest in layer {plan.layers[worst]}, {errors[worst]:.1%} of the layer's energy."
    )
