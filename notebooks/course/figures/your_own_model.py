"""Figures of lesson 06: what of a model pruning can reach, and what was lost at each ratio, with its intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.patches import Rectangle

from comp_lib.plots.base import DASHED, GREEN, GREY, LOSS, ORANGE, Picture, figure_with_axes, note, style
from comp_lib.shape import Shape

from . import spans

SIDES = (
    ("left", 0.0),
    ("center", 0.5),
    ("right", 1.0),
)  # of columns, where their names stand: one may be narrow
Point = tuple[
    float, float, float, float
]  # removed (share of the decoder), loss increase (nats per token), low, high


def plot_reach(before: Shape, after: Shape) -> Picture:
    """Drawing of a model, to scale: what never goes, and how much of attention and MLPs a plan takes.

    A column is as wide as its part of the parameters; of its height, what stays is filled.
    """
    figure, axes = figure_with_axes((9.0, 3.0), xlim=(-0.02, 1.02), ylim=(-0.42, 1.3))
    axes.axis("off")
    attentions = [sum(shape.kv_groups) * shape.group_parameters for shape in (before, after)]
    mlps = [sum(shape.neurons) * shape.neuron_parameters for shape in (before, after)]
    fixed = before.total - attentions[0] - mlps[0]  # what no width changes: all of it stays
    parts: dict[str, tuple[int, int, Any]] = {
        "embeddings, head, norms": (fixed, fixed, GREY),
        "attention": (*attentions, ORANGE),
        "MLPs": (*mlps, GREEN),
    }
    left = 0.0
    words: list[str] = []
    for name, (whole, rest, colour) in parts.items():
        width, stays = whole / before.total, rest / whole
        axes.add_patch(Rectangle((left, 0), width, 1, facecolor="none", edgecolor="black", linestyle=":"))
        axes.add_patch(Rectangle((left, 0), width, stays, facecolor=colour, alpha=0.6, edgecolor="black"))
        axes.text(left + width / 2, 0.4, f"{stays:.0%}", ha="center", va="center")
        side, place = SIDES[len(words)]
        label = f"{name}: {whole / 1e6:,.3g} M"
        axes.text(
            left + place * width, -0.14 if len(words) != 1 else -0.32, label, ha=side, va="center", fontsize=9
        )
        left += width
        words.append(f"{name}, {width:.0%} of the parameters, of which {stays:.0%} stay")
    title = f"{before.layers} layers; filled: what stays, dotted: what is removed"
    axes.text(0.5, 1.16, title, ha="center", va="center")
    return figure.described("Drawing of the parameters of the model, to scale: ", words)


def plot_sweep(sweep: Sequence[Point], limit: float) -> Picture:
    """Loss increase against the part removed, with 95% intervals, and the loss that may not be passed (dashed)."""
    figure, axes = figure_with_axes(
        (7.5, 3.8), xlabel="removed, part of the decoder's parameters", ylabel=LOSS
    )
    removed, *interval = zip(*sorted(sweep), strict=True)
    y, apart = spans(list(zip(*interval, strict=True)))
    axes.errorbar(removed, y, yerr=apart, capsize=4, **style(0) | {"linestyle": "none"})
    axes.set_xticks(removed, [f"{part:.0%}" for part in removed])
    axes.axhline(limit, **DASHED)
    note(axes, f"your limit, {limit:g} nats", (removed[0], limit), (0, 4), va="bottom", fontsize=9)
    axes.set_ylim(min(0.0, axes.get_ylim()[0]), None)
    passed = [part for part, _, _, high in sweep if high < limit]
    axes.set_title(
        f"{max(passed):.1%} removed keeps the limit" if passed else "No whole interval keeps the limit"
    )
    words = [f"{a:.0%} removed {b:.2f} nats ({c:.2f} to {d:.2f})" for a, b, c, d in sorted(sweep)]
    return figure.described(f"Loss increase with 95% intervals, and a limit at {limit:g} nats: ", words)
