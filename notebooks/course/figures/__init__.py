"""Figures of the lessons, a module for each: pure functions from results to pictures (see `comp_lib.plots.base`).

Here is what several of them draw with.
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

from comp_lib.plots.base import GREY

TITLE = 26  # points of print between the axes and a title that stands above a legend
Interval = tuple[float, float, float]  # a mean, and the ends of its 95% interval; NaN where none is known
NEAR = 10  # points of print, as the next two: of names from their points, of which the first that is free is taken
CLOSE = [
    (4, 5),
    (5, 0),
    (4, -5),
    (-4, 5),
    (-5, 0),
    (-4, -5),
    (1, 8),
    (1, -8),
    (8, 6),
    (-8, 6),
    (8, -6),
    (-8, -6),
]
PLACES = [
    (far * x, far * y) for far in (1, 2, 3, 4) for x, y in ((12, -8), (12, 8), (-12, 8), (-12, -8), (16, -18))
]


def spans(intervals: Sequence[Sequence[float]]) -> tuple[Any, Any]:
    """Means (n,), and how far the ends of their intervals are below and above (2, n), as `Axes.errorbar` takes them."""
    means, lows, highs = np.array(intervals, dtype=float).T
    return means, np.nan_to_num([means - lows, highs - means])


def name_points(
    axes: Axes,
    points: Mapping[str, tuple[float, float]],
    fontsize: int = 8,
    places: Sequence[tuple[float, float]] = PLACES,
) -> None:
    """Names beside points, each at the first of `places` where it covers no other name and no point.

    A line leads from a name that is further away to its point.
    """
    figure: Any = axes.figure
    looks: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": fontsize}
    texts = [axes.annotate(name, point, (0, 0), **looks) for name, point in points.items()]
    figure.draw_without_rendering()  # the layout is settled: now pixels are where they will be
    sizes = [text.get_window_extent().size for text in texts]
    for text in texts:
        text.remove()
    pixels = axes.transData.transform(list(points.values()))
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in pixels]
    line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 3}
    for (name, point), (x, y), (width, height) in zip(points.items(), pixels, sizes, strict=True):
        for place in places:
            right, up = (offset * figure.dpi / 72 for offset in place)
            left = x + right - (width if right < 0 else 0)
            far = max(map(abs, place)) > NEAR  # then the line needs room too
            box = Bbox.from_bounds(left, y + up - height / 2, width, height).padded(3 if far else 0)
            inside = axes.bbox.contains(*box.min) and axes.bbox.contains(*box.max)
            if inside and not any(box.overlaps(other) for other in taken):
                break
        side = "right" if right < 0 else "left"
        axes.annotate(name, point, place, ha=side, arrowprops=line if far else None, **looks)
        taken.append(box)


def overlapping_texts(figure: Figure) -> list[str]:
    """What cannot be read in the figure: pairs of texts that lie on each other, and texts that its edge cuts off."""
    figure.draw_without_rendering()
    texts = [text for text in _texts(figure) if text.get_visible() and text.get_text().strip()]
    boxes = [text.get_window_extent().padded(-1) for text in texts]  # pixels; letters touch no sooner
    found = [
        f"{one.get_text()!r} on {other.get_text()!r}"
        for (one, box), (other, second) in combinations(zip(texts, boxes, strict=True), 2)
        if box.overlaps(second)
    ]
    edge = figure.bbox.padded(2)
    outside = [
        text.get_text()
        for text, box in zip(texts, boxes, strict=True)
        if not (edge.contains(*box.min) and edge.contains(*box.max))
    ]
    return found + [f"{words!r} over the edge" for words in outside]


def _texts(figure: Figure) -> list[Text]:
    """All texts that are drawn; of the ticks only those within the axes' limits."""
    drawn = [
        *figure.texts,
        *(text for legend in figure.legends for text in legend.get_texts()),
    ]  # titles are texts
    for axes in figure.axes:
        if not axes.get_visible():
            continue
        drawn += [*axes.texts, axes.title]
        if legend := axes.get_legend():
            drawn += legend.get_texts()
        for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            drawn += [axis.label, *(tick.label1 for tick in ticks)]
    return drawn
