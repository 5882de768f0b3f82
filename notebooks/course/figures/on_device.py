"""Figures of a model on a device (lesson 08)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from comp_lib.evaluation.generation import ratio
from comp_lib.gguf.speed import Measured
from comp_lib.plots.base import (
    ABOVE,
    BLUE,
    DASHED,
    GREEN,
    GREY,
    LOSS,
    ORANGE,
    Picture,
    figure_with_axes,
    style,
)
from comp_lib.shape import Shape

from . import TITLE, name_points


def plot_reads(shapes: Mapping[str, Shape], vocabulary: int, bits: float) -> Picture:
    """A drawing to scale: what a model reads for one token, a strip for each; layers from the left, the head last.

    In each layer the attention stands before the neurons; `bits` are those of a weight.
    """
    size = (9.5, 0.75 * len(shapes) + 1.3)
    figure, axes = figure_with_axes(size, xlabel="megabytes read for one token")
    words, scale = [], bits / 8e6
    for place, (name, shape) in enumerate(shapes.items()):
        left = 0.0
        for neurons, groups in zip(shape.neurons, shape.kv_groups, strict=True):
            parts = groups * shape.group_parameters * scale, neurons * shape.neuron_parameters * scale
            for width, colour in zip(parts, (BLUE, ORANGE), strict=True):
                axes.barh(place, width, 0.6, left, color=colour, edgecolor="white", linewidth=0.4)
                left += width
        head = vocabulary * shape.hidden * scale
        axes.barh(place, head, 0.6, left, color=GREY)
        words.append(f"{name}: {left:.0f} MB of {shape.layers} layers and {head:.0f} MB of the head")
    for label, colour in (("attention", BLUE), ("neurons", ORANGE), ("head (the tied embedding)", GREY)):
        axes.barh(0, 0, color=colour, label=label)
    axes.set_yticks(range(len(shapes)), list(shapes))
    axes.set(ylim=(len(shapes) - 0.4, -0.6))
    axes.grid(axis="y", visible=False)
    axes.set_title("Both cuts leave the head whole", pad=TITLE)
    axes.legend(ncols=3, **ABOVE)
    return figure.described("Strips to scale of the bytes that are read for one token. ", words)


def plot_speedup(measured: Sequence[Measured]) -> Picture:
    """Decode speed-up over the first model, a row for each other one, beside the byte ratio; whiskers span rounds."""
    first, *others = measured
    xlabel = "speed of decode (dense model = 1)"
    figure, axes = figure_with_axes((8.5, 0.4 * max(2, len(others)) + 1.7), xlabel=xlabel)
    words = []
    for place, model in enumerate(others):
        limit = first.bytes_per_token / model.bytes_per_token
        middle, low, high = ratio(model.decode, first.decode)
        looks = style(0) | {
            "capsize": 3,
            "linestyle": "none",
            "label": "" if place else "measured, all rounds",
        }
        axes.errorbar(middle, place, xerr=[[middle - low], [high - middle]], **looks)
        tick = {"markersize": 16, "markeredgewidth": 2, "label": "" if place else "byte ratio"}
        axes.plot([limit], [place], "k|", **tick)
        words.append(f"{model.name}, {middle:.2f} beside a byte ratio of {limit:.2f}")
    axes.set_yticks(range(len(others)), [model.name for model in others])
    axes.set_ylim(len(others) - 0.5, -0.5)
    axes.axvline(1.0, **DASHED)
    axes.set_title("Speed follows the bytes; at 40% dropped layers gain more", pad=TITLE)
    axes.legend(ncols=2, fontsize=9, **ABOVE)
    what = "Measured speed-up of decoding, with the ratio of the bytes read for a token: "
    return figure.described(what, words)


def plot_parts(parts: Mapping[str, tuple[float, float, float]], measured: Mapping[str, float]) -> Picture:
    """Milliseconds of a token: a stacked bar for each model (all else, layers, bytes), and what was measured."""
    size, xlabel = (8.5, 0.5 * len(parts) + 1.3), "milliseconds of a token"
    figure, axes = figure_with_axes(size, xlabel=xlabel)
    labels = ("the same for all models", "layers, besides their bytes", "layers, by their bytes")
    for place, terms in enumerate(parts.values()):
        left = 0.0
        for term, label, colour in zip(terms, labels, (GREY, GREEN, ORANGE), strict=True):
            axes.barh(place, term, 0.6, left, color=colour, label=label if place == 0 else None)
            left += term
    axes.plot([measured[name] for name in parts], range(len(parts)), "kD", label="measured")
    axes.set_yticks(range(len(parts)), list(parts))
    axes.set_ylim(len(parts) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.set_title("Three terms fit the clock", pad=TITLE)
    axes.legend(ncols=4, fontsize=9, **ABOVE)
    words = [
        f"{name} {sum(terms):.1f} fitted, {measured[name]:.1f} measured" for name, terms in parts.items()
    ]
    return figure.described("Stacked bars of the milliseconds of a token, with what was measured: ", words)


def plot_quality(points: Mapping[str, tuple[float, float]]) -> Picture:
    """A named dot for each plan: (speed over the dense model's, loss increase in nats per token); neurons joined."""
    figure, axes = figure_with_axes((8.0, 4.2), xlabel="speed of decode (dense model = 1)", ylabel=LOSS)
    for name, point in points.items():
        kind = 0 if name.startswith("neurons") else 1 if name.startswith("layers") else 2
        axes.plot(*point, linestyle="none", zorder=3, **style(kind))
    widths = [point for name, point in points.items() if name.startswith("neurons")]
    axes.plot(*zip(*widths, strict=True), **(DASHED | {"color": GREY}))
    axes.margins(0.15)  # for the names
    axes.set_title("One run each: at each ratio, dropping layers lost more")
    name_points(axes, points)
    words = [f"{name} {speed:.2f} times as fast, {loss:+.2f} nats" for name, (speed, loss) in points.items()]
    return figure.described("Dots of the loss increase against the speed of decode: ", words)
