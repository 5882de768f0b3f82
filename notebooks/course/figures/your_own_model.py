"""Figures of lesson 06: the parts of a model that pruning reaches, and the loss at each ratio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.patches import Rectangle

from comp_lib.plots.base import (
    DASHED_LINE,
    GREEN,
    GREY,
    LOSS_LABEL,
    ORANGE,
    Picture,
    figure_with_axes,
    note,
    style,
)
from comp_lib.shape import Shape

from . import spans

# share of the decoder that is removed, loss increase (nats per token), and the ends of its interval
Point = tuple[float, float, float, float]


def plot_reach(before: Shape, after: Shape) -> Picture:
    """Drawing of a model, to scale: what is never removed, and how much of attention and MLPs a plan removes.

    A column is as wide as its share of the parameters. What stays of them is filled, from the bottom.
    """
    figure, axes = figure_with_axes((9.0, 3.0), xlim=(-0.02, 1.02), ylim=(-0.42, 1.3))
    axes.axis("off")
    attention = [sum(shape.kv_groups) * shape.group_parameters for shape in (before, after)]
    mlps = [sum(shape.neurons) * shape.neuron_parameters for shape in (before, after)]
    fixed = before.total_parameters - attention[0] - mlps[0]  # what no width changes: all of it stays
    columns: dict[str, tuple[int, int, Any]] = {  # name: parameters before, after, colour
        "embeddings, head, norms": (fixed, fixed, GREY),
        "attention": (*attention, ORANGE),
        "MLPs": (*mlps, GREEN),
    }
    # where the name of each column stands below it: side of the text, share of the column's width, height
    # the sides and heights differ, so that the names fit even if a column is narrow
    label_spots = (("left", 0.0, -0.14), ("center", 0.5, -0.32), ("right", 1.0, -0.14))
    left = 0.0
    phrases = []
    for (name, (parameters, remaining, colour)), spot in zip(columns.items(), label_spots, strict=True):
        width = parameters / before.total_parameters
        stays = remaining / parameters
        axes.add_patch(Rectangle((left, 0), width, 1, facecolor="none", edgecolor="black", linestyle=":"))
        axes.add_patch(Rectangle((left, 0), width, stays, facecolor=colour, alpha=0.6, edgecolor="black"))
        axes.text(left + width / 2, 0.4, f"{stays:.0%}", ha="center", va="center")
        side, share, height = spot
        label = f"{name}: {parameters / 1e6:,.3g} M"
        axes.text(left + share * width, height, label, ha=side, va="center", fontsize=9)
        left += width
        phrases.append(f"{name}, {width:.0%} of the parameters, of which {stays:.0%} stay")
    title = f"{before.layers} layers; filled: what stays, dotted: what is removed"
    axes.text(0.5, 1.16, title, ha="center", va="center")
    return figure.with_alt_text("Drawing of the parameters of the model, to scale: ", phrases)


def plot_sweep(sweep: Sequence[Point], limit: float) -> Picture:
    """Loss increase against the share removed, with 95% intervals, and the limit of the loss (dashed)."""
    xlabel = "removed, part of the decoder's parameters"
    figure, axes = figure_with_axes((7.5, 3.8), xlabel=xlabel, ylabel=LOSS_LABEL)
    sweep = sorted(sweep)
    removed = [share for share, *_ in sweep]
    means, whiskers = spans([interval for _, *interval in sweep])
    axes.errorbar(removed, means, yerr=whiskers, capsize=4, **style(0) | {"linestyle": "none"})
    axes.set_xticks(removed, [f"{share:.0%}" for share in removed])
    axes.axhline(limit, **DASHED_LINE)
    note(axes, f"your limit, {limit:g} nats", (removed[0], limit), (0, 4), va="bottom", fontsize=9)
    axes.set_ylim(min(0.0, axes.get_ylim()[0]), None)
    within_limit = [share for share, _, _, high in sweep if high < limit]
    title = "No whole interval keeps the limit"
    if within_limit:
        title = f"{max(within_limit):.1%} removed keeps the limit"
    axes.set_title(title)
    phrases = [
        f"{share:.0%} removed {mean:.2f} nats ({low:.2f} to {high:.2f})" for share, mean, low, high in sweep
    ]
    return figure.with_alt_text(f"Loss increase with 95% intervals, and a limit at {limit:g} nats: ", phrases)
