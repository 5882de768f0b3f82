"""What all figures share: one palette, one style, and words for those who cannot see them.

A plot function is pure: results in, a matplotlib Figure out, with `figure.alt_text` saying what a reader who cannot
see it would want to know, computed from the same numbers. Colours come from seaborn's colour-blind palette, axes carry
their units, and nothing opens a window or touches pyplot's state.
"""

from __future__ import annotations

import base64
import html
import io

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

COLOURS = sns.color_palette("colorblind")
DPI = 90


def figure_with_axes(rows: int = 1, columns: int = 1, size: tuple[float, float] = (8.0, 4.0), **subplots):
    """A Figure and its axes, as `matplotlib.pyplot.subplots` gives them, in the house style."""
    with sns.axes_style("whitegrid"):
        figure = Figure(figsize=size, layout="constrained", dpi=DPI)
        return figure, figure.subplots(rows, columns, **subplots)


def plain_ticks(axis, limits: tuple[float, float], percent: bool = False, most: int = 8) -> None:
    """At most `most` ticks that a person would choose, for a logarithmic axis (`Axes.xaxis`) of any span."""
    low, high = limits
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    inside = lambda ticks: [tick for tick in ticks if low <= tick <= high]  # noqa: E731
    for steps in ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = inside(step * 10.0**decade for decade in decades for step in steps)
        if len(ticks) <= most:
            break
    if len(ticks) > most:
        ticks = ticks[:: -(-len(ticks) // most)]
    if len(ticks) < 3:  # less than half a decade: round numbers at equal distances
        ticks = inside(MaxNLocator(most - 1).tick_values(low, high))
    axis.set_ticks(ticks, [f"{100 * tick:.3g}%" if percent else f"{tick:,.4g}" for tick in ticks])
    axis.set_minor_locator(NullLocator())


def png(figure: Figure) -> bytes:
    """The figure as PNG, the same bytes every time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def html_image(figure: Figure) -> str:
    """The figure as an HTML image that carries its alt text."""
    data = base64.b64encode(png(figure)).decode("ascii")
    return f'<img alt="{html.escape(figure.alt_text)}" src="data:image/png;base64,{data}"/>'


def mime_bundle(figure: Figure) -> dict[str, str]:
    """The figure for a notebook: HTML with alt text for browsers, PNG for PDF, words for everything else."""
    data = base64.b64encode(png(figure)).decode("ascii")
    return {"text/html": html_image(figure), "image/png": data, "text/plain": figure.alt_text}
