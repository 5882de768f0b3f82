"""Figures of planning (lesson 03): the widths of plans, what they cost, and what that does to the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from comp_lib.evaluation.confidence import confidence_interval
from comp_lib.hybrid_granularity.plan import Plan
from comp_lib.reports.plots.base import GREEN, GREY, ORANGE, RED, Picture, figure_with_axes, note, panels


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


def plot_divergence(
    errors: Mapping[int, float], divergences: Mapping[int, NDArray[np.float64]], named: Sequence[int]
) -> Picture:
    """How far narrowing one layer alone moves the answers, against the error that this puts into the stream.

    errors: of each layer that was tried, a share of the stream's energy; divergences: layer -> (texts,), in
    nats. The mean is drawn, with a whisker for its 95% interval. The layers `named` bear their numbers.
    """
    labels = {
        "xlabel": "error in the stream (% of its energy)",
        "ylabel": "divergence of the answers (nats per token)",
    }
    figure, axes = figure_with_axes((7.5, 4.2), **labels)
    phrases = []
    for layer, error in errors.items():
        mean = float(divergences[layer].mean())
        low, high = confidence_interval(divergences[layer])
        colour = ORANGE if layer in named else GREY
        whisker = [[mean - low], [high - mean]]
        axes.errorbar(
            [100 * error], [mean], yerr=whisker, fmt="o", color=colour, markersize=5, capsize=2, lw=1
        )
        if layer in named:
            note(axes, f"layer {layer}", (100 * error, high), (0, 3), ha="center", va="bottom", fontsize=10)
            phrases.append(f"layer {layer} {error:.3%} and {mean:.4f} nats ({low:.4f} to {high:.4f})")
    axes.set_ylim(bottom=0)
    return figure.with_alt_text(
        f"Error and divergence of {len(errors)} layers, each narrowed alone, with 95% intervals over texts: ",
        phrases,
    )
