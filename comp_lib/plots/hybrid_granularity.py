"""Figures of planning (lesson 03): where parameters sit, what a width costs in error and time, what plans came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike

from ..plan import Plan
from ..shape import Shape
from .base import ABOVE, BLUE, GREEN, ORANGE, RED, Picture, figure_with_axes, labelled_bars, note, panels, stacked_bar

DEPTHS = mpl.colormaps["cividis"]  # order of the layers; safe for colour blindness


def plot_parameters(shape: Shape) -> Picture:
    """Where the parameters of a whole model sit, as one bar, and those of its first decoder layer, as another."""
    names = "MLP neurons", "KV groups", "norms and output biases", "embeddings, head, last norm"
    sizes = shape.neuron_parameters, shape.group_parameters, shape.layer_parameters, shape.other_parameters
    groups, whole = shape.kv_groups[0], (sum(shape.neurons), sum(shape.kv_groups), shape.layers, 1)
    counts = {f"whole model, {shape.layers} layers": whole, "decoder layer 0": (shape.neurons[0], groups, 1, 0)}
    figure, axes = panels(2, 1, (9.0, 3.4), xlabel=["", "parameters (millions)"])
    shares = []
    for panel, (row, count) in zip(axes, counts.items(), strict=True):
        values = np.multiply(count, sizes)
        stacked_bar(panel, row, dict(zip(names, values / 1e6, strict=True)), (2, 0, 1, 7))
        panel.set_xlim(0, values.sum() / 1e6)
        shares.append(values / values.sum())
    axes[0].legend(ncols=4, fontsize=9, **ABOVE)
    (neurons, attention, _, rest), (own, heads, *_) = shares
    return figure.described(
        f"Two stacked bars. Of {shape.total:,} parameters, {neurons:.0%} belong to MLP neurons, {attention:.0%} to KV "
        f"groups, {rest:.0%} to the embeddings and the head. In one decoder layer the {shape.neurons[0]} neurons own "
        f"{own:.0%}, the {groups} KV groups ({groups * shape.group_heads} query heads of {shape.head_dim} numbers) "
        f"{heads:.0%}."
    )


def plot_error_curves(curves: Mapping[str, ArrayLike], neurons: int, marked: Sequence[int] = ()) -> Picture:
    """Relative error of each layer against the neurons removed; `marked` layers are named at the right end.

    curves: counts (K,) and errors (layers, K), as `lessons.dense_stream.error_curves` returns them.
    """
    counts, errors = np.asarray(curves["counts"]), np.asarray(curves["errors"])
    layers, last = len(errors), errors[:, -1]
    depth = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, max(layers - 1, 1)), DEPTHS)
    ylabel = "error left after the refit\n(% of the MLP's output energy)"
    figure, axes = figure_with_axes((8.5, 4.6), xlabel=f"neurons removed, of {neurons:,}", ylabel=ylabel, yscale="log")
    for layer in range(layers):
        width, order = (2.4, 3) if layer in marked else (1.0, 2)
        axes.plot(counts[1:], errors[layer, 1:], color=depth.to_rgba(np.array(layer)), linewidth=width, zorder=order)
    for layer in marked:
        note(axes, f" layer {layer}", (counts[-1], last[layer]), va="center", fontsize=9)
    axes.set_xlim(0, counts[-1] * 1.12)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    figure.colorbar(depth, ax=axes, label="decoder layer", pad=0.01)
    flat, steep = int(np.nanargmin(last)), int(np.nanargmax(last))
    return figure.described(
        f"Error curves of {layers} decoder layers on a logarithmic axis, each rising with the neurons removed. With "
        f"{counts[-1]} of {neurons} neurons gone the error is smallest in layer {flat}, {last[flat]:.1%}, and largest "
        f"in layer {steep}, {last[steep]:.1%}."
    )


def plot_widths(
    plan: Plan, neurons: Sequence[int], errors: Sequence[float], title: str = "", limit: float | None = None
) -> Picture:
    """The widths of a plan above, the predicted error of each layer below; both for all layers of the parent.

    neurons: of the parent; errors: relative, 1 for a dropped layer; limit: top of the lower axis, as a fraction.
    """
    figure, (top, bottom) = panels(2, 1, (8.5, 4.4), "x", ylabel=["", "predicted error\n(% of its energy)"])
    words = _widths(top, plan, neurons)
    top.set_title(title or f"{plan.removed:.1%} of the {plan.of}'s parameters go")
    top.legend(ncols=3, fontsize=9, **ABOVE | {"bbox_to_anchor": (0.5, -0.2)})  # between the two
    kept = [errors[layer] for layer in plan.layers]
    bottom.bar(plan.layers, kept, color=ORANGE)
    bottom.set_ylim(0, max(kept) * 1.15 + 1e-6 if limit is None else limit)
    bottom.yaxis.set_major_formatter(PercentFormatter(1.0))
    bottom.set_xlabel("decoder layer of the parent (a dropped one has error 100%)")
    worst = int(np.argmax(kept))
    return figure.described(
        f"Bars of the width of each layer, and of its predicted error. {words} Of those that stay, layer "
        f"{plan.layers[worst]} has the largest predicted error, {kept[worst]:.1%}."
    )


def plot_plans(plans: Mapping[str, Plan], neurons: Sequence[int]) -> Picture:
    """The widths of several plans, one below the other."""
    figure, axes = panels(len(plans), 1, (8.5, 1.5 * len(plans) + 0.8), "x")
    handles, words = list[Any](), []
    for panel, (name, plan) in zip(axes, plans.items(), strict=True):
        words.append(f"{name}: {_widths(panel, plan, neurons)}")
        panel.set_title(f"{name}: {plan.removed:.1%} of the {plan.of} goes", fontsize=10, loc="left")
        handles = max(handles, panel.get_legend_handles_labels()[0], key=len)  # some drop no layer
    place = ABOVE | {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0)}  # titles are on the left
    axes[0].legend(handles=handles, ncols=3, fontsize=9, **place)
    axes[-1].set_xlabel("decoder layer of the parent")
    return figure.described(f"Widths of all layers under {len(plans)} plans. {' '.join(words)}")


def _widths(axes: Axes, plan: Plan, neurons: Sequence[int]) -> str:
    """Bars of the neurons that each layer keeps and loses; returns them in words."""
    axes.bar(range(len(neurons)), neurons, color="lightgrey", label="removed")
    axes.bar(plan.layers, plan.neurons, color=GREEN, label="kept")
    dropped = "no layer"
    if plan.dropped:
        heights = [neurons[layer] for layer in plan.dropped]
        axes.bar(plan.dropped, heights, color="white", edgecolor=RED, hatch="///", label="layer dropped")
        dropped = f"layer{'s' if len(plan.dropped) > 1 else ''} {', '.join(map(str, plan.dropped))}"
    axes.set(ylabel="MLP neurons", xlim=(-0.7, len(neurons) - 0.3))
    axes.grid(axis="x", visible=False)
    if len(set(plan.neurons)) == 1:
        return f"{dropped} dropped, {plan.neurons[0]} of {max(neurons)} neurons in every layer that stays."
    least = f"{min(plan.neurons)} (layer {plan.layers[np.argmin(plan.neurons)]})"
    return f"{dropped} dropped, {least} to {max(plan.neurons)} of {max(neurons)} neurons stay in a layer."


def plot_prediction(predicted: Mapping[str, float], measured: Mapping[str, float], dense: float) -> Picture:
    """Two rows of bars for the same plans: the error that the curves predict, and the perplexity that came of it.

    predicted: mean relative error of a layer, as a fraction; measured and dense: perplexities.
    """
    labels = [
        "predicted: mean error of an MLP (% of its energy)",
        "measured: perplexity after pruning (lower is better)",
    ]
    names, best = list(predicted)[::-1], []
    figure, axes = panels(1, 2, (9.5, 0.5 * len(names) + 1.2), "y", xlabel=labels)
    for panel, values, form in zip(axes, (predicted, measured), ("{:.1%}", "{:.1f}"), strict=True):
        best.append(min(values, key=values.__getitem__))
        labelled_bars(panel, {name: values[name] for name in names}, form, best[-1])
        panel.set_xlim(0, max(values.values()) * 1.2)
    axes[0].xaxis.set_major_formatter(PercentFormatter(1.0))
    axes[1].axvline(dense, color=RED, linestyle="--")
    axes[1].set_title("dense model", x=dense / axes[1].get_xlim()[1], fontsize=9, color=RED, pad=3)
    pairs = "; ".join(f"{name} {predicted[name]:.1%} and {measured[name]:.1f}" for name in predicted)
    return figure.described(
        f"Bars for {len(predicted)} plans, predicted error and measured perplexity: {pairs}. Dense: {dense:.1f}. Least "
        f"predicted error: {best[0]}; lowest perplexity: {best[1]}."
    )


def plot_narrowing(layers: Sequence[int], error: Sequence[float], harm: Sequence[float], gone: int) -> Picture:
    """Each layer narrowed alone by `gone` neurons: its own relative error above, what the model loses below."""
    labels = ["error of the layer\n(% of its energy)", "loss of the model\n(nats per token)"]
    figure, (top, bottom) = panels(2, 1, (8.5, 4.6), "x", ylabel=labels)
    names = [str(layer) for layer in layers]  # side by side, though not all layers were tried
    top.bar(names, error, color=ORANGE)
    top.yaxis.set_major_formatter(PercentFormatter(1.0))
    top.set_title(f"One layer alone loses {gone} neurons")
    bottom.bar(names, harm, color=BLUE)
    bottom.axhline(0.0, color="black", linewidth=0.8)
    bottom.set_xlabel("decoder layer that was narrowed")
    for panel in (top, bottom):
        panel.grid(axis="x", visible=False)
    local, real = int(np.argmax(error)), int(np.argmax(harm))
    return figure.described(
        f"Two rows of bars over {len(layers)} decoder layers, each narrowed alone by {gone} neurons. Its own error is "
        f"largest in layer {layers[local]} ({error[local]:.1%}), where the model's loss rises by {harm[local]:.3f} "
        f"nats. The loss rises most for layer {layers[real]}, by {harm[real]:.3f} nats, at an error of "
        f"{error[real]:.1%}."
    )


def plot_latency(timed: Mapping[int, Mapping[str, ArrayLike]], lines: Mapping[int, tuple[float, float]]) -> Picture:
    """Milliseconds of a decoder layer against its width, one panel for each number of tokens; points are single runs.

    timed: for each number of tokens, widths (W,) and milliseconds (W, repeats); lines: (a, b) of a + b n for each.
    """
    figure, axes = panels(1, len(timed), (4.6 * len(timed), 3.6), xlabel="MLP neurons of the layer")
    words = []
    for panel, (tokens, times) in zip(axes, timed.items(), strict=True):
        widths, runs, (a, b) = np.asarray(times["widths"]), np.asarray(times["milliseconds"]), lines[tokens]
        widest, whole = widths.max(), a + b * widths.max()
        panel.scatter(np.repeat(widths, runs.shape[1]), runs.ravel(), color=BLUE, s=14, alpha=0.5, label="runs")
        panel.plot([0, widest], [a, whole], color=ORANGE, label="line through the fastest")
        panel.axhline(a, color=RED, linestyle=":", label="attention and norms: stays")
        top = 1.6 * runs.min(1).max()
        if slower := int((runs > top).sum()):  # something else was running
            above = f"{slower} of {runs.size} runs above"
            panel.text(0.98, 0.97, above, fontsize=8, transform=panel.transAxes, ha="right", va="top")
        at_once = f"{tokens} token{'s' if tokens > 1 else ''} at once"
        panel.set(title=at_once, ylim=(0, top))
        share = f"{a / whole:.0%} do not depend on the width"
        words.append(f"{at_once}: {whole:.2f} ms at {widest} neurons, of which {share}")
    axes[0].set_ylabel("time of one decoder layer (ms)")
    axes[0].legend(fontsize=8, loc="lower right")
    return figure.described("Measured time of a decoder layer against its width, with a straight line. ", words)
