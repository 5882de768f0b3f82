"""Figures of planning (lesson 03): what each unit cuts, what a width costs, and what plans came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from comp_lib.plan import Plan
from comp_lib.plots.base import (
    ABOVE,
    BLUE,
    GREEN,
    LOSS,
    ORANGE,
    RED,
    Picture,
    figure_with_axes,
    log_y,
    panels,
    plain_ticks,
    style,
)

from . import Interval, spans


def plot_widths(plan: Plan, neurons: Sequence[int], errors: Sequence[float]) -> Picture:
    """The widths of a plan above, the predicted error of each layer below; both for all layers of the parent.

    neurons: of the parent; errors: put into the stream, a share of its energy.
    """
    figure, (top, bottom) = panels(2, 1, (8.5, 4.4), "x", ylabel=["", "predicted error\n(% of the stream)"])
    words = _widths(top, plan, neurons)
    top.set_title(f"{plan.removed:.1%} of the decoder's parameters go")
    top.legend(ncols=3, fontsize=9, **ABOVE | {"bbox_to_anchor": (0.5, -0.2)})  # between the two
    kept = [errors[layer] for layer in plan.layers]
    bottom.bar(plan.layers, kept, color=ORANGE)
    bottom.set_ylim(0, max(kept) * 1.15 + 1e-6)
    bottom.yaxis.set_major_formatter(PercentFormatter(1.0))
    bottom.set_xlabel("decoder layer of the parent")
    worst = int(np.argmax(kept))
    return figure.described(
        f"Bars of the width of each layer, and of its predicted error. {words} Of those that stay, layer "
        f"{plan.layers[worst]} has the largest predicted error, {kept[worst]:.2%}."
    )


def plot_plans(plans: Mapping[str, Plan], neurons: Sequence[int]) -> Picture:
    """The widths of several plans, one below the other."""
    figure, axes = panels(len(plans), 1, (8.5, 1.5 * len(plans) + 0.8), "x")
    handles, words = list[Any](), []
    for panel, (name, plan) in zip(axes, plans.items(), strict=True):
        words.append(f"{name}: {_widths(panel, plan, neurons)}")
        panel.set_title(f"{name}: {plan.removed:.1%} of the decoder goes", fontsize=10, loc="left")
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


def plot_hybrids(outcomes: Mapping[str, Mapping[str, Interval]], reference: str) -> Picture:
    """Loss of each plan with its interval, a panel for each budget; the first panel's best is at the top.

    outcomes[budget][plan]: (mean, low, high), nats per token over the dense model; reference: a plan to compare with.
    """
    first = next(iter(outcomes.values()))
    names = sorted(first, key=lambda name: -first[name][0])
    figure, axes = panels(1, len(outcomes), (11.0, 0.36 * len(names) + 1.8), "y")
    words = []
    for panel, (budget, table) in zip(axes, outcomes.items(), strict=True):
        for name, (mean, low, high) in table.items():
            colour = GREEN if name == reference else ORANGE if "neurons" not in name else BLUE
            place = names.index(name)
            panel.plot([low, high], [place, place], color=colour, linewidth=2.2)
            panel.plot([mean], [place], "o", color=colour, markersize=6)
        if reference in table:
            panel.axvline(table[reference][0], color=GREEN, linestyle=":", linewidth=1.2)
        panel.set_xscale("log")
        plain_ticks(panel.xaxis, panel.get_xlim(), most=5)
        panel.set_title(budget, fontsize=11)
        best, worst = (choose(table, key=lambda name: table[name][0]) for choose in (min, max))
        words.append(f"{budget}: best is {best} ({table[best][0]:.2f}), worst {worst} ({table[worst][0]:.2f})")
        if reference in table:
            words[-1] += f", {reference} has {table[reference][0]:.2f}"
    axes[0].set_yticks(range(len(names)), names)
    colours = {"one width for all neurons": GREEN, "other widths": BLUE, "whole parts go as well": ORANGE}
    handles = [Line2D([], [], marker="o", color=colour, label=label) for label, colour in colours.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    figure.supxlabel("loss over the dense model (nats per token, 95% interval over windows; bent scale)", fontsize=10)
    return figure.described(f"Dots with intervals for {len(names)} plans under {len(outcomes)} budgets. ", words)


def plot_time(points: Mapping[str, Sequence[tuple[float, Interval]]]) -> Picture:
    """Loss against the time of a token, for several families of plans; the intervals are those of the loss.

    points[family]: (time as a share of the dense model's, (mean, low, high)).
    """
    figure, axes = figure_with_axes((8.5, 4.4), xlabel="time of a token (% of the dense model's)", ylabel=LOSS)
    words = []
    for place, (family, pairs) in enumerate(points.items()):
        pairs = sorted(pairs)
        times, outcomes = zip(*pairs, strict=True)
        means, apart = spans(outcomes)
        axes.errorbar(times, means, apart, **style(place), label=family, capsize=2, linewidth=1.2)
        words.append(
            f"{family}: " + ", ".join(f"{mean:.2f} at {time:.0%}" for time, mean in zip(times, means, strict=True))
        )
    log_y(axes)
    axes.set_ylabel(f"{LOSS}, log scale")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.legend(fontsize=9)
    return figure.described("Loss against time. ", words)
