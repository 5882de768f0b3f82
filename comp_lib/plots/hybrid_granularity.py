"""Figures of planning: where the parameters sit, what a width costs in error and in time, and what plans came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ..plan import Plan
from ..shape import Shape
from .base import COLOURS, figure_with_axes

DEPTHS = mpl.colormaps["cividis"]  # order of the layers; safe for colour blindness


def plot_parameters(shape: Shape) -> Figure:
    """Where the parameters of a whole model sit, as one bar, and those of its first decoder layer, as another."""
    head, groups, heads = shape.head_dim, shape.kv_groups[0], shape.kv_groups[0] * shape.group_heads
    neurons = shape.neurons[0] * shape.neuron_parameters
    attention = groups * shape.group_parameters
    total = {
        "MLP neurons": sum(shape.neurons) * shape.neuron_parameters,
        "KV groups": sum(shape.kv_groups) * shape.group_parameters,
        "norms and output biases": shape.layers * shape.layer_parameters,
        "embeddings, head, last norm": shape.other_parameters,
    }
    layer = {"MLP neurons": neurons, "KV groups": attention, "norms and output biases": shape.layer_parameters}
    figure, axes = figure_with_axes(2, 1, (9.0, 3.4))
    rows = ((f"whole model, {shape.layers} layers", total), ("decoder layer 0", layer))
    for axis, (name, parts) in zip(axes, rows, strict=True):
        left, whole = 0.0, sum(parts.values())
        for colour, (part, count) in zip((2, 0, 1, 7), parts.items(), strict=False):
            axis.barh([name], count / 1e6, left=left, color=COLOURS[colour], label=part)
            if count > 0.04 * whole:
                axis.text(left + count / 2e6, 0, f"{count / whole:.0%}", ha="center", va="center", color="white")
            left += count / 1e6
        axis.set_xlim(0, whole / 1e6)
        axis.grid(False)
    axes[0].legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False, fontsize=9)
    axes[1].set_xlabel("parameters (millions)")
    whole = sum(total.values())
    figure.alt_text = (
        f"Two stacked bars. Of {whole:,} parameters, {total['MLP neurons'] / whole:.0%} belong to MLP neurons, "
        f"{total['KV groups'] / whole:.0%} to KV groups, {shape.other_parameters / whole:.0%} to the embeddings and "
        f"the head. In one decoder layer the {shape.neurons[0]} neurons own {neurons / sum(layer.values()):.0%}, the "
        f"{groups} KV groups ({heads} query heads of {head} numbers) {attention / sum(layer.values()):.0%}."
    )
    return figure


def plot_error_curves(curves: Mapping[str, np.ndarray], neurons: int, marked: Sequence[int] = ()) -> Figure:
    """Relative error of each layer against the neurons removed; `marked` layers are named at the right end.

    curves: counts (K,) and errors (layers, K), as `studies.neurons.error_curves` returns them.
    """
    counts, errors = np.asarray(curves["counts"]), np.asarray(curves["errors"])
    layers, last = len(errors), errors[:, -1]
    figure, axis = figure_with_axes(1, 1, (8.5, 4.6))
    for layer in range(layers):
        chosen = layer in marked
        axis.plot(
            counts[1:],
            errors[layer, 1:],
            color=DEPTHS(layer / max(layers - 1, 1)),
            linewidth=2.4 if chosen else 1.0,
            zorder=3 if chosen else 2,
        )
        if chosen:
            axis.annotate(f" layer {layer}", (counts[-1], last[layer]), va="center", fontsize=9)
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    axis.set_xlim(0, counts[-1] * 1.12)
    axis.set_xlabel(f"neurons removed, of {neurons:,}")
    axis.set_ylabel("error left after the refit\n(% of the MLP's output energy)")
    scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, max(layers - 1, 1)), DEPTHS)
    figure.colorbar(scale, ax=axis, label="decoder layer", pad=0.01)
    flat, steep = int(np.nanargmin(last)), int(np.nanargmax(last))
    figure.alt_text = (
        f"Error curves of {layers} decoder layers on a logarithmic axis, each rising with the neurons removed. With "
        f"{counts[-1]} of {neurons} neurons gone the error is smallest in layer {flat}, {last[flat]:.1%}, and largest "
        f"in layer {steep}, {last[steep]:.1%}."
    )
    return figure


def plot_widths(
    plan: Plan, neurons: Sequence[int], errors: Sequence[float], title: str = "", limit: float | None = None
) -> Figure:
    """The widths of a plan above, the predicted error of each layer below; both for all layers of the parent.

    neurons: of the parent; errors: relative, 1 for a dropped layer; limit: top of the lower axis, as a fraction.
    """
    figure, (top, bottom) = figure_with_axes(2, 1, (8.5, 4.4), sharex=True)
    _widths(top, plan, neurons)
    top.set_title(title or f"{plan.removed:.1%} of the {plan.of}'s parameters go")
    top.legend(loc="lower center", bbox_to_anchor=(0.5, -0.2), ncols=3, frameon=False, fontsize=9)
    kept = [errors[layer] for layer in plan.layers]
    limit = max(kept) * 1.15 + 1e-6 if limit is None else limit
    bottom.bar(plan.layers, kept, color=COLOURS[1])
    bottom.set_ylim(0, limit)
    bottom.yaxis.set_major_formatter(PercentFormatter(1.0))
    bottom.set_ylabel("predicted error\n(% of its energy)")
    bottom.set_xlabel("decoder layer of the parent (a dropped one has error 100%)")
    worst = max(range(len(kept)), key=kept.__getitem__)
    figure.alt_text = (
        f"Bars of the width of each layer, and of its predicted error. {_words(plan, neurons)} Of those that stay, "
        f"layer {plan.layers[worst]} has the largest predicted error, {kept[worst]:.1%}."
    )
    return figure


def plot_plans(plans: Mapping[str, Plan], neurons: Sequence[int]) -> Figure:
    """The widths of several plans, one below the other."""
    figure, axes = figure_with_axes(len(plans), 1, (8.5, 1.5 * len(plans) + 0.8), sharex=True, squeeze=False)
    for axis, (name, plan) in zip(axes[:, 0], plans.items(), strict=True):
        _widths(axis, plan, neurons)
        axis.set_title(f"{name}: {plan.removed:.1%} of the {plan.of} goes", fontsize=10, loc="left")
    drawn = [zip(*axis.get_legend_handles_labels(), strict=True) for axis in axes[:, 0]]
    names = {text: handle for row in drawn for handle, text in row}
    axes[0, 0].legend(
        names.values(), names, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, frameon=False, fontsize=9
    )
    axes[-1, 0].set_xlabel("decoder layer of the parent")
    words = " ".join(f"{name}: {_words(plan, neurons)}" for name, plan in plans.items())
    figure.alt_text = f"Widths of all layers under {len(plans)} plans. {words}"
    return figure


def _widths(axis, plan: Plan, neurons: Sequence[int]) -> None:
    axis.bar(range(len(neurons)), neurons, color="lightgrey", label="removed")
    axis.bar(plan.layers, plan.neurons, color=COLOURS[2], label="kept")
    if plan.dropped:
        axis.bar(
            plan.dropped,
            [neurons[layer] for layer in plan.dropped],
            color="white",
            edgecolor=COLOURS[3],
            hatch="///",
            label="layer dropped",
        )
    axis.set_ylabel("MLP neurons")
    axis.set_xlim(-0.7, len(neurons) - 0.3)
    axis.grid(axis="x", visible=False)


def _words(plan: Plan, neurons: Sequence[int]) -> str:
    narrow = min(range(len(plan.layers)), key=plan.neurons.__getitem__)
    layers = f"layer{'s' if len(plan.dropped) > 1 else ''} {', '.join(map(str, plan.dropped))}"
    dropped = f"{layers} dropped" if plan.dropped else "no layer dropped"
    if len(set(plan.neurons)) == 1:
        return f"{dropped}, {plan.neurons[0]} of {max(neurons)} neurons in every layer that stays."
    return (
        f"{dropped}, {plan.neurons[narrow]} (layer {plan.layers[narrow]}) to {max(plan.neurons)} of {max(neurons)} "
        "neurons stay in a layer."
    )


def plot_prediction(predicted: Mapping[str, float], measured: Mapping[str, float], dense: float) -> Figure:
    """Two rows of bars for the same plans: the error that the curves predict, and the perplexity that came of it.

    predicted: mean relative error of a layer, as a fraction; measured and dense: perplexities.
    """
    names = list(predicted)[::-1]
    figure, (left, right) = figure_with_axes(1, 2, (9.5, 0.5 * len(names) + 1.2), sharey=True)
    for axis, values, text in ((left, predicted, "{:.1%}"), (right, measured, "{:.1f}")):
        best = min(values, key=values.__getitem__)
        axis.barh(
            names,
            [values[name] for name in names],
            color=[COLOURS[2] if name == best else COLOURS[0] for name in names],
        )
        for place, name in enumerate(names):
            axis.text(values[name], place, " " + text.format(values[name]), va="center", fontsize=9)
        axis.set_xlim(0, max(values.values()) * 1.2)
        axis.grid(axis="y", visible=False)
    left.xaxis.set_major_formatter(PercentFormatter(1.0))
    left.set_xlabel("predicted: mean error of an MLP (% of its energy)")
    right.axvline(dense, color=COLOURS[3], linestyle="--")
    right.text(
        dense,
        1.01,
        "dense model",
        transform=right.get_xaxis_transform(),
        ha="center",
        va="bottom",
        fontsize=9,
        color=COLOURS[3],
    )
    right.set_xlabel("measured: perplexity after pruning (lower is better)")
    pairs = "; ".join(f"{name} {predicted[name]:.1%} and {measured[name]:.1f}" for name in predicted)
    figure.alt_text = (
        f"Bars for {len(names)} plans, predicted error and measured perplexity: {pairs}. Dense: {dense:.1f}. Least "
        f"predicted error: {min(predicted, key=predicted.__getitem__)}; lowest perplexity: "
        f"{min(measured, key=measured.__getitem__)}."
    )
    return figure


def plot_narrowing(layers: Sequence[int], error: Sequence[float], harm: Sequence[float], gone: int) -> Figure:
    """Each layer narrowed alone by `gone` neurons: its own relative error above, what the model loses below."""
    figure, (top, bottom) = figure_with_axes(2, 1, (8.5, 4.6), sharex=True)
    names = [str(layer) for layer in layers]  # side by side, though not all layers were tried
    top.bar(names, error, color=COLOURS[1])
    top.yaxis.set_major_formatter(PercentFormatter(1.0))
    top.set_ylabel("error of the layer\n(% of its energy)")
    top.set_title(f"One layer alone loses {gone} neurons")
    for axis in (top, bottom):
        axis.grid(axis="x", visible=False)
    bottom.bar(names, harm, color=COLOURS[0])
    bottom.set_ylabel("loss of the model\n(nats per token)")
    bottom.set_xlabel("decoder layer that was narrowed")
    bottom.axhline(0.0, color="black", linewidth=0.8)
    local, real = (max(range(len(layers)), key=values.__getitem__) for values in (error, harm))
    figure.alt_text = (
        f"Two rows of bars over {len(layers)} decoder layers, each narrowed alone by {gone} neurons. Its own error is "
        f"largest in layer {layers[local]} ({error[local]:.1%}), where the model's loss rises by {harm[local]:.3f} "
        f"nats. The loss rises most for layer {layers[real]}, by {harm[real]:.3f} nats, at an error of "
        f"{error[real]:.1%}."
    )
    return figure


def plot_latency(found: Mapping[int, Mapping[str, np.ndarray]], lines: Mapping[int, tuple[float, float]]) -> Figure:
    """Milliseconds of a decoder layer against its width, one panel for each number of tokens; points are single runs.

    found: for each number of tokens, widths (W,) and milliseconds (W, repeats); lines: (a, b) of a + b n for each.
    """
    figure, axes = figure_with_axes(1, len(found), (4.6 * len(found), 3.6), squeeze=False)
    words = []
    for axis, (tokens, each) in zip(axes[0], found.items(), strict=True):
        widths, runs = np.asarray(each["widths"]), np.asarray(each["milliseconds"])
        a, b = lines[tokens]
        ends = np.array([0, widths.max()])
        axis.scatter(np.repeat(widths, runs.shape[1]), runs.ravel(), color=COLOURS[0], s=14, alpha=0.5, label="runs")
        axis.plot(ends, a + b * ends, color=COLOURS[1], label="line through the fastest")
        axis.axhline(a, color=COLOURS[3], linestyle=":", label="attention and norms: stays")
        top = 1.6 * runs.min(1).max()
        axis.set_ylim(0, top)
        if slower := int((runs > top).sum()):  # something else was running
            axis.text(
                0.98,
                0.97,
                f"{slower} of {runs.size} runs above",
                transform=axis.transAxes,
                ha="right",
                va="top",
                fontsize=8,
            )
        at_once = f"{tokens} token{'s' if tokens > 1 else ''} at once"
        axis.set_title(at_once)
        axis.set_xlabel("MLP neurons of the layer")
        share = a / (a + b * widths.max())
        words.append(
            f"{at_once}: {a + b * widths.max():.2f} ms at {widths.max()} neurons, of which {share:.0%} do not depend "
            "on the width"
        )
    axes[0, 0].set_ylabel("time of one decoder layer (ms)")
    axes[0, 0].legend(fontsize=8, loc="lower right")
    figure.alt_text = f"Measured time of a decoder layer against its width, with a straight line. {'; '.join(words)}."
    return figure
