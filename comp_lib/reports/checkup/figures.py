"""Pictures of a check-up, from the frames of `analysis`; narrow, so that they can be read on a phone.

The alt text of each picture is a summary in one line, computed from the same numbers. `show` writes it below
the picture.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from IPython.display import Markdown, display
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ..plots.base import (
    LEGEND_ABOVE,
    Picture,
    figure_with_axes,
    layer_axis,
    log_y,
    mime_bundle,
    panels,
    style,
)
from .columns import rows_of_mean
from .recommendation import cost_text

WIDTH = 5.6  # inches
NAMED_LAYERS = 4  # layers that an alt text names
UNITS = {"block influence": "1 - mean cosine", "loss increase": "nats per token"}  # of the measures of layers


def show(figure: Picture) -> None:
    """Display a figure, and below it its words."""
    display(mime_bundle(figure), raw=True)
    display(Markdown(figure.alt_text))


def plot_layers(frame: pd.DataFrame) -> Picture:
    """Block influence of each layer, its attention and its MLP; below it the loss increase, if measured."""
    frames = dict(list(frame.groupby("measure", sort=False)))
    labels = [f"{measure}\n{UNITS[measure]}\n({_tokens(rows)})" for measure, rows in frames.items()]
    figure, axes = panels(len(frames), 1, (WIDTH, 2.4 * len(frames) + 0.4), "x", ylabel=labels)
    items = []
    for panel, (measure, rows) in zip(axes, frames.items(), strict=True):
        for index, (part, rows_of_part) in enumerate(rows.groupby("part", sort=False)):
            panel.errorbar(
                rows_of_part.layer,
                rows_of_part.value,
                _whiskers(rows_of_part, "value"),
                label=part,
                markersize=3.5,
                linewidth=1,
                elinewidth=1,
                **style(index),
            )
        if (rows.value > 0).all():
            log_y(panel, max_ticks=6)
        layers = rows[rows.part == "layer"].sort_values("value")
        lowest = ", ".join(f"{row.layer} ({row.value:.3g})" for row in layers.head(NAMED_LAYERS).itertuples())
        items.append(f"by {measure} the layers {lowest} are lowest, {layers.layer.iloc[-1]} is highest")
    axes[0].legend(ncols=3, **LEGEND_ABOVE)
    figure.suptitle("How far each layer, and each half of it, turns the stream")
    layer_axis(axes[-1])
    intervals = "" if frame.low.isna().all() else " with 95% intervals"
    return figure.with_alt_text(f"Points{intervals} for each layer: ", items)


def plot_costs(frame: pd.DataFrame) -> Picture:
    """Increase of the loss on the mean of the kinds against the ratio: a line for each way."""
    frame = rows_of_mean(frame)
    xlabel = f"parameters of the decoder removed (judged on {_tokens(frame)})"
    figure, axes = figure_with_axes(
        (WIDTH, 3.2), xlabel=xlabel, ylabel="increase of the loss\n(nats per token)"
    )
    for index, (way, rows) in enumerate(frame.groupby("way", sort=False)):
        whiskers = _whiskers(rows, "increase")
        axes.errorbar(
            rows.removed, rows.increase, whiskers, label=way, capsize=3, linewidth=1.2, **style(index)
        )
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))  # as many digits as tell the ticks apart
    axes.xaxis.set_major_locator(MaxNLocator(5))  # more ticks would have more digits
    axes.margins(x=0.08)
    axes.legend(ncols=3, **LEGEND_ABOVE)
    items = []
    for ratio, rows in frame.groupby("ratio"):
        costs = ", ".join(f"{row.way} {cost_text(row)}" for row in rows.itertuples())
        items.append(f"at {ratio:.0%} {costs}")
    heading = "Lines of the loss added on the mean of the kinds, nats per token: "
    return figure.with_alt_text(heading, items)


def plot_changed_layers(frame: pd.DataFrame) -> Picture:
    """How far the streams of two models are apart after each layer; a dropped layer has no point."""
    figure, axes = figure_with_axes((WIDTH, 3.0), ylabel="streams apart\n(1 - mean cosine)")
    whiskers = _whiskers(frame, "stream")
    axes.errorbar(frame.layer, frame.stream, whiskers, markersize=3.5, linewidth=1, **style(0))
    layer_axis(axes, label=f"decoder layer (from {_tokens(frame)})")
    furthest = frame.dropna(subset=["stream"]).sort_values("stream").iloc[-1]
    unchanged = int((frame.weights == 0).sum())
    summary = (
        f"Points of how far two streams are apart, furthest after layer {int(furthest.layer)}, "
        f"{furthest.stream:.3f}; {unchanged} of {len(frame)} layers have the same weights"
    )
    dropped = frame.layer[frame.other_layer.isna()]
    if len(dropped):
        summary += f", dropped are the layers {', '.join(map(str, dropped))}"
    return figure.with_alt_text(f"{summary}.")


def _whiskers(rows: pd.DataFrame, column: str) -> np.ndarray:
    """How far the interval of a column goes down and up (2, rows); 0 where there is none."""
    distances = [rows[column] - rows.low, rows.high - rows[column]]
    whiskers: np.ndarray = np.nan_to_num(np.clip(distances, 0, None))
    return whiskers


def _tokens(frame: pd.DataFrame) -> str:
    """The number of tokens that a frame is from, in words."""
    return f"{int(frame.tokens.max()):,} tokens"
