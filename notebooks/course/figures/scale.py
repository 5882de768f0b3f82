"""Figures of pruning from disk to disk: what is held, and what it costs (lesson 09)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.ticker import LogLocator, NullFormatter

from comp_lib.reports.plots.base import COLOURS, DASHED_LINE, LEGEND_ABOVE, Picture, figure_with_axes

Points = Sequence[tuple[float, float]]
MIB = 2**20  # bytes
GIB = 2**30


def plot_sums(neurons: int, sums: Mapping[str, Points], switch: int) -> Picture:
    """Memory for the statistics of a layer with so many `neurons`, against tokens.

    sums: name -> (tokens, bytes) of each point; the lines meet at `switch` tokens.
    """
    labels = {"xlabel": "calibration tokens (logarithmic)", "ylabel": "memory (GiB, logarithmic)"}
    figure, axes = figure_with_axes((7.5, 3.8), **labels)
    phrases = []
    for (name, points), colour in zip(sums.items(), COLOURS, strict=False):
        tokens = [count for count, _ in points]
        memory = [size / GIB for _, size in points]
        axes.plot(tokens, memory, color=colour, label=name, linewidth=2)
        ends = f"{memory[0]:.2g} GiB at {tokens[0]:,} tokens, {memory[-1]:.2g} at {tokens[-1]:,}"
        phrases.append(f"{name}: {ends}")
    axes.axvline(switch, label=f"equal at {switch:,} tokens", **DASHED_LINE)
    axes.set(xscale="log", yscale="log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend(ncols=3, fontsize=9, **LEGEND_ABOVE)
    opening = f"Memory for the statistics of a dense layer with {neurons:,} inputs, both axes logarithmic. "
    return figure.with_alt_text(opening, [*phrases, f"they are equal at {switch:,} tokens"])


def plot_memory(needs: Mapping[str, Points], measured: Mapping[str, Points]) -> Picture:
    """Memory against parameters: name -> (parameters, bytes) for each model.

    needs: what was counted, drawn as lines; measured: what was measured, drawn as marks.
    """
    labels = {"xlabel": "parameters (billions, logarithmic)", "ylabel": "memory (GiB, logarithmic)"}
    figure, axes = figure_with_axes((8.0, 4.4), **labels)
    phrases = []
    formats = [("o-", 4)] * len(needs) + [(marker, 9) for marker in "D^sv"] * len(measured)
    series = [*needs.items(), *measured.items()]
    for (name, points), colour, (line_format, markersize) in zip(series, COLOURS, formats, strict=False):
        billions = [parameters / 1e9 for parameters, _ in sorted(points)]
        memory = [size / GIB for _, size in sorted(points)]
        axes.plot(billions, memory, line_format, color=colour, label=name, markersize=markersize)
        smallest = f"{memory[0]:.2f} GiB at {billions[0]:.2f} billion parameters"
        largest = f"{memory[-1]:.2f} GiB at {billions[-1]:.2f} billion"
        phrases.append(f"{name}: {smallest}, {largest}")
    axes.set(xscale="log", yscale="log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.legend(ncols=2, fontsize=9, **LEGEND_ABOVE)
    return figure.with_alt_text("Memory against parameters, both logarithmic. ", phrases)
