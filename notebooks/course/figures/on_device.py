"""Figures of a model on a device (lesson 08)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from comp_lib.evaluation.generation import ratio
from comp_lib.on_device.speed import Measured
from comp_lib.plots.base import ABOVE, BLUE, DASHED, GREY, LOSS, ORANGE, Picture, figure_with_axes, note, style
from comp_lib.shape import Shape
from course.figures.grids import draw_front, pareto_front

from . import name_points, spans


class Point(NamedTuple):
    """A plan that was carried out."""

    name: str
    family: str  # what its colour says
    speed: float  # tokens per second over the dense model's
    increase: float  # of the loss over the dense model, nats per token
    low: float  # ends of its 95% interval
    high: float


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
        note(axes, f"{left + head:.0f} MB", (left + head, place), (5, 0), va="center", fontsize=9)
        words.append(f"{name}: {left:.0f} MB of {shape.layers} layers and {head:.0f} MB of the head")
    for label, colour in (("attention", BLUE), ("neurons", ORANGE), ("head (the tied embedding)", GREY)):
        axes.barh(0, 0, color=colour, label=label)
    axes.set_yticks(range(len(shapes)), list(shapes))
    axes.set(ylim=(len(shapes) - 0.4, -0.6))
    axes.margins(x=0.1)
    axes.grid(axis="y", visible=False)
    axes.legend(ncols=3, **ABOVE)
    return figure.described("Strips to scale of the bytes that are read for one token. ", words)


def plot_speedup(measured: Sequence[Measured]) -> Picture:
    """Decode speed-up over the first model of the same runtime, a row for each other model, beside the byte ratio.

    Whiskers span the rounds.
    """
    firsts: dict[str, Measured] = {}
    pairs = [(model, firsts.setdefault(model.runtime, model)) for model in measured]
    pairs = [(model, first) for model, first in pairs if model is not first]
    figure, axes = figure_with_axes((8.5, 0.4 * max(2, len(pairs)) + 1.4), xlabel="speed of decode (dense model = 1)")
    words = []
    for place, (model, first) in enumerate(pairs):
        limit = first.bytes_per_token / model.bytes_per_token
        middle, low, high = ratio(model.decode, first.decode)
        marks = style(list(firsts).index(model.runtime)) | {"capsize": 3, "linestyle": "none"}
        axes.errorbar(middle, place, xerr=[[middle - low], [high - middle]], **marks)
        axes.plot([limit], [place], "k|", markersize=16, markeredgewidth=2)
        words.append(f"{model.name} in {model.runtime}, {middle:.2f} beside a byte ratio of {limit:.2f}")
    for place, runtime in enumerate(firsts):
        axes.plot([], [], linestyle="none", label=f"measured in {runtime}, all rounds", **style(place))
    axes.plot([], [], "k|", markersize=12, markeredgewidth=2, label="byte ratio")
    axes.set_yticks(range(len(pairs)), [model.name for model, _ in pairs])
    axes.set_ylim(max(2, len(pairs)) - 0.5, -0.5)
    axes.axvline(1.0, **DASHED)
    axes.legend(ncols=len(firsts) + 1, fontsize=9, **ABOVE)
    what = "Measured speed-up of decoding, with the ratio of the bytes read for a token: "
    return figure.described(what, words or ["one model only"])


def plot_quality(points: Sequence[Point]) -> Picture:
    """Loss with its interval against speed for a family of plans, with what no other plan beats in both."""
    figure, axes = figure_with_axes((8.5, 4.8), xlabel="speed of decode (dense model = 1)", ylabel=LOSS)
    for place, family in enumerate(dict.fromkeys(point.family for point in points)):
        own = [point for point in points if point.family == family]
        y, apart = spans([(point.increase, point.low, point.high) for point in own])
        axes.errorbar(
            [point.speed for point in own],
            y,
            apart,
            label=family,
            capsize=2,
            linestyle="none",
            zorder=3,
            **style(place),
        )
    front = [points[i] for i in pareto_front([(-point.speed, point.increase) for point in points])]
    draw_front(axes, [(point.speed, point.increase) for point in front])
    axes.margins(0.12)  # for the names
    axes.legend(loc="upper left", fontsize=9)
    name_points(axes, {point.name: (point.speed, point.increase) for point in points})
    named = ", ".join(f"{point.name} ({point.speed:.2f}, {point.increase:.2f} nats)" for point in front)
    return figure.described(
        f"Dots of the loss increase against the speed of decode for {len(points)} plans. On the Pareto front, fastest "
        f"first: {named}."
    )


def plot_sizes(sizes: Mapping[str, Sequence[tuple[float, float, float, float]]]) -> Picture:
    """Loss increase against file size, a line for each type of weights.

    sizes: for each type (megabytes, nats per token, ends of its 95% interval) of each file.
    """
    figure, axes = figure_with_axes((7.5, 4.4), xlabel="file (MB)", ylabel=LOSS)
    words = []
    for place, (name, points) in enumerate(sizes.items()):
        (least, *_), *_, (most, *_) = line = sorted(points)
        y, apart = spans([interval for _, *interval in line])
        axes.errorbar([size for size, *_ in line], y, apart, label=name, capsize=2, **style(place))
        words.append(f"{name} from {y[-1]:.2f} nats at {most:.0f} MB to {y[0]:.2f} at {least:.0f}")
    axes.set_ylim(min(0.0, axes.get_ylim()[0]), None)
    axes.legend()
    return figure.described("Lines of the loss increase against the size of the file: ", words)
