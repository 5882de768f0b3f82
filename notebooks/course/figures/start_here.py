"""Pictures of a whole model (lessons 00 and 06): at first sight, after pruning, and beside the dense one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from comp_lib.plots.base import (
    ABOVE,
    BLUE,
    DASHED,
    GREEN,
    GREY,
    ORANGE,
    RED,
    Numbers,
    Picture,
    arrow,
    figure_with_axes,
    note,
)
from comp_lib.shape import Shape

LIGHT = "#e8e8e8"  # what stays of a matrix in a drawing
DWARFED = 5  # times the median: a value beyond needs a logarithmic axis
Spread = tuple[float, float, float]  # median, smallest, largest


def plot_block(shape: Shape) -> Picture:
    """A drawing of one decoder layer: what reads the residual stream, what writes to it, and what three cuts take.

    In colour one neuron and one KV group, in a frame the whole layer. There are more neurons than the drawing has.
    """
    figure, axes = figure_with_axes((10.0, 5.6), xlim=(0, 100), ylim=(0, 56))
    axes.axis("off")
    axes.add_patch(Rectangle((4.5, 13), 91, 36.5, fill=False, edgecolor=RED, linestyle="--", linewidth=1.5))
    arrow(axes, (0, 46), (100, 46), linewidth=4, color="black")
    axes.text(0, 51.5, f"the residual stream: {shape.hidden:,} numbers for each token", fontsize=10)
    axes.text(100, 51.5, "to the next layer", ha="right", fontsize=10)
    groups, neurons = min(shape.kv_groups[0], 6), 8
    _sublayer(axes, 7, {"q_proj": 15, "k_proj": 8, "v_proj": 8}, ("attention", "heads", "o_proj"), ORANGE, groups)
    _sublayer(axes, 54, {"gate_proj": 15, "up_proj": 15}, ("SiLU(gate) x up", "neurons", "down_proj"), GREEN, neurons)
    cuts = {
        f"one neuron ({shape.neuron_parameters:,} parameters): its row of gate_proj and of up_proj, "
        "its column of down_proj": GREEN,
        f"one KV group ({shape.group_parameters:,}): its rows of q_proj ({shape.group_heads} query heads), k_proj and "
        "v_proj, its columns of o_proj": ORANGE,
        f"one layer ({shape.layer(0):,}): all in the frame; the stream passes by unchanged": RED,
    }
    for place, (text, colour) in enumerate(cuts.items()):
        axes.add_patch(Rectangle((4.5, 8.3 - 3.8 * place), 2, 2, color=colour))
        axes.text(8, 9.3 - 3.8 * place, text, va="center", fontsize=9)
    return figure.described(
        "Drawing of one decoder layer. The residual stream runs from left to right. Attention reads it through a norm, "
        "q_proj, k_proj and v_proj, and writes to it through o_proj; then the MLP reads it through a norm, gate_proj "
        "and up_proj, and writes to it through down_proj. What a cut takes: ",
        cuts,
    )


def _sublayer(
    axes: Axes, left: float, readers: Mapping[str, float], names: tuple[str, str, str], colour: Any, blocks: int
) -> None:
    """One of the two: a norm, matrices that read (heights by name), what is done, and the matrix that writes."""
    words: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9}
    small, (done, units, writer) = words | {"fontsize": 8}, names
    centres = [left + 2.5 + place * 14 / (len(readers) - 1) * 0.93 for place in range(len(readers))]
    arrow(axes, (left + 2.5, 46), (left + 2.5, 42.5))
    axes.text(left + 2.5, 41, "norm", bbox={"facecolor": "white", "edgecolor": "black", "pad": 3}, **words)
    axes.plot([left + 2.5, left + 2.5, centres[-1]], [39.4, 37.5, 37.5], color=GREY, linewidth=1)
    for centre, (name, height) in zip(centres, readers.items(), strict=True):
        arrow(axes, (centre, 37.5), (centre, 27 + height / 2))
        _matrix(axes, (centre - 1.8, 27 - height / 2), (3.6, height), colour, blocks, rows=True)
        axes.text(centre, 17.2, name, **small)
    arrow(axes, (left + 18.5, 27), (left + 28, 27))
    axes.text(left + 23, 29, done, **words)
    axes.text(left + 23, 25, units, **small)
    _matrix(axes, (left + 28.5, 24.2), (10.5, 5.6), colour, blocks, rows=False)
    axes.text(left + 33.7, 21.5, writer, fontweight="bold", **words)
    axes.text(left + 33.7, 18.6, "writes to the stream", **small)
    arrow(axes, (left + 33.7, 30), (left + 33.7, 44.4), linewidth=3, color=BLUE)
    axes.text(left + 33.7, 46, "+", bbox={"boxstyle": "circle", "facecolor": "white", "edgecolor": BLUE}, **words)


def _matrix(
    axes: Axes, corner: tuple[float, float], size: tuple[float, float], colour: Any, blocks: int, rows: bool
) -> None:
    """A matrix as a box of blocks, which are its rows or its columns; the second has the colour."""
    (x, y), (width, height) = corner, size
    part = (width, height / blocks) if rows else (width / blocks, height)
    for place in range(blocks):
        at = (x, y + height - (place + 1) * part[1]) if rows else (x + place * part[0], y)
        axes.add_patch(Rectangle(at, *part, facecolor=colour if place == 1 else LIGHT, edgecolor="white"))
    edge: dict[str, Any] = {"edgecolor": "black", "linewidth": 1} if rows else {"edgecolor": BLUE, "linewidth": 2}
    axes.add_patch(Rectangle(corner, width, height, fill=False, **edge))


def plot_comparison(less: Mapping[str, float | Spread], more: Mapping[str, float | Spread]) -> Picture:
    """Pruned / dense of each measure, as bars in percent: of those `less` is better, of those `more`, in two colours.

    A measure that came with its spread gets whiskers.
    """
    ratios = {**less, **more}
    xlabel = "pruned model, in % of the dense one (dashed: the same)"
    figure, axes = figure_with_axes((8.0, 1.6 + 0.5 * len(ratios)), xlabel=xlabel)
    spreads = {name: value if isinstance(value, tuple) else (value,) * 3 for name, value in ratios.items()}
    middles, lows, highs = 100 * np.array(list(spreads.values())).T
    whiskers = np.where(lows < highs, [middles - lows, highs - middles], np.nan)
    groups = (("less is better", ORANGE, slice(len(less))), ("more is better", BLUE, slice(len(less), None)))
    for label, colour, part in groups:
        bars: dict[str, Any] = {"xerr": whiskers[:, part], "color": colour, "height": 0.6, "capsize": 4, "label": label}
        axes.barh(list(spreads)[part], middles[part], **bars)
    axes.axvline(100, **DASHED)
    for place, (middle, high) in enumerate(zip(middles, highs, strict=True)):
        axes.text(high + 0.02 * highs.max(), place, f"{middle:.0f}%", va="center")
    axes.set_xlim(0, 1.12 * highs.max())
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.legend(ncols=2, **ABOVE)
    words = [
        f"{name} {middle:.0%}" + (f" (from {low:.0%} to {high:.0%})" if low < high else "")
        for name, (middle, low, high) in spreads.items()
    ]
    directions = f"Less is better of {', '.join(less)}; more is better of {', '.join(more)}."
    return figure.described(f"Bar chart of the pruned model in percent of the dense one. {directions} Values: ", words)


def plot_variants(runs: Mapping[str, Numbers], marked: str) -> Picture:
    """Extra loss of each variant, a dot for each seed, from the top; the band spans the `marked` one's seeds."""
    figure, axes = figure_with_axes((8.5, 1.2 + 0.36 * len(runs)), xlabel="increase of the loss (nats per token)")
    low, high = min(runs[marked]), max(runs[marked])
    axes.axvspan(low, high, color=GREEN, alpha=0.2, label=f"seeds of {marked}")
    for place, (name, values) in enumerate(runs.items()):
        axes.scatter(values, [place] * len(values), color=GREEN if name == marked else BLUE, zorder=2)
        number = f"{min(values):.2f}" if len(values) == 1 else f"mean {np.mean(values):.2f}"
        note(axes, number, (max(values), place), (7, 0), va="center")
    axes.set_yticks(range(len(runs)), list(runs))
    axes.set_xlim(min(0.0, 1.1 * min(map(min, runs.values()))), 1.1 * max(map(max, runs.values())))
    axes.invert_yaxis()
    axes.legend(**ABOVE)
    words = [
        f"{name} {np.mean(values):.3f}"
        + (f" ({min(values):.3f} to {max(values):.3f}, {len(values)} seeds)" if len(values) > 1 else "")
        for name, values in runs.items()
    ]
    return figure.described("Dots of the increase of the loss, nats per token: ", words)
