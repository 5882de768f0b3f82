"""Figures of the lessons, a module for each: pure functions from results to pictures.

`comp_lib.reports.plots.base` says what holds of all pictures. This module has what several lessons draw
with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from comp_lib.reports.plots.base import GREY

Interval = tuple[float, float, float]  # a mean, and the ends of its 95% interval; NaN where none is known
Offset = tuple[float, float]  # of a name from its point: to the right and up, in points of print
TITLE = 26  # points of print between the axes and a title that stands above a legend
UNLED_DISTANCE = 10  # points of print: a name that is further from its point gets a line that leads to it
# offsets for `name_points`, the best first: beside the point, and at a distance
TIGHT_RIGHT: list[Offset] = [(4, 5), (5, 0), (4, -5)]
TIGHT_LEFT: list[Offset] = [(-4, 5), (-5, 0), (-4, -5)]
TIGHT_ABOVE_AND_BELOW: list[Offset] = [(1, 8), (1, -8)]
TIGHT_CORNERS: list[Offset] = [(8, 6), (-8, 6), (8, -6), (-8, -6)]
TIGHT_OFFSETS = TIGHT_RIGHT + TIGHT_LEFT + TIGHT_ABOVE_AND_BELOW + TIGHT_CORNERS
DIRECTIONS = [(12, -8), (12, 8), (-12, 8), (-12, -8), (16, -18)]
WIDE_OFFSETS: list[Offset] = [(factor * x, factor * y) for factor in (1, 2, 3, 4) for x, y in DIRECTIONS]


def spans(intervals: Sequence[Sequence[float]]) -> tuple[Any, Any]:
    """Means (n,), and how far the ends of their intervals lie below and above them (2, n).

    This is the form in which `Axes.errorbar` takes them.
    """
    means, lows, highs = np.array(intervals, dtype=float).T
    return means, np.nan_to_num([means - lows, highs - means])


def name_points(
    axes: Axes,
    points: Mapping[str, tuple[float, float]],
    fontsize: int = 8,
    offsets: Sequence[Offset] = WIDE_OFFSETS,
) -> None:
    """Writes names beside points, each at the first of `offsets` where it covers no other name and no point.

    If no offset is free, the last one is taken. A line leads from a distant name to its point.
    """
    figure: Any = axes.figure
    looks: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": fontsize}
    texts = [axes.annotate(name, point, (0, 0), **looks) for name, point in points.items()]
    figure.draw_without_rendering()  # the layout is settled: now pixels are where they will be
    sizes = [text.get_window_extent().size for text in texts]
    for text in texts:
        text.remove()
    pixels = axes.transData.transform(list(points.values()))
    occupied = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in pixels]
    line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 3}
    for (name, point), (x, y), (width, height) in zip(points.items(), pixels, sizes, strict=True):
        for offset in offsets:
            right, up = (distance * figure.dpi / 72 for distance in offset)
            left = x + right
            side = "left"  # of the name, at the offset
            if right < 0:
                left -= width
                side = "right"
            box = Bbox.from_bounds(left, y + up - height / 2, width, height)
            leader = None
            if max(map(abs, offset)) > UNLED_DISTANCE:
                leader = line
                box = box.padded(3)  # the line needs room too
            inside = axes.bbox.contains(*box.min) and axes.bbox.contains(*box.max)
            if inside and not any(box.overlaps(obstacle) for obstacle in occupied):
                break
        axes.annotate(name, point, offset, ha=side, arrowprops=leader, **looks)
        occupied.append(box)


def overlapping_texts(figure: Figure) -> list[str]:
    """What cannot be read in the figure: pairs of texts that overlap, and texts that its edge cuts off."""
    figure.draw_without_rendering()
    texts = [text for text in _texts(figure) if text.get_visible() and text.get_text().strip()]
    # the letters of a text are a pixel smaller than its box
    boxes = [text.get_window_extent().padded(-1) for text in texts]
    text_boxes = list(zip(texts, boxes, strict=True))
    faults = []
    for (upper, upper_box), (lower, lower_box) in combinations(text_boxes, 2):
        if upper_box.overlaps(lower_box):
            faults.append(f"{upper.get_text()!r} on {lower.get_text()!r}")
    edge = figure.bbox.padded(2)
    for text, box in text_boxes:
        if not (edge.contains(*box.min) and edge.contains(*box.max)):
            faults.append(f"{text.get_text()!r} over the edge")
    return faults


def _texts(figure: Figure) -> list[Text]:
    """All texts that are drawn; of the ticks only those within the axes' limits."""
    drawn = list(figure.texts)  # the title of the figure is one of them
    for legend in figure.legends:
        drawn += legend.get_texts()
    for axes in figure.axes:
        if not axes.get_visible():
            continue
        drawn += [*axes.texts, axes.title]
        legend_of_axes = axes.get_legend()
        if legend_of_axes is not None:
            drawn += legend_of_axes.get_texts()
        if not axes.axison:
            continue
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            drawn += [axis.label, *(tick.label1 for tick in ticks)]
    return drawn
