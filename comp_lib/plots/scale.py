"""Memory against size (lesson 09): what a whole model needs, what one layer at a time needs, what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.ticker import LogLocator, NullFormatter

from .base import COLOURS, Picture, figure_with_axes

GIB = 2**30


def plot_memory(
    needs: Mapping[str, Sequence[tuple[int, float]]], measured: Mapping[str, Sequence[tuple[int, float]]]
) -> Picture:
    """Both: name -> (parameters, bytes) for each model; what was counted as lines, what was measured as marks."""
    figure, axes = figure_with_axes(1, 1, (8.0, 4.4))
    words = []
    styles = [("o-", 4)] * len(needs) + [(marker, 8) for marker in "D^sv"] * len(measured)
    models = [*needs.items(), *measured.items()]
    for (name, points), colour, (style, size) in zip(models, COLOURS, styles, strict=False):
        line = [(parameters / 1e9, amount / GIB) for parameters, amount in sorted(points)]
        axes.plot(*zip(*line, strict=True), style, color=colour, label=name, markersize=size)
        (low, least), (high, most) = line[0], line[-1]
        words.append(f"{name}: {least:.2f} GiB at {low:.2f} billion parameters, {most:.2f} GiB at {high:.2f} billion")
    axes.set(xscale="log", yscale="log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.set(xlabel="parameters (billions, logarithmic)", ylabel="memory (GiB, logarithmic)")
    axes.legend()
    return figure.described(f"Memory against parameters, both logarithmic. {'; '.join(words)}.")
