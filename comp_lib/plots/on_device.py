"""Figures of a model on a device (lesson 08)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple, Protocol

from matplotlib.ticker import PercentFormatter

from ..evaluation.generation import ratio
from ..shape import Shape
from .base import ABOVE, DASHED, LOSS, Picture, figure_with_axes, note, stacked_bar, style
from .comp_vs_peers import Points, draw_front, loss_lines, pareto_front


class Measured(Protocol):
    """What is drawn of `on_device.benchmark.Measured`."""

    @property
    def name(self) -> str: ...
    @property
    def runtime(self) -> str: ...
    @property
    def bytes_per_token(self) -> int: ...
    @property
    def decode(self) -> tuple[float, ...]: ...


class Point(NamedTuple):
    """A plan that was carried out."""

    name: str
    family: str  # what its colour says
    speed: float  # tokens per second over the dense model's
    increase: float  # of the loss over the dense model, nats per token


def plot_speedup(measured: Sequence[Measured]) -> Picture:
    """Decode speed-up over the first model of the same runtime, against what the bytes allow; bars span the rounds."""
    labels = {"xlabel": "limit: bytes read for a token, dense / pruned", "ylabel": "speed-up of decode, measured"}
    figure, axes = figure_with_axes((7.0, 4.6), **labels)
    firsts: dict[str, Measured] = {}
    words, limits, tops = [], [1.0], [1.0]
    points: list[tuple[float, float, str]] = []
    for model in measured:
        first = firsts.setdefault(model.runtime, model)
        limit = first.bytes_per_token / model.bytes_per_token
        middle, low, high = ratio(model.decode, first.decode)
        marks = style(list(firsts).index(model.runtime)) | {"label": model.runtime if model is first else None}
        axes.errorbar(limit, middle, [[middle - low], [high - middle]], capsize=3, linestyle="none", **marks)
        points.append((limit, middle, model.name))
        limits.append(limit)
        tops.append(high)
        if model is not first:
            words.append(f"{model.name} in {model.runtime}, {middle:.2f} of at most {limit:.2f}")
    for column in _columns(points):
        names = [name for _, _, name in sorted(column, key=lambda point: -point[1])]
        note(axes, "\n".join(names), (column[-1][0], median(point[1] for point in column)), (9, 0), va="center")
    start, end = min(limits) * 0.95, max(limits) * 1.1
    axes.plot([start, end], [start, end], label="limit: only reading weights takes time", **DASHED)
    axes.set_xlim(start, end * 1.06)
    axes.set_ylim(min(0.95, axes.get_ylim()[0]), max(end, max(tops) * 1.03))
    axes.legend(loc="upper left", fontsize=9)
    what = (
        "Measured speed-up of decoding against the most that the bytes removed allow, with the diagonal where both are "
    )
    return figure.described(f"{what}equal: ", words or ["one model only, at 1"])


def _columns(points: Sequence[tuple[float, float, str]], gap: float = 0.03) -> list[list[tuple[float, float, str]]]:
    """Points (limit, height, name) in groups, left to right, whose names would write over each other."""
    points = sorted(points)
    starts = [i for i in range(1, len(points)) if points[i][0] - points[i - 1][0] >= gap]
    return [list(points[start:end]) for start, end in pairwise([0, *starts, len(points)])]


def plot_costs(times: Mapping[str, Mapping[str, float]], shape: Shape) -> Picture:
    """Where the time of a model goes, a bar for each kind of work; beside them, where its parameters sit.

    times: for each kind, the parts of its time, as `on_device.latency.CostModel.parts` gives them for that shape.
    """
    groups, neurons = shape.group_parameters * sum(shape.kv_groups), shape.neuron_parameters * sum(shape.neurons)
    sizes = shape.other_parameters, shape.layer_parameters * shape.layers, groups, neurons
    bars = {f"time of {kind}": parts for kind, parts in times.items()}
    bars["parameters"] = dict(zip(next(iter(times.values())), sizes, strict=True))
    figure, axes = figure_with_axes((8.5, 0.7 * len(bars) + 1.4), xlabel="share of the whole model", xlim=(0, 1))
    words: list[str] = []
    for name, values in bars.items():
        shares = {part: value / sum(values.values()) for part, value in values.items()}
        stacked_bar(axes, name, shares, (7, 1, 0, 2), labels=not words)
        words.append(f"{name}: " + ", ".join(f"{part} {share:.0%}" for part, share in shares.items()))
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(ncols=4, fontsize=9, **ABOVE)
    return figure.described("Stacked bars of what a model's time and parameters go to. ", words)


def plot_quality(points: Sequence[Point]) -> Picture:
    """Loss against speed for a family of plans, with what no other plan beats in both."""
    figure, axes = figure_with_axes((7.5, 4.4), xlabel="speed of decode (dense model = 1)", ylabel=LOSS)
    for place, family in enumerate(dict.fromkeys(point.family for point in points)):
        xy = [(point.speed, point.increase) for point in points if point.family == family]
        axes.scatter(*zip(*xy, strict=True), label=family, zorder=3, **style(place))
    for point in points:
        note(axes, point.name, (point.speed, point.increase), (6, -3))
    front = [points[i] for i in pareto_front([(-point.speed, point.increase) for point in points])]
    draw_front(axes, [(point.speed, point.increase) for point in front])
    axes.margins(x=0.2)  # for the names
    axes.legend(loc="upper left", fontsize=9)
    named = ", ".join(f"{point.name} ({point.speed:.2f}, {point.increase:.2f} nats)" for point in front)
    return figure.described(
        f"Dots of the loss increase against the speed of decode for {len(points)} plans. On the Pareto front, fastest "
        f"first: {named}."
    )


def plot_sizes(sizes: Mapping[str, Points]) -> Picture:
    """Loss increase against file size, a line for each type of weights: (megabytes, nats per token) for each point."""
    lines = {name: sorted(points) for name, points in sizes.items()}
    figure, _ = loss_lines(lines, "file (MB)")
    words = [
        f"{name} from {line[-1][1]:.2f} nats at {line[-1][0]:.0f} MB to {line[0][1]:.2f} at {line[0][0]:.0f}"
        for name, line in lines.items()
    ]
    return figure.described("Lines of the loss increase against the size of the file: ", words)


def bandwidth(measured: Measured) -> float:
    """Gigabytes of weights read in a second of decoding."""
    return measured.bytes_per_token * median(measured.decode) / 1e9
