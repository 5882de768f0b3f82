"""Pictures of a pruned model: what was removed, and its loss on every kind of text beside the dense one's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...decoder.shape import widths_in_words
from ...evaluation.by_kind import Row
from ...evaluation.confidence import NO_INTERVAL
from ...hybrid_granularity.plan import Plan
from .base import BLUE, GREEN, GREY, LEGEND_ABOVE, ORANGE, Numbers, Picture, layer_axis, note, panels


def plot_kinds(rows: Mapping[str, Row], mean_row: tuple[str, Row] | None = None) -> Picture:
    """Bars of the loss on each text from top to bottom, and below a line their mean, where it is given.

    Whiskers are 95% intervals of the loss. Where all rows have a `dense_loss`, it gets a bar too, and the
    whiskers are those of the increase, which is known far better than either loss.

    rows, mean_row: see `EvaluationByText.make_rows` and `make_mean_row`.
    """
    if mean_row is not None:
        name, row = mean_row
        rows = {**rows, name: row}
    compared = all("dense_loss" in values for values, _ in rows.values())
    if compared:
        measure = "increase"
        label = "pruned, with the 95% interval of its increase"
        number_format = "+.2f"
        bar_height = 0.38
        row_height = 0.45
    else:
        measure = "loss"
        label = "model, with the 95% interval of its loss"
        number_format = ".2f"
        bar_height = 0.6
        row_height = 0.36
    losses = np.array([values["loss"] for values, _ in rows.values()])
    numbers = np.array([values[measure] for values, _ in rows.values()])
    bounds = np.array([intervals[measure] or NO_INTERVAL for _, intervals in rows.values()])
    below = numbers - bounds[:, 0]
    above = bounds[:, 1] - numbers

    figure, (axes,) = panels(1, 1, (7.8, row_height * len(rows) + 1.2), xlabel="loss (nats per token)")
    positions = np.arange(len(rows), dtype=np.float64)
    bar_positions = positions
    if compared:
        bar_positions = positions + bar_height / 2
        dense_losses = [values["dense_loss"] for values, _ in rows.values()]
        axes.barh(positions - bar_height / 2, dense_losses, bar_height, color=GREY, label="dense")
    axes.barh(
        bar_positions,
        losses,
        bar_height,
        color=BLUE,
        label=label,
        xerr=[below, above],
        error_kw={"elinewidth": 1.5},
        capsize=3,
    )
    ends = np.fmax(losses, losses + above)  # ends of the whiskers, or of the bars without whiskers
    for position, end, number in zip(bar_positions, ends, numbers, strict=True):
        note(axes, f"{number:{number_format}}", (end, position), (5, 0), va="center", fontsize=9)
    axes.set_yticks(positions, list(rows))
    if mean_row is not None:
        axes.get_yticklabels()[-1].set_weight("bold")
        axes.axhline(len(rows) - 1.5, color="black", linewidth=0.8)
    axes.set(xlim=(0, 1.12 * max(ends[np.isfinite(ends)], default=1.0)), ylim=(len(rows) - 0.4, -0.6))
    axes.grid(axis="y", visible=False)
    axes.legend(ncols=2, **LEGEND_ABOVE)
    items = [
        f"{name} {_words(values, *(intervals[measure] or NO_INTERVAL))}"
        for name, (values, intervals) in rows.items()
    ]
    heading = "Bars of the loss on each text, in nats per token, with 95% intervals: "
    return figure.with_alt_text(heading, items)


def _words(values: Mapping[str, float], low: float, high: float) -> str:
    """The numbers of one row in words; low, high: the ends of its interval, NaN where it has none."""
    interval = "" if np.isnan(low) else f" ({low:.2f} to {high:.2f})"
    if "dense_loss" not in values:
        return f"{values['loss']:.2f}{interval}"
    return (
        f"{values['dense_loss']:.2f} dense, {values['loss']:.2f} pruned, {values['increase']:+.2f}{interval}"
    )


def plot_pruned(plan: Plan, neurons: Numbers, groups: Numbers, errors: Numbers) -> Picture:
    """Two charts of a pruning: the widths kept, and below them the errors of the layers.

    Args:
        plan: what was removed.
        neurons: MLP neurons of each layer of the parent.
        groups: KV groups of each layer of the parent.
        errors: relative error left in each layer of the plan.
    """
    labels = ["MLP neurons\n(green: kept)", "error left after\nthe refit (% of energy)"]
    figure, (top, bottom) = panels(2, 1, (9.0, 5.0), "x", ylabel=labels)
    top.set_title(f"What was removed: {plan.removed:.1%} of the decoder's parameters")
    layers = range(plan.parent_layers)
    top.bar(layers, neurons, color="lightgrey")
    top.bar(plan.layers, plan.neurons, color=GREEN)
    kept_groups = dict(zip(plan.layers, plan.kv_groups, strict=True))
    for layer, count in enumerate(groups):
        kept = kept_groups.get(layer, 0)
        if kept != count:
            text = f"{kept}/{count} KV"
            note(top, text, (layer, 0), rotation=90, ha="center", va="bottom", fontsize=7)
    bottom.bar(plan.layers, [100 * error for error in errors], color=ORANGE)
    layer_axis(bottom, label="decoder layer")
    worst = int(np.argmax(errors))
    phrases = [
        f"{len(plan.dropped)} layers were dropped; the others keep {widths_in_words(plan.neurons)} of "
        f"{max(neurons):,} neurons.",
        f"The error left is largest in layer {plan.layers[worst]}, {errors[worst]:.1%} of the layer's "
        "energy.",
    ]
    return figure.with_alt_text(f"Two charts over {plan.parent_layers} decoder layers. {' '.join(phrases)}")
