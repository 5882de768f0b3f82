"""Memory against the size of a model: what all of it needs, what one layer at a time needs, what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from .base import COLOURS, figure_with_axes

GIB = 2**30


def plot_memory(
    needs: Mapping[str, Sequence[tuple[int, float]]], measured: Mapping[str, Sequence[tuple[int, float]]]
) -> Figure:
    """Both: name -> (parameters, bytes) for each model; what was counted as lines, what was measured as marks."""
    figure, axes = figure_with_axes(1, 1, (8.0, 4.4))
    words = []
    for place, (name, points) in enumerate([*needs.items(), *measured.items()]):
        points = sorted(points)
        counted = place < len(needs)
        axes.plot(
            [size / 1e9 for size, _ in points],
            [amount / GIB for _, amount in points],
            color=COLOURS[place],
            label=name,
            marker="o" if counted else "D^sv"[(place - len(needs)) % 4],
            linestyle="-" if counted else "none",
            markersize=4 if counted else 8,
        )
        (low, least), (high, most) = points[0], points[-1]
        words.append(
            f"{name}: {least / GIB:.2f} GiB at {low / 1e9:.2f} billion parameters, "
            f"{most / GIB:.2f} GiB at {high / 1e9:.2f} billion"
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.set_xlabel("parameters (billions, logarithmic)")
    axes.set_ylabel("memory (GiB, logarithmic)")
    axes.legend()
    figure.alt_text = "Memory against parameters, both logarithmic. " + "; ".join(words) + "."
    return figure
