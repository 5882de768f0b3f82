"""Figures of a model on a device: speed-up against its limit, where the time goes, and quality against speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ..on_device.benchmark import Measured, gain
from ..on_device.latency import CostModel
from ..shape import Shape
from .base import COLOURS, figure_with_axes
from .peers import MARKERS, UNIT, pareto_front

PARTS = ("fixed", "of each layer", "KV groups", "neurons")


def plot_speedup(measured: Sequence[Measured]) -> Figure:
    """Decode speed-up over the first model of the same runtime, against what the bytes allow; bars span the rounds."""
    figure, axis = figure_with_axes(1, 1, (7.0, 4.6))
    firsts: dict[str, Measured] = {}
    words, limits, tops = [], [1.0], [1.0]
    points: list[tuple[float, float, str]] = []
    for each in measured:
        first = firsts.setdefault(each.runtime, each)
        found, which = gain(first, each), list(firsts).index(each.runtime)
        middle, low, high = found.speedup
        label = each.runtime if first is each else None
        axis.errorbar(
            found.limit,
            middle,
            [[middle - low], [high - middle]],
            color=COLOURS[which],
            marker=MARKERS[which],
            capsize=3,
            linestyle="none",
            label=label,
        )
        points.append((found.limit, middle, each.name))
        limits.append(found.limit)
        tops.append(high)
        if first is not each:
            words.append(f"{each.name} in {each.runtime}, {middle:.2f} of at most {found.limit:.2f}")
    for column in _columns(points):
        names = [name for _, _, name in sorted(column, key=lambda point: -point[1])]
        middle = median(height for _, height, _ in column)
        axis.annotate(
            "\n".join(names),
            (column[-1][0], middle),
            xytext=(9, 0),
            textcoords="offset points",
            fontsize=8,
            va="center",
        )
    end = max(limits) * 1.1
    line = np.array([min(limits) * 0.95, end])
    axis.plot(line, line, color="black", linestyle="--", linewidth=1, label="limit: only reading weights takes time")
    axis.set_xlim(line[0], end * 1.06)
    axis.set_ylim(min(0.95, axis.get_ylim()[0]), max(end, max(tops) * 1.03))
    axis.set_xlabel("limit: bytes read for a token, dense / pruned")
    axis.set_ylabel("speed-up of decode, measured")
    axis.legend(loc="upper left", fontsize=9)
    figure.alt_text = (
        "Measured speed-up of decoding against the most that the bytes removed allow, with the diagonal where both are "
        f"equal: {'; '.join(words) or 'one model only, at 1'}."
    )
    return figure


def _columns(points: Sequence[tuple[float, float, str]], gap: float = 0.03) -> list[list[tuple[float, float, str]]]:
    """Points (limit, height, name) in groups, left to right, whose names would write over each other."""
    columns: list[list[tuple[float, float, str]]] = []
    for point in sorted(points):
        if columns and point[0] - columns[-1][-1][0] < gap:
            columns[-1].append(point)
        else:
            columns.append([point])
    return columns


def parts(cost: CostModel, shape: Shape) -> dict[str, float]:
    """Milliseconds of each term of the cost model, for a decoder of that shape."""
    found = (cost.fixed, cost.layer * shape.layers, cost.group * sum(shape.kv_groups), cost.neuron * sum(shape.neurons))
    return dict(zip(PARTS, found, strict=True))


def plot_costs(costs: Mapping[str, CostModel], shape: Shape) -> Figure:
    """Where the time of a model goes, a bar for each kind of work; beside them, where its parameters sit."""
    bars = {f"time of {kind}": parts(cost, shape) for kind, cost in costs.items()}
    sizes = (
        shape.other_parameters,
        shape.layer_parameters * shape.layers,
        shape.group_parameters * sum(shape.kv_groups),
        shape.neuron_parameters * sum(shape.neurons),
    )
    bars["parameters"] = dict(zip(PARTS, sizes, strict=True))
    figure, axis = figure_with_axes(1, 1, (8.5, 0.7 * len(bars) + 1.4))
    words = []
    for name, found in bars.items():
        left, whole = 0.0, sum(found.values())
        for colour, (part, value) in zip((7, 1, 0, 2), found.items(), strict=True):
            share = value / whole
            axis.barh(name, share, left=left, color=COLOURS[colour], label=part if name in list(bars)[:1] else None)
            if share > 0.05:
                axis.text(left + share / 2, name, f"{share:.0%}", ha="center", va="center", color="white")
            left += share
        words.append(f"{name}: " + ", ".join(f"{part} {value / whole:.0%}" for part, value in found.items()))
    axis.invert_yaxis()
    axis.grid(False)
    axis.set_xlim(0, 1)
    axis.xaxis.set_major_formatter(PercentFormatter(1.0))
    axis.set_xlabel("share of the whole model")
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False, fontsize=9)
    figure.alt_text = f"Stacked bars of what a model's time and parameters go to. {'; '.join(words)}."
    return figure


@dataclass(frozen=True)
class Point:
    """A plan that was carried out."""

    name: str
    family: str  # what its colour says
    speed: float  # tokens per second over the dense model's
    increase: float  # of the loss over the dense model, nats per token


def plot_quality(points: Sequence[Point]) -> Figure:
    """Loss against speed for a family of plans, with what no other plan beats in both."""
    figure, axis = figure_with_axes(1, 1, (7.5, 4.4))
    for place, family in enumerate(dict.fromkeys(point.family for point in points)):
        some = [point for point in points if point.family == family]
        axis.scatter(
            [point.speed for point in some],
            [point.increase for point in some],
            color=COLOURS[place],
            marker=MARKERS[place],
            label=family,
            zorder=3,
        )
    for point in points:
        axis.annotate(point.name, (point.speed, point.increase), xytext=(6, -3), textcoords="offset points", fontsize=8)
    front = [points[i] for i in pareto_front([(-point.speed, point.increase) for point in points])]
    axis.plot(
        [point.speed for point in front],
        [point.increase for point in front],
        color="black",
        linestyle="--",
        linewidth=1,
        zorder=2,
        label="Pareto front",
    )
    axis.margins(x=0.2)  # for the names
    axis.set_xlabel("speed of decode (dense model = 1)")
    axis.set_ylabel(UNIT)
    axis.legend(loc="upper left", fontsize=9)
    named = ", ".join(f"{point.name} ({point.speed:.2f}, {point.increase:.2f} nats)" for point in front)
    figure.alt_text = (
        f"Dots of the loss increase against the speed of decode for {len(points)} plans. On the Pareto front, fastest "
        f"first: {named}."
    )
    return figure


def plot_sizes(sizes: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Loss increase against file size, a line for each type of weights: (megabytes, nats per token) for each point."""
    figure, axis = figure_with_axes(1, 1, (7.5, 4.4))
    words = []
    for place, (name, found) in enumerate(sizes.items()):
        x, y = zip(*sorted(found), strict=True)
        axis.plot(x, y, color=COLOURS[place], marker=MARKERS[place], label=name)
        words.append(f"{name} from {y[-1]:.2f} nats at {x[-1]:.0f} MB to {y[0]:.2f} at {x[0]:.0f}")
    axis.set_xlabel("file (MB)")
    axis.set_ylabel(UNIT)
    axis.legend(fontsize=9)
    figure.alt_text = f"Lines of the loss increase against the size of the file: {'; '.join(words)}."
    return figure


def bandwidth(measured: Measured) -> float:
    """Gigabytes of weights read in a second of decoding."""
    return measured.bytes_per_token * median(measured.decode) / 1e9
