"""Figures of pruning from disk to disk: what is held, and what it costs (lesson 09)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.ticker import LogLocator, NullFormatter

from comp_lib.plots.base import ABOVE, COLOURS, DASHED, Picture, figure_with_axes

from . import TITLE

Points = Sequence[tuple[float, float]]
MIB, GIB = 2**20, 2**30


def plot_sums(neurons: int, sums: Mapping[str, Points], switch: int) -> Picture:
    """Bytes of a layer's statistics against tokens, name -> (tokens, bytes); they are equal at `switch` tokens."""
    figure, axes = figure_with_axes(
        (7.5, 3.8), xlabel="calibration tokens (logarithmic)", ylabel="memory (GiB, logarithmic)"
    )
    words: list[str] = []
    for name, points in sums.items():
        line = [(tokens, amount / GIB) for tokens, amount in points]
        axes.plot(*zip(*line, strict=True), color=COLOURS[len(words)], label=name, linewidth=2)
        words.append(
            f"{name}: {line[0][1]:.2g} GiB at {line[0][0]:,} tokens, {line[-1][1]:.2g} at {line[-1][0]:,}"
        )
    axes.axvline(switch, label=f"equal at {switch:,} tokens", **DASHED)
    axes.set(xscale="log", yscale="log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_title(f"The dual form is smaller up to {switch:,} tokens", pad=TITLE)
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
        words.append(
            f"{name}: {least:.2f} GiB at {low:.2f} billion parameters, {most:.2f} GiB at {high:.2f} billion"
        )
    axes.set(xscale="log", yscale="log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.set_title("COMP holds a small part of what weights and gradients need", pad=2 * TITLE)
    axes.legend(ncols=2, fontsize=9, **ABOVE)
    return figure.described("Memory against parameters, both logarithmic. ", words)
