"""The picture of a comparison: what each method costs the model, by how much goes.

Tables are the finished rows of `compare.run` with their `label` (see `summary.finished`). A large mark is the mean over
the seeds of the calibration text, a small one a seed; whiskers are the 95% interval over the evaluation windows (of
several seeds the mean of its ends). Methods at one place are drawn beside each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation

from ..plots.base import BESIDE, LOSS, Picture, figure_with_axes, log_y, style

LOG_LOSS = LOSS.replace("token)", "token, log scale)")
APART = 4.0  # points of print between methods at one place


def plot_increase(rows: pd.DataFrame) -> Picture:
    """Loss increase against the part really removed, a line for each method, with whiskers and seeds."""
    figure, axes = figure_with_axes((8.0, 4.4), xlabel="removed (% of the decoder's parameters)")
    words = []
    for name, marks, own in methods(rows, rows):
        groups = own.groupby("ratio")
        x = 100 * groups.removed.mean()
        y = line_with_whiskers(axes, x, groups, name, marks)
        words.append(f"{name} from {y.iloc[0]:.2f} nats at {x.iloc[0]:.0f}% to {y.iloc[-1]:.2f} at {x.iloc[-1]:.0f}%")
    name_losses(figure, rows)
    return figure.described(f"Lines of the loss increase against the part removed{over_seeds(rows)}: ", words)


def methods(rows: pd.DataFrame, everything: pd.DataFrame) -> Iterator[tuple[str, dict[str, Any], pd.DataFrame]]:
    """(label, colour and marker, its rows); a label has one colour and marker throughout `everything`."""
    for place, name in enumerate(everything.label.unique()):
        own = rows[rows.label == name]
        if len(own):
            yield name, style(place), own


def line_with_whiskers(axes: Axes, x: Any, groups: Any, name: str, marks: dict[str, Any]) -> pd.Series:
    """The mean of each group against x with its 95% interval, and its seeds where there are several; the means."""
    means = groups.increase.mean()
    spans = [means - groups.increase_low.mean(), groups.increase_high.mean() - means]
    drawn = axes.errorbar(x, means, spans, label=name, capsize=2, linewidth=1, **marks).get_children()
    for place, (_, own) in zip(x, groups.increase, strict=True):
        if len(own) > 1:
            drawn += axes.plot([place] * len(own), own, ".", color=marks["color"], alpha=0.6)
    figure: Any = axes.figure
    aside = APART * (len(axes.containers) - 2.5) / 72  # inches
    for artist in drawn:  # now that the data decided the limits
        artist.set_transform(artist.get_transform() + ScaledTranslation(aside, 0, figure.dpi_scale_trans))
    return means


def name_losses(figure: Picture, rows: pd.DataFrame) -> None:
    """Name the y axis, make it logarithmic unless some value has no logarithm, and add the legend."""
    logarithmic = rows.increase.min() > 0
    for axes in figure.axes if logarithmic else ():
        log_y(axes)
    figure.axes[0].set_ylabel(LOG_LOSS if logarithmic else LOSS)
    figure.axes[-1].legend(**BESIDE)


def over_seeds(rows: pd.DataFrame) -> str:
    """What an alt text says of several seeds."""
    count = rows.seed.nunique()
    return f" (means over {count} seeds)" if count > 1 else ""
