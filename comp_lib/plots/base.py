"""What all figures share: one palette, one style, and words for those who cannot see them.

A plot function is pure: results in, a matplotlib Figure out, with `figure.alt_text` saying what a reader who cannot
see it would want to know, computed from the same numbers. Colours come from seaborn's colour-blind palette, axes carry
their units, and nothing opens a window or touches pyplot's state.
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
BLUE, ORANGE, GREEN, RED, GREY = (COLOURS[place] for place in (0, 1, 2, 3, 7))
MARKERS = "osD^vPX*<>"
DASHED: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 1}  # a reference to compare with
ABOVE: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "frameon": False}  # of a legend
BESIDE: dict[str, Any] = {
    "loc": "upper left",
    "bbox_to_anchor": (1.0, 1.0),
    "frameon": False,
}  # data can be anywhere
LOSS = "increase of the loss over the\ndense model (nats per token)"
DPI = 90
Numbers = Sequence[float]
Size = tuple[float, float]  # in inches


class Picture(Figure):
    """A matplotlib Figure with words for those who cannot see it."""

    alt_text: str

    def described(self, words: str, items: Iterable[str] | None = None) -> Picture:
        """The figure itself, with these words, whose last sentence lists the `items`, if there are any."""
        self.alt_text = words if items is None else f"{words}{'; '.join(items)}."
        return self


def figure_with_axes(size: Size = (8.0, 4.0), **labels: Any) -> tuple[Picture, Any]:
    """A figure of one panel in the house style; size in inches, labels as `Axes.set` takes them."""
    figure, (axes,) = panels(1, 1, size, **labels)
    return figure, axes


def panels(rows: int, columns: int, size: Size, share: str = "", **labels: Any) -> tuple[Picture, list[Any]]:
    """A figure of several panels, row by row; they `share` "x" or "y"; of a label that is a list, an entry for each."""
    with sns.axes_style("whitegrid"):
        figure = Picture(figsize=size, layout="constrained", dpi=DPI)
        grid = figure.subplots(rows, columns, sharex="x" in share, sharey="y" in share, squeeze=False)
    for place, axes in enumerate(grid.flat):
        axes.set(
            **{name: value[place] if isinstance(value, list) else value for name, value in labels.items()}
        )
    return figure, list(grid.flat)


def plain_ticks(axis: Axis, limits: tuple[float, float], percent: bool = False, most: int = 8) -> None:
    """At most `most` ticks that a person would choose, for a logarithmic axis (`Axes.xaxis`) of any span."""
    low, high = limits
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for steps in ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [tick for decade in decades for step in steps if low <= (tick := step * 10.0**decade) <= high]
        if len(ticks) <= most:
            break
    if len(ticks) > most:
        ticks = ticks[:: -(-len(ticks) // most)]
    if len(ticks) < 3:  # less than half a decade: round numbers at equal distances
        ticks = [tick for tick in MaxNLocator(most - 1).tick_values(low, high) if low <= tick <= high]
    axis.set_ticks(ticks, [f"{100 * tick:.3g}%" if percent else f"{tick:,.6g}" for tick in ticks])
    axis.set_minor_locator(NullLocator())


def log_y(axes: Axes, percent: bool = False, most: int = 8) -> None:
    """A logarithmic y axis with plain ticks, for what is drawn already."""
    axes.set_yscale("log")
    plain_ticks(axes.yaxis, axes.get_ylim(), percent, most)


def layer_axis(axes: Axes, layers: int | None = None, label: str = "decoder layer") -> None:
    """Whole numbers on an x axis of layers; given their number, all of them and no more."""
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if layers is not None:
        axes.set_xlim(-0.7, layers - 0.3)


def style(place: int) -> dict[str, Any]:
    """Colour and marker of what has this place among its kind."""
    return {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}


def note(
    axes: Axes, text: str, point: tuple[Any, Any], offset: tuple[float, float] = (0, 0), **looks: Any
) -> None:
    """A small text beside a point of the data; offset in points of print."""
    axes.annotate(text, point, offset, textcoords="offset points", **{"fontsize": 8} | looks)


def png(figure: Figure) -> bytes:
    """The figure as PNG, the same bytes every time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def mime_bundle(figure: Picture) -> dict[str, str]:
    """The figure for a notebook: HTML with alt text for browsers, PNG for PDF, words for everything else."""
    words, data = figure.alt_text, base64.b64encode(png(figure)).decode("ascii")
    image = f'<img alt="{html.escape(words)}" src="data:image/png;base64,{data}"/>'
    return {"text/html": image, "image/png": data, "text/plain": words}
