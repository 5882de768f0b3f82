"""What all figures share: one palette, one style, and words for those who cannot see them.

A plot function is pure: results in, a matplotlib Figure out, with `figure.alt_text` saying what a reader who cannot
see it would want to know, computed from the same numbers. Colours come from seaborn's colour-blind palette, axes carry
their units, and nothing opens a window or touches pyplot's state.
"""

from __future__ import annotations

import base64
import html
import io

import seaborn as sns
from matplotlib.figure import Figure

COLOURS = sns.color_palette("colorblind")
DPI = 90


def figure_with_axes(rows: int = 1, columns: int = 1, size: tuple[float, float] = (8.0, 4.0), **subplots):
    """A Figure and its axes, as `matplotlib.pyplot.subplots` gives them, in the house style."""
    with sns.axes_style("whitegrid"):
        figure = Figure(figsize=size, layout="constrained", dpi=DPI)
        return figure, figure.subplots(rows, columns, **subplots)


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
