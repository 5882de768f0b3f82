"""Figures of lesson 06: what pruning reaches of a model, its loss at each ratio and on each kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.patches import Rectangle

from comp_lib.decoder.shape import Shape
from comp_lib.reports.plots.base import (
    BLUE,
    DASHED_LINE,
    GREEN,
    GREY,
    LEGEND_ABOVE,
    LOSS_LABEL,
    ORANGE,
    Picture,
    figure_with_axes,
    note,
    style,
)

from . import TITLE, Interval, spans

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
    title = f"{before.layer_count} layers; filled: what stays, dotted: what is removed"
    axes.text(0.5, 1.16, title, ha="center", va="center")
    return figure.with_alt_text("Drawing of the parameters of the model, to scale: ", phrases)


def plot_sweep(sweep: Sequence[Point], limit: float, title: str = "") -> Picture:
    """Loss increase against the share removed, with 95% intervals, and the limit of the loss (dashed)."""
    xlabel = "removed, part of the decoder's parameters"
    figure, axes = figure_with_axes((7.5, 3.8), xlabel=xlabel, ylabel=LOSS_LABEL)
    sweep = sorted(sweep)
    removed = [share for share, *_ in sweep]
    means, whiskers = spans([interval for _, *interval in sweep])
    axes.errorbar(removed, means, yerr=whiskers, capsize=4, **style(0) | {"linestyle": "none"})
    axes.set_xticks(removed, [f"{share:.1%}" for share in removed])
    axes.axhline(limit, **DASHED_LINE)
    note(axes, f"your limit, {limit:g} nats", (removed[0], limit), (0, 4), va="bottom", fontsize=9)
    axes.set_ylim(min(0.0, axes.get_ylim()[0]), None)
    axes.set_title(title)
    phrases = [
        f"{share:.0%} removed {mean:.2f} nats ({low:.2f} to {high:.2f})" for share, mean, low, high in sweep
    ]
    return figure.with_alt_text(f"Loss increase with 95% intervals, and a limit at {limit:g} nats: ", phrases)


def plot_kinds(rises: Mapping[str, Interval], limit: float, title: str = "") -> Picture:
    """Rise of the loss on each kind of text, with 95% intervals, beside the limit and the dense model."""
    xlabel = "rise of the loss over the dense model (nats per token)"
    figure, axes = figure_with_axes((8.0, 0.4 * len(rises) + 1.7), xlabel=xlabel)
    means, whiskers = spans(list(rises.values()))
    axes.errorbar(
        means, range(len(rises)), xerr=whiskers, fmt="o", color=BLUE, capsize=3, label="95% interval"
    )
    axes.axvline(0.0, color=GREY, linestyle=":", label="the dense model")
    axes.axvline(limit, **DASHED_LINE | {"label": f"your limit, {limit:g} nats"})
    axes.set_yticks(range(len(rises)), list(rises))
    axes.set_ylim(len(rises) - 0.5, -0.5)
    axes.set_title(title, pad=TITLE)
    axes.legend(ncols=3, fontsize=9, **LEGEND_ABOVE)
    phrases = [f"{kind} {mean:+.2f} ({low:+.2f} to {high:+.2f})" for kind, (mean, low, high) in rises.items()]
    return figure.with_alt_text(f"Rise of the loss, with 95% intervals and a limit at {limit:g}: ", phrases)
