"""Palette, style and alt texts of all figures.

A plot function is pure: it takes results and returns a matplotlib Figure. `figure.alt_text` says what a
reader who cannot see the figure would want to know, computed from the same numbers. Colours come from
seaborn's colour-blind palette, axes carry their units, and nothing opens a window or touches pyplot's state.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

COLOURS = sns.color_palette("colorblind")
BLUE = COLOURS[0]
ORANGE = COLOURS[1]
GREEN = COLOURS[2]
RED = COLOURS[3]
GREY = COLOURS[7]
MARKERS = "osD^vPX*<>"
# keywords of matplotlib for a line with which the data are compared
DASHED_LINE: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 1}
# keywords of `Axes.legend`; beside the panel is right where the data can be anywhere in it
LEGEND_ABOVE: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "frameon": False}
LEGEND_BESIDE: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "frameon": False}
LOSS_LABEL = "increase of the loss over the\ndense model (nats per token)"
DPI = 90  # dots per inch
# multiples of a power of ten at which ticks may stand; the first of these that gives few enough is taken
TICKS_OF_A_DECADE = ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 5), (1, 3), (1,))
Numbers = Sequence[float]
Size = tuple[float, float]  # inches


class Picture(Figure):
    """A matplotlib Figure with words for those who cannot see it."""

    alt_text: str

    def with_alt_text(self, text: str, items: Iterable[str] | None = None) -> Picture:
        """Give the figure this text, and after it the `items` as a list, and return the figure."""
        self.alt_text = text
        if items is not None:
            self.alt_text += f"{'; '.join(items)}."
        return self


def figure_with_axes(size: Size = (8.0, 4.0), **labels: Any) -> tuple[Picture, Any]:
    """A figure of one panel in the house style; labels as `Axes.set` takes them."""
    figure, (axes,) = panels(1, 1, size, **labels)
    return figure, axes


def panels(rows: int, columns: int, size: Size, share: str = "", **labels: Any) -> tuple[Picture, list[Any]]:
    """A figure of several panels, row by row, in the house style.

    Args:
        share: "x" or "y", the axis that all panels share; "": none.
        labels: as `Axes.set` takes them, for all panels; a list has one entry for each panel.
    """
    with sns.axes_style("whitegrid"):
        figure = Picture(figsize=size, layout="constrained", dpi=DPI)
        grid = figure.subplots(rows, columns, sharex="x" in share, sharey="y" in share, squeeze=False)
    for index, axes in enumerate(grid.flat):
        for name, value in labels.items():
            axes.set(**{name: value[index] if isinstance(value, list) else value})
    return figure, list(grid.flat)


def plain_ticks(axis: Axis, limits: tuple[float, float], percent: bool = False, max_ticks: int = 8) -> None:
    """Set at most `max_ticks` ticks that a person would choose, on a logarithmic axis (`Axes.xaxis`)."""
    low, high = limits
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for multiples in TICKS_OF_A_DECADE:
        candidates = [multiple * 10.0**decade for decade in decades for multiple in multiples]
        ticks = [tick for tick in candidates if low <= tick <= high]
        if len(ticks) <= max_ticks:
            break
    if len(ticks) > max_ticks:
        distance = -(-len(ticks) // max_ticks)
        ticks = ticks[::distance]
    if len(ticks) < 3:  # less than half a decade: round numbers at equal distances
        round_numbers = MaxNLocator(max_ticks - 1).tick_values(low, high)
        ticks = [tick for tick in round_numbers if low <= tick <= high]
    if percent:
        labels = [f"{100 * tick:.3g}%" for tick in ticks]
    else:
        labels = [f"{tick:,.6g}" for tick in ticks]
    axis.set_ticks(ticks, labels)
    axis.set_minor_locator(NullLocator())


def log_y(axes: Axes, percent: bool = False, max_ticks: int = 8) -> None:
    """Make the y axis logarithmic, with plain ticks for what is drawn already."""
    axes.set_yscale("log")
    plain_ticks(axes.yaxis, axes.get_ylim(), percent, max_ticks)


def layer_axis(axes: Axes, layer_count: int | None = None, label: str = "decoder layer") -> None:
    """Show integers on an x axis of layers; where their number is given, the axis spans just these layers."""
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if layer_count is not None:
        axes.set_xlim(-0.7, layer_count - 0.3)


def style(index: int) -> dict[str, Any]:
    """Colour and marker of the series of that number in a figure."""
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}


def note(
    axes: Axes, text: str, point: tuple[Any, Any], offset: tuple[float, float] = (0, 0), **looks: Any
) -> None:
    """Write a small text beside a point of the data; offset: from it, in points of print."""
    axes.annotate(text, point, offset, textcoords="offset points", **{"fontsize": 8} | looks)


def png(figure: Figure) -> bytes:
    """The figure as PNG, the same bytes every time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def mime_bundle(figure: Picture) -> dict[str, str]:
    """The figure for a notebook: HTML with alt text for browsers, PNG for PDF, words for everything else."""
    data = base64.b64encode(png(figure)).decode("ascii")
    alt_text = html.escape(figure.alt_text)
    return {
        "text/html": f'<img alt="{alt_text}" src="data:image/png;base64,{data}"/>',
        "image/png": data,
        "text/plain": figure.alt_text,
    }
