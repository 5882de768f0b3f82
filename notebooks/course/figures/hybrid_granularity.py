"""Figures of planning (lesson 03): the widths of plans, what they cost, and what that does to the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from comp_lib.plan import Plan
from comp_lib.plots.base import BLUE, GREEN, GREY, ORANGE, RED, Picture, figure_with_axes, log_y, note, panels

from . import TIGHT_OFFSETS, name_points


def plot_widths(plan: Plan, neurons: Sequence[int], errors: Sequence[float]) -> Picture:
    """The widths of a plan above, the predicted error of each layer below; both for all layers of the parent.

    neurons: of the parent; errors: put into the stream, a share of its energy.
    """
    figure, (top, bottom) = panels(2, 1, (8.5, 4.4), "x", ylabel=["", "predicted error\n(% of the stream)"])
    widths = _widths(top, plan, neurons)
    hatched = ", hatched layers are dropped" if plan.dropped else ""
    top.set_title(f"{plan.removed:.1%} of the decoder's parameters go; green stays{hatched}", fontsize=11)
    errors_of_kept = [errors[layer] for layer in plan.layers]
    bottom.bar(plan.layers, errors_of_kept, color=ORANGE)
    bottom.set_ylim(0, max(errors_of_kept) * 1.15 + 1e-6)
    bottom.yaxis.set_major_formatter(PercentFormatter(1.0))
    bottom.set_xlabel("decoder layer")
    worst = int(np.argmax(errors_of_kept))
    return figure.with_alt_text(
        f"Bars of the width of each layer, and of its predicted error. {widths} Of those that stay, layer "
        f"{plan.layers[worst]} has the largest predicted error, {errors_of_kept[worst]:.2%}."
    )


def plot_plans(plans: Mapping[str, Plan], neurons: Sequence[int]) -> Picture:
    """The widths of several plans, one below the other."""
    figure, axes = panels(len(plans), 1, (8.5, 1.5 * len(plans) + 0.8), "x")
    sentences = []
    for panel, (name, plan) in zip(axes, plans.items(), strict=True):
        sentences.append(f"{name}: {_widths(panel, plan, neurons)}")
        title = f"{name}: {plan.removed:.1%} of the decoder goes, green stays"
        panel.set_title(title, fontsize=10, loc="left")
    axes[-1].set_xlabel("decoder layer")
    return figure.with_alt_text(f"Widths of all layers under {len(plans)} plans. {' '.join(sentences)}")


def _widths(axes: Axes, plan: Plan, neurons: Sequence[int]) -> str:
    """Bars of the neurons that each layer keeps and loses; returns them in words."""
    axes.bar(range(len(neurons)), neurons, color="lightgrey")
    axes.bar(plan.layers, plan.neurons, color=GREEN)
    dropped = "no layer"
    if plan.dropped:
        heights = [neurons[layer] for layer in plan.dropped]
        axes.bar(plan.dropped, heights, color="white", edgecolor=RED, hatch="///")
        noun = "layers" if len(plan.dropped) > 1 else "layer"
        dropped = f"{noun} {', '.join(map(str, plan.dropped))}"
    axes.set(ylabel="MLP neurons", xlim=(-0.7, len(neurons) - 0.3))
    axes.grid(axis="x", visible=False)
    if len(set(plan.neurons)) == 1:
        return f"{dropped} dropped, {plan.neurons[0]} of {max(neurons)} neurons in every layer that stays."
    narrowest = f"{min(plan.neurons)} (layer {plan.layers[np.argmin(plan.neurons)]})"
    return f"{dropped} dropped, {narrowest} to {max(plan.neurons)} of {max(neurons)} neurons stay in a layer."


def plot_curves(curves: NDArray[np.float64], step: int, named: Sequence[int]) -> Picture:
    """Error curves (layers, K + 1) of all layers, `step` neurons between two points; some are `named`."""
    labels = {
        "xlabel": "neurons removed from the layer",
        "ylabel": "error in the stream\n(% of its energy, log scale)",
    }
    figure, axes = figure_with_axes((7.5, 3.6), **labels)
    removed = step * np.arange(curves.shape[1])
    axes.plot(removed[1:], 100 * curves[:, 1:].T, color="lightgrey", linewidth=0.8)
    phrases = []
    for layer, colour in zip(named, (BLUE, ORANGE, GREEN, RED), strict=False):
        axes.plot(removed[1:], 100 * curves[layer, 1:], color=colour)
        end = (removed[-1], 100 * curves[layer, -1])
        note(axes, f"layer {layer}", end, (5, 0), va="center", color=colour, fontsize=9)
        phrases.append(f"layer {layer} from {curves[layer, 1]:.4%} to {curves[layer, -1]:.2%}")
    axes.set_xlim(0, removed[-1])
    axes.set_title("Removing neurons costs some layers less than others")
    log_y(axes, max_ticks=6)
    opening = f"Error curves of {len(curves)} layers, up to {removed[-1]:,} neurons removed: "
    return figure.with_alt_text(opening, phrases)


def plot_harm(
    errors: NDArray[np.float64], harms: NDArray[np.float64], pair: tuple[int, int], last: int
) -> Picture:
    """The harm of narrowing one layer, against the error that this puts into the stream: both (layers,).

    A line joins the `pair` of layers with the same error; the layer `last` is named too.
    """
    labels = {
        "xlabel": "error in the stream (% of its energy)",
        "ylabel": "harm: divergence (nats, log scale)",
    }
    title = "Equal errors do not mean equal harm"
    figure, axes = figure_with_axes((7.5, 4.2), title=title, yscale="log", **labels)
    axes.plot(100 * errors, harms, "o", color=GREY, markersize=5)
    axes.plot(100 * errors[list(pair)], harms[list(pair)], "o-", color=ORANGE)
    axes.plot(100 * errors[last], harms[last], "o", color=RED)
    log_y(axes, max_ticks=6)
    points = {}
    phrases = []
    for layer in (*pair, last):
        points[f"layer {layer}"] = (100 * errors[layer], harms[layer])
        phrases.append(f"layer {layer} {errors[layer]:.3%} and {harms[layer]:.4f} nats")
    name_points(axes, points, 10, TIGHT_OFFSETS)
    return figure.with_alt_text(f"Error and harm of {len(errors)} layers, each narrowed alone: ", phrases)
