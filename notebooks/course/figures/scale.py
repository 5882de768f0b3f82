"""Figures of pruning from disk to disk: what is held, what it costs, and how sums are shared (lessons 09 and 09b)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.ticker import LogLocator, NullFormatter

from comp_lib.compare.figures import Points
from comp_lib.plots.base import (
    ABOVE,
    BLUE,
    COLOURS,
    DASHED,
    GREEN,
    GREY,
    ORANGE,
    Picture,
    figure_with_axes,
    note,
    panels,
)
from comp_lib.system.clock import PHASES

MIB, GIB = 2**20, 2**30


def plot_one_layer(layers: int = 7, current: int = 3) -> Picture:
    """A drawing: the model's file, the one layer in memory with what stays beside it, and the new model's file."""
    figure, axes = figure_with_axes((8.5, 3.5), xlim=(0, 17), ylim=(-0.9, layers + 0.8))
    axes.axis("off")
    for index in range(layers):
        height = layers - 1 - index
        _box(axes, (0.3, height), (3.2, 0.8), GREY if index < current else BLUE, f"layer {index}")
        if index < current:
            _box(axes, (13.6, height), (2.5, 0.8), GREEN, f"layer {index}")
        else:
            empty = Rectangle((13.6, height), 2.5, 0.8, fill=False, linestyle=":", edgecolor="black")
            axes.add_patch(empty)
    middle = layers - 1 - current
    _box(axes, (6.9, middle), (3.2, 0.8), ORANGE, f"layer {current}")
    frame = FancyBboxPatch((5.6, 0.2), 5.8, layers - 0.6, boxstyle="round,pad=0.2", fill=False, edgecolor="black")
    axes.add_patch(frame)
    axes.text(8.5, layers - 1.4, "hidden states of the text", ha="center", color="black")
    axes.text(8.5, layers - 2.2, "(all layers share them)", ha="center", color="black", fontsize=8)
    axes.text(8.5, middle - 1.0, "sums over the text", ha="center", color="black")
    axes.text(8.5, middle - 1.8, "(of this layer alone)", ha="center", color="black", fontsize=8)
    for start, end, word in (((3.6, 6.8), (3.6, 6.8), "read"), ((10.2, 13.5), (10.2, 13.5), "write")):
        axes.annotate("", (end[1], middle + 0.4), (start[0], middle + 0.4), arrowprops={"arrowstyle": "->", "lw": 2})
        axes.text(4.55 if word == "read" else 12.5, middle + 0.6, word, ha="center")
    for x, title in ((1.9, "file of the model"), (8.5, "memory"), (14.85, "file of the new model")):
        axes.text(x, layers + 0.15, title, ha="center", weight="bold")
    axes.text(14.85, -0.6, "a journal says what is done", ha="center", fontsize=8)
    return figure.described(
        f"A drawing of the walk from disk to disk. Left, the file of a model with {layers} layers; right, the file of "
        f"the new model, in which {current} layers are done and narrower. In memory between them: layer {current} "
        "alone, the hidden states of the text, and the sums over the text of this layer."
    )


def _box(axes: Axes, corner: tuple[float, float], size: tuple[float, float], colour: Any, words: str) -> None:
    """A filled box with words in it."""
    axes.add_patch(Rectangle(corner, *size, facecolor=colour, edgecolor="black", linewidth=0.8))
    middle = corner[0] + size[0] / 2, corner[1] + size[1] / 2
    axes.text(*middle, words, ha="center", va="center", color="white" if colour in (BLUE, GREEN) else "black")


def plot_sums(neurons: int, sums: Mapping[str, Points], switch: int) -> Picture:
    """Bytes of a layer's statistics against tokens, name -> (tokens, bytes); they are equal at `switch` tokens."""
    figure, axes = figure_with_axes(
        (7.5, 3.8), xlabel="calibration tokens (logarithmic)", ylabel="memory (GiB, logarithmic)"
    )
    words: list[str] = []
    for (name, points), mark in zip(sums.items(), ("-", "-"), strict=True):
        line = [(tokens, amount / GIB) for tokens, amount in points]
        colour = COLOURS[len(words)]
        axes.plot(*zip(*line, strict=True), mark, color=colour, label=name, linewidth=2)
        words.append(f"{name}: {line[0][1]:.2g} GiB at {line[0][0]:,} tokens, {line[-1][1]:.2g} at {line[-1][0]:,}")
    axes.axvline(switch, label=f"equal at {switch:,} tokens", **DASHED)
    axes.set(xscale="log", yscale="log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend(ncols=3, fontsize=9, **ABOVE)
    opening = f"Memory for the statistics of a dense layer with {neurons:,} inputs, both axes logarithmic. "
    return figure.described(opening, [*words, f"they are equal at {switch:,} tokens"])


def plot_memory(needs: Mapping[str, Points], measured: Mapping[str, Points]) -> Picture:
    """Both: name -> (parameters, bytes) for each model; what was counted as lines, what was measured as marks."""
    labels = {"xlabel": "parameters (billions, logarithmic)", "ylabel": "memory (GiB, logarithmic)"}
    figure, axes = figure_with_axes((8.0, 4.4), **labels)
    words = []
    styles = [("o-", 4)] * len(needs) + [(marker, 9) for marker in "D^sv"] * len(measured)
    models = [*needs.items(), *measured.items()]
    for (name, points), colour, (marks, size) in zip(models, COLOURS, styles, strict=False):
        line = [(parameters / 1e9, amount / GIB) for parameters, amount in sorted(points)]
        axes.plot(*zip(*line, strict=True), marks, color=colour, label=name, markersize=size)
        (low, least), (high, most) = line[0], line[-1]
        words.append(f"{name}: {least:.2f} GiB at {low:.2f} billion parameters, {most:.2f} GiB at {high:.2f} billion")
    axes.set(xscale="log", yscale="log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.legend(ncols=2, fontsize=9, **ABOVE)
    return figure.described("Memory against parameters, both logarithmic. ", words)


def plot_depth(depths: Sequence[int], megabytes: Sequence[float], seconds: Sequence[float]) -> Picture:
    """Two models that differ in depth alone: peak memory above the imports (MiB), and time, a bar for each."""
    labels: dict[str, Any] = {"ylabel": ["memory above the imports (MiB)", "time (s)"], "xlabel": "layers of the model"}
    figure, both = panels(1, 2, (7.5, 3.2), **labels)
    for axes, values, colour in zip(both, (megabytes, seconds), (BLUE, ORANGE), strict=True):
        axes.bar([str(depth) for depth in depths], values, width=0.5, color=colour)
        for place, value in enumerate(values):
            note(axes, f"{value:,.0f}", (place, value), (0, 3), ha="center", fontsize=9)
        axes.set_ylim(0, 1.15 * max(values))
        axes.grid(axis="x", visible=False)
    cases = [
        f"{depth} layers, {amount:,.0f} MiB and {time:,.0f} s"
        for depth, amount, time in zip(depths, megabytes, seconds, strict=True)
    ]
    return figure.described("Bars of memory and time for models of equal width: ", cases)


def plot_phases(runs: Mapping[str, tuple[Mapping[str, float], Mapping[str, float]]]) -> Picture:
    """Runs: name -> (seconds that each phase took, the least that it could take here), a stacked bar for each of both.

    Each pair is in parts of what its run took, so that short and long runs stand side by side.
    """
    figure, axes = figure_with_axes((8.5, 0.85 * len(runs) + 1.6), xlabel="part of the seconds that these phases took")
    phases = [phase for phase in PHASES if any(phase in least for _, least in runs.values())]
    labels, places, words = [], [], []
    for number, (name, (took, least)) in enumerate(runs.items()):
        whole = sum(took.get(phase, 0.0) for phase in phases)
        for offset, seconds, kind in ((0.0, took, "took"), (0.4, least, "least")):
            left, place = 0.0, number + offset
            for phase, colour in zip(phases, COLOURS, strict=False):
                part = seconds.get(phase, 0.0) / whole
                axes.barh(place, part, 0.34, left, color=colour, label=phase if number + offset == 0.0 else None)
                left += part
            labels.append(f"{name}, {kind}: {sum(seconds.get(phase, 0.0) for phase in phases):,.0f} s")
            places.append(place)
        words.append(f"{name} took {whole:,.0f} s where {sum(least.values()):,.0f} s is the least")
    axes.set_yticks(places, labels)
    axes.set(ylim=(len(runs) - 0.3, -0.5), xlim=(0, 1.02))
    axes.grid(axis="y", visible=False)
    axes.legend(ncols=4, fontsize=9, **ABOVE)
    return figure.described("Stacked bars of the seconds by phase, beside the least that the machine could do. ", words)


def plot_sum_tree(shards: int = 4) -> Picture:
    """A drawing: the text dealt out in shards, their sums added in pairs until one is left."""
    figure, axes = figure_with_axes((8.0, 3.4), xlim=(-0.6, shards - 0.4), ylim=(-0.4, 3.7))
    axes.axis("off")
    row, height, words = [float(place) for place in range(shards)], 1.0, [f"C{i + 1}" for i in range(shards)]
    for i, x in enumerate(row):
        _box(axes, (x - 0.4, 0.0), (0.8, 0.45), GREY, f"text, part {i + 1}")
        axes.annotate("", (x, height), (x, 0.48), arrowprops={"arrowstyle": "->"})
    while True:
        for x, word in zip(row, words, strict=True):
            _box(axes, (x - 0.3, height), (0.6, 0.45), BLUE if len(row) > 1 else GREEN, word)
        if len(row) == 1:
            break
        pairs = [row[i : i + 2] for i in range(0, len(row), 2)]
        above = [sum(pair) / len(pair) for pair in pairs]
        for pair, x in zip(pairs, above, strict=True):
            for below in pair:
                axes.annotate("", (x, height + 1.0), (below, height + 0.48), arrowprops={"arrowstyle": "->"})
        words = ["+".join(words[i : i + 2]) for i in range(0, len(words), 2)]
        words = [word if len(words) > 1 else "C" for word in words]
        row, height = above, height + 1.0
    return figure.described(
        f"A drawing: the text in {shards} parts, the sums of each part, and these added in pairs until one matrix C is "
        "left. Which worker computes which part is not in the drawing: it does not matter."
    )
