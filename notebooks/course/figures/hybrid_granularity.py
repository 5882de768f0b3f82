"""Figures of planning (lesson 03): what each unit cuts, what a width costs, and what plans came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
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
    labelled_bars,
    log_y,
    note,
    panels,
    plain_ticks,
    style,
)
from comp_lib.shape import Shape

Interval = tuple[float, float, float]  # mean, lower and upper end
LIGHT = "0.87"  # grey of what stays


def plot_units(shape: Shape) -> Picture:
    """What one neuron, one KV group, one sublayer and one layer take out of the seven matrices of a decoder block."""
    cuts = {
        "one MLP neuron": ({"gate", "up", "down"}, shape.neuron_parameters, "a row, a row, a column"),
        "one KV group": ({"q", "k", "v", "o"}, shape.group_parameters, "one head of k and v, its heads of q and o"),
        "one attention (a sublayer)": (
            set("qkvo"),
            shape.kv_groups[0] * shape.group_parameters + shape.hidden,
            "four matrices and a norm",
        ),
        "one layer": ({"q", "k", "v", "o", "gate", "up", "down"}, shape.layer(0), "all of it"),
    }
    figure, axes = panels(1, len(cuts), (11.0, 3.7))
    sizes, whole = _matrices(shape), {"one attention (a sublayer)", "one layer"}
    for panel, (title, (taken, count, what)) in zip(axes, cuts.items(), strict=True):
        for name, (x, y, width, height) in sizes.items():
            gone = name in taken and title in whole
            panel.add_patch(Rectangle((x, y), width, height, facecolor=RED if gone else LIGHT, edgecolor="white"))
            if name in taken and not gone:
                part = max(0.03 * shape.neurons[0], 1) if "neuron" in title else None
                panel.add_patch(Rectangle(*_slice(name, (x, y, width, height), part, shape), facecolor=RED))
            panel.text(x + width / 2, y + height / 2, name, ha="center", va="center", fontsize=10)
        panel.set_title(f"{title}\n{count:,} parameters", fontsize=11)
        panel.set_xlabel(what, fontsize=9)
        panel.set(aspect="equal", xticks=[], yticks=[])
        panel.autoscale_view()
        panel.invert_yaxis()
        panel.grid(False)
        for side in panel.spines.values():
            side.set_visible(False)
    handles = [Rectangle((0, 0), 1, 1, color=colour) for colour in (RED, LIGHT)]
    figure.legend(handles, ["goes", "stays"], loc="outside lower center", ncols=2, frameon=False)
    numbers = (f"{title}: {count:,} parameters ({what})" for title, (_, count, what) in cuts.items())
    return figure.described(
        "Four drawings of the seven matrices of one decoder block, to scale (q, k, v, o of the attention above; gate, "
        "up and down of the MLP below), with what goes in red. ",
        numbers,
    )


def _matrices(shape: Shape) -> dict[str, tuple[float, float, float, float]]:
    """x, y, width and height of each matrix of a block, rows downwards."""
    d, n, gap = shape.hidden, shape.neurons[0], 0.12 * shape.hidden
    heads = shape.kv_groups[0] * shape.head_dim
    queries = heads * shape.group_heads
    tall, wide = max(queries, heads, d), 2 * (d + gap)
    return {
        "q": (0, 0, d, queries),
        "k": (d + gap, 0, d, heads),
        "v": (2 * (d + gap), 0, d, heads),
        "o": (3 * (d + gap), 0, queries, d),
        "gate": (0, tall + gap, d, n),
        "up": (d + gap, tall + gap, d, n),
        "down": (wide, tall + gap, n, d),
    }


def _slice(
    name: str, box: tuple[float, float, float, float], part: float | None, shape: Shape
) -> tuple[tuple[float, float], float, float]:
    """Where in a matrix one unit lies: a band of rows of what produces it, a band of columns of what reads it.

    part: how wide the band is drawn; None: as wide as a KV group is.
    """
    x, y, width, height = box
    groups = shape.kv_groups[0]
    if name in ("down", "o"):
        band = part or width / groups
        return (x + 0.1 * width if part else x, y), band, height
    band = part or height / groups
    return (x, y + 0.1 * height if part else y), width, band


def plot_widths(plan: Plan, neurons: Sequence[int], errors: Sequence[float]) -> Picture:
    """The widths of a plan above, the predicted error of each layer below; both for all layers of the parent.

    neurons: of the parent; errors: put into the stream, a share of its energy.
    """
    figure, (top, bottom) = panels(2, 1, (8.5, 4.4), "x", ylabel=["", "predicted error\n(% of the stream)"])
    words = _widths(top, plan, neurons)
    top.set_title(f"{plan.removed:.1%} of the {plan.of}'s parameters go")
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


def plot_prediction(predicted: Mapping[str, float], measured: Mapping[str, Interval]) -> Picture:
    """Two rows of bars for the same plans: the error that the curves predict, and the loss that came of it.

    predicted: sum over the layers of a share of the stream's energy; measured: (mean, low, high) over the dense model.
    """
    labels = [
        "predicted: error put into the stream\n(% of its energy, sum over the layers)",
        "measured: loss over the dense model\n(nats per token)",
    ]
    names = list(predicted)[::-1]
    figure, axes = panels(1, 2, (9.5, 0.5 * len(names) + 1.4), "y", xlabel=labels)
    losses = {name: mean for name, (mean, _, _) in measured.items()}
    best = [min(values, key=values.__getitem__) for values in (predicted, losses)]
    labelled_bars(axes[0], {name: predicted[name] for name in names}, "{:.1%}", best[0])
    axes[0].set_xlim(0, max(predicted.values()) * 1.2)
    axes[0].xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    labelled_bars(axes[1], {name: losses[name] for name in names}, "", best[1])
    for place, name in enumerate(names):
        mean, low, high = measured[name]
        axes[1].plot([low, high], [place, place], color="black", linewidth=1.5)
        note(axes[1], f"{mean:.2f}", (high, place), (5, 0), va="center")
    axes[1].set_xlim(0, max(high for _, _, high in measured.values()) * 1.15)
    pairs = "; ".join(f"{name} {predicted[name]:.1%} and {losses[name]:.2f}" for name in predicted)
    return figure.described(
        f"Bars for {len(predicted)} plans, predicted error and measured loss with its interval: {pairs}. Least "
        f"predicted error: {best[0]}; lowest loss: {best[1]}."
    )


def plot_narrowing(layers: Sequence[int], readings: Mapping[str, Sequence[float]], gone: int) -> Picture:
    """Each layer narrowed alone by `gone` neurons: several readings of it (the name of each says its unit)."""
    figure, axes = panels(1, len(readings), (3.4 * len(readings), 3.2), ylabel=list(readings))
    names, words = [str(layer) for layer in layers], []  # side by side, though not all layers were tried
    for place, (panel, (name, values)) in enumerate(zip(axes, readings.items(), strict=True)):
        panel.bar(names, values, color=(ORANGE, BLUE, GREEN)[place % 3])
        panel.set_xlabel("decoder layer that was narrowed")
        panel.grid(axis="x", visible=False)
        if "%" in name:
            panel.yaxis.set_major_formatter(PercentFormatter(1.0))
        words.append(f"{' '.join(name.split())} is largest in layer {layers[int(np.argmax(values))]}")
    return figure.described(f"Bars for {len(layers)} decoder layers, each narrowed alone by {gone} neurons: ", words)


def plot_time(points: Mapping[str, Sequence[tuple[float, Interval]]]) -> Picture:
    """Loss against the time of a token, for several families of plans; the intervals are those of the loss.

    points[family]: (time as a share of the dense model's, (mean, low, high)).
    """
    figure, axes = figure_with_axes((8.5, 4.4), xlabel="time of a token (% of the dense model's)", ylabel=LOSS)
    words = []
    for place, (family, pairs) in enumerate(points.items()):
        pairs = sorted(pairs)
        times, means = [time for time, _ in pairs], [mean for _, (mean, _, _) in pairs]
        lows, highs = ([outcome[end] for _, outcome in pairs] for end in (1, 2))
        spread = np.abs(np.array([lows, highs]) - means)
        axes.errorbar(times, means, spread, **style(place), label=family, capsize=2, linewidth=1.2)
        words.append(
            f"{family}: " + ", ".join(f"{mean:.2f} at {time:.0%}" for time, mean in zip(times, means, strict=True))
        )
    log_y(axes)
    axes.set_ylabel(f"{LOSS}, log scale")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.legend(fontsize=9)
    return figure.described("Loss against time. ", words)
