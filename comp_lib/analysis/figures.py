"""Pictures of a check-up, from the frames of `analysis`; narrow, so that they can be read on a phone.

The words of each picture are its verdict: one line, computed from the same numbers, that `show` writes below it.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import Markdown, display
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ..plots.base import ABOVE, Picture, figure_with_axes, layer_axis, log_y, mime_bundle, panels, style
from .columns import ALL
from .verdict import price

WIDTH = 5.6  # inches
FEW = 4  # that are named in a verdict


def show(figure: Picture) -> None:
    """Display a figure, and below it its words."""
    display(mime_bundle(figure), raw=True)
    display(Markdown(figure.alt_text))


def plot_layers(frame: pd.DataFrame) -> Picture:
    """Block influence of each layer, attention and MLP apart, and below it its harm, where that was measured."""
    shown = [rows for _, rows in frame.groupby("measure", sort=False)]
    units = {"block influence": "1 - mean cosine", "harm": "nats per token"}
    labels = [f"{rows.measure.iloc[0]}\n{units[rows.measure.iloc[0]]}\n({_tokens(rows)})" for rows in shown]
    figure, axes = panels(len(shown), 1, (WIDTH, 2.4 * len(shown) + 0.4), "x", ylabel=labels)
    words = []
    for panel, rows in zip(axes, shown, strict=True):
        for place, (part, of_part) in enumerate(rows.groupby("part", sort=False)):
            looks = {"markersize": 3.5, "linewidth": 1, "elinewidth": 1} | style(place)
            panel.errorbar(of_part.layer, of_part.value, _ends(of_part, "value"), label=part, **looks)
        if (rows.value > 0).all():
            log_y(panel, most=6)
        whole = rows[rows.part == "layer"].sort_values("value")
        least = ", ".join(f"{row.layer} ({row.value:.3g})" for row in whole.head(FEW).itertuples())
        words.append(
            f"by {whole.measure.iloc[0]} the layers {least} are lowest, {whole.layer.iloc[-1]} is highest"
        )
    axes[0].legend(ncols=3, **ABOVE)
    layer_axis(axes[-1])
    return figure.described(
        f"Points{'' if frame.low.isna().all() else ' with 95% intervals'} for each layer: ", words
    )


def plot_curves(frame: pd.DataFrame, share: float = 0.3) -> Picture:
    """Error of each layer's MLP against the neurons gone, a line a layer; the words are of `share` gone."""
    rows = frame[frame.gone > 0]
    figure, axes = figure_with_axes((WIDTH, 3.6))
    looks = {"hue": "layer", "palette": "flare", "units": "layer", "estimator": None, "linewidth": 0.9}
    sns.lineplot(rows, x="share_gone", y="error", ax=axes, **looks)
    xlabel = f"neurons gone (% of the layer), from {_tokens(frame)}"
    axes.set(xlabel=xlabel, ylabel="error left after the refit\n(% of the layer's energy)")
    log_y(axes, percent=True, most=6)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    at = {
        layer: np.interp(share, of_layer.share_gone, of_layer.error)
        for layer, of_layer in rows.groupby("layer")
    }
    low, high = min(at, key=at.__getitem__), max(at, key=at.__getitem__)
    return figure.described(
        f"Lines of the error against the neurons gone, one a layer, from light to dark: with {share:.0%} gone "
        f"the error is least in layer {low}, {100 * at[low]:.2g}%, and largest in layer {high}, {100 * at[high]:.2g}%."
    )


def plot_costs(frame: pd.DataFrame) -> Picture:
    """Increase of the loss against the ratio, on the mean of the kinds, a line with 95% intervals for each way."""
    kinds = frame.index.get_level_values("kind")
    frame = frame[kinds == (ALL if ALL in kinds else kinds[0])]
    xlabel = f"parameters of the decoder removed (judged on {_tokens(frame)})"
    figure, axes = figure_with_axes(
        (WIDTH, 3.2), xlabel=xlabel, ylabel="increase of the loss\n(nats per token)"
    )
    for place, (way, rows) in enumerate(frame.groupby("way", sort=False)):
        looks = {"capsize": 3, "linewidth": 1.2} | style(place)
        axes.errorbar(rows.removed, rows.increase, _ends(rows, "increase"), label=way, **looks)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))  # as many digits as tell the ticks apart
    axes.xaxis.set_major_locator(MaxNLocator(5))  # which may be many
    axes.margins(x=0.08)
    axes.legend(ncols=3, **ABOVE)
    words = [
        f"at {ratio:.0%} {', '.join(f'{row.way} {price(row)}' for row in rows.itertuples())}"
        for ratio, rows in frame.groupby("ratio")
    ]
    return figure.described("Lines of the loss added on the mean of the kinds, nats per token: ", words)


def plot_changed_layers(frame: pd.DataFrame) -> Picture:
    """How far the streams of two models are apart behind each layer; a layer that was dropped has no point."""
    figure, axes = figure_with_axes((WIDTH, 3.0), ylabel="streams apart\n(1 - mean cosine)")
    axes.errorbar(frame.layer, frame.stream, _ends(frame, "stream"), markersize=3.5, linewidth=1, **style(0))
    layer_axis(axes, label=f"decoder layer (from {_tokens(frame)})")
    most = frame.dropna(subset=["stream"]).sort_values("stream").iloc[-1]
    dropped = ", ".join(map(str, frame.layer[frame.other_layer.isna()]))
    return figure.described(
        f"Points of how far two streams are apart, furthest behind layer {int(most.layer)}, {most.stream:.3f}; "
        f"{int((frame.weights == 0).sum())} of {len(frame)} layers have the same weights"
        f"{f', dropped are the layers {dropped}' if dropped else ''}."
    )


def _ends(rows: pd.DataFrame, name: str) -> np.ndarray:
    """How far the interval of a column goes down and up (2, rows); 0 where there is none."""
    ends: np.ndarray = np.nan_to_num(np.clip([rows[name] - rows.low, rows.high - rows[name]], 0, None))
    return ends


def _tokens(frame: pd.DataFrame) -> str:
    return f"{int(frame.tokens.max()):,} tokens"
