"""Pictures of a check-up, from the frames of `analysis`; narrow, so that they can be read on a phone.

The words of each picture are its verdict: one line, computed from the same numbers, that `show` writes below it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from IPython.display import Markdown, display
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ..plots.base import (
    ABOVE,
    BLUE,
    COLOURS,
    ORANGE,
    RED,
    Picture,
    figure_with_axes,
    layer_axis,
    log_y,
    mime_bundle,
    panels,
    style,
)
from .columns import ALL

WIDTH = 5.6  # inches
FEW = 4  # that are named in a verdict


def show(figure: Picture) -> None:
    """Display a figure, and below it its words."""
    display(mime_bundle(figure), raw=True)
    display(Markdown(figure.alt_text))


def whole_text(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows for all kinds together, those of the only kind where there is one."""
    kinds = frame.index.get_level_values("kind")
    return frame[kinds == (ALL if ALL in kinds else kinds[0])]


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
        words.append(f"by {whole.measure.iloc[0]} the layers {least} matter least, {whole.layer.iloc[-1]} most")
    axes[0].legend(ncols=3, **ABOVE)
    layer_axis(axes[-1])
    return figure.described("Points with 95% intervals for each layer: ", words)


def plot_neurons(frame: pd.DataFrame) -> Picture:
    """The cost of each layer's neurons, as bands of quantiles, over the layers."""
    bands = frame.groupby("layer").cost.quantile([0.05, 0.25, 0.5, 0.75, 0.95]).unstack()  # noqa: PD010
    bands = bands.clip(lower=1e-12)
    figure, axes = figure_with_axes((WIDTH, 3.2), ylabel="cost of a neuron alone\n(% of the layer's energy)")
    axes.fill_between(bands.index, bands[0.05], bands[0.95], color=BLUE, alpha=0.2, label="5% to 95%")
    axes.fill_between(bands.index, bands[0.25], bands[0.75], color=BLUE, alpha=0.4, label="quartiles")
    axes.plot(bands.index, bands[0.5], color=BLUE, label="median")
    _cost_axes(axes, frame)
    axes.legend(ncols=3, **ABOVE)
    low, high = bands[0.5].idxmin(), bands[0.5].idxmax()
    return figure.described(
        f"Bands of the cost of single neurons over the layers: the median is lowest in layer {low}, "
        f"{bands[0.5][low]:.2%} of the layer's energy, and highest in layer {high}, {bands[0.5][high]:.2%}."
    )


def plot_groups(frame: pd.DataFrame) -> Picture:
    """The cost of each KV group alone, a point a group."""
    figure, axes = figure_with_axes((WIDTH, 2.8), ylabel="cost of a KV group alone\n(% of the layer's energy)")
    axes.scatter(frame.layer, frame.cost.clip(lower=1e-12), s=14, color=ORANGE)
    _cost_axes(axes, frame)
    order = frame.sort_values("cost").head(FEW)
    least = (f"group {row.group} of layer {row.layer} ({row.cost:.1%})" for row in order.itertuples())
    return figure.described("Points of the cost of each KV group over the layers; the least cost ", least)


def plot_curves(frame: pd.DataFrame, share: float = 0.3) -> Picture:
    """Error of each layer's MLP against the neurons gone, a line a layer; the words are of `share` gone."""
    rows = frame[(frame.part == "mlp") & (frame.gone > 0)]
    ylabel, xlabel = "error left after the refit\n(% of the layer's energy)", "neurons gone (% of the layer)"
    figure, axes = figure_with_axes((WIDTH, 3.6), xlabel=f"{xlabel}, from {_tokens(frame)}", ylabel=ylabel)
    last = int(rows.layer.max())
    at = {}
    for layer, of_layer in rows.groupby("layer"):
        depth = layer / max(last, 1)
        looks = {"color": tuple((1 - depth) * np.array(ORANGE) + depth * np.array(BLUE)), "linewidth": 0.9}
        label = {0: "first layer", last: "last layer"}.get(layer)
        axes.plot(of_layer.share_gone, of_layer.error.clip(lower=1e-6), label=label, **looks)
        at[layer] = float(np.interp(share, of_layer.share_gone, of_layer.error))
    log_y(axes, percent=True, most=6)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.legend(ncols=2, **ABOVE)
    low, high = min(at, key=at.__getitem__), max(at, key=at.__getitem__)
    return figure.described(
        f"Lines of the error against the neurons gone, from orange (first layer) to blue (last): with {share:.0%} gone "
        f"the error is least in layer {low}, {at[low]:.1%}, and largest in layer {high}, {at[high]:.1%}."
    )


def plot_costs(frame: pd.DataFrame) -> Picture:
    """Increase of the loss against the ratio, on the mean of the kinds, a line with 95% intervals for each way."""
    frame = whole_text(frame)
    xlabel = f"parameters of the decoder removed (judged on {_tokens(frame)})"
    figure, axes = figure_with_axes((WIDTH, 3.2), xlabel=xlabel, ylabel="increase of the loss\n(nats per token)")
    for place, (way, rows) in enumerate(frame.groupby("way", sort=False)):
        looks = {"capsize": 3, "linewidth": 1.2} | style(place)
        axes.errorbar(rows.removed, rows.increase, _ends(rows, "increase"), label=way, **looks)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))  # as many digits as tell the ticks apart
    axes.xaxis.set_major_locator(MaxNLocator(5))  # which may be many
    axes.margins(x=0.08)
    axes.legend(ncols=3, **ABOVE)
    return figure.described("Lines of the loss added on the mean of the kinds: ", _cheapest(frame))


def _cheapest(frame: pd.DataFrame) -> Iterator[str]:
    """For each ratio the way that costs least, and from which others it cannot be told apart."""
    for ratio, rows in frame.groupby("ratio"):
        first, *others = rows.sort_values("increase").itertuples()
        words = f"at {ratio:.0%} {first.way} costs least, {first.increase:+.2f} ({first.low:+.2f} to {first.high:+.2f})"
        close = [other.way for other in others if other.low <= first.high]
        yield f"{words}, not told apart from {', '.join(close)}" if close else words


def plot_kind_costs(frame: pd.DataFrame, way: str) -> Picture:
    """Increase of the loss on each kind of text, a point with its interval for each ratio."""
    rows = frame[frame.way == way].reset_index()
    kinds = list(dict.fromkeys(rows.kind))
    xlabel = f"increase of the loss (nats per token; {rows[rows.kind != ALL].tokens.max():,} tokens a kind)"
    figure, axes = figure_with_axes((WIDTH, 0.3 * len(kinds) + 1.3), xlabel=xlabel)
    ratios, words = sorted(set(rows.ratio)), []
    for place, ratio in enumerate(ratios):
        of_ratio = rows[rows.ratio == ratio].set_index("kind").loc[kinds]
        heights = np.arange(len(kinds)) + 0.22 * (place - (len(ratios) - 1) / 2)
        looks = {"linestyle": "none", "markersize": 4, "capsize": 2, "elinewidth": 1} | style(place)
        axes.errorbar(of_ratio.increase, heights, xerr=_ends(of_ratio, "increase"), label=f"{ratio:.0%} asked", **looks)
        worst = of_ratio.increase.drop(ALL, errors="ignore").idxmax()
        words.append(f"at {ratio:.0%} most on {worst}, {of_ratio.increase[worst]:+.2f}")
    axes.set_yticks(range(len(kinds)), kinds)
    axes.invert_yaxis()
    axes.legend(ncols=3, **ABOVE)
    return figure.described(f"Points of the loss added on {len(kinds)} texts by {way} widths: ", words)


def plot_changed_layers(frame: pd.DataFrame) -> Picture:
    """How far the streams of two models are apart behind each layer, above; neurons that died, below."""
    labels = ["streams apart\n(1 - mean cosine)", "neurons that died\n(% of the layer)"]
    figure, (top, bottom) = panels(2, 1, (WIDTH, 4.6), "x", ylabel=labels)
    looks = {"color": BLUE, "marker": "o", "markersize": 3.5, "linewidth": 1, "elinewidth": 1}
    top.errorbar(frame.layer, frame.stream, _ends(frame, "stream"), **looks)
    gone = frame.other_layer.isna()
    bottom.bar(frame.layer, frame.died / frame.neurons, color=[RED if dropped else COLOURS[1] for dropped in gone])
    bottom.set_title("red: the layer was dropped" if gone.any() else "", fontsize=9)
    bottom.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    bottom.set_ylim(0, None)
    layer_axis(bottom, label=_behind(frame))
    most = frame.dropna(subset=["stream"]).sort_values("stream").iloc[-1]
    return figure.described(
        f"Two panels over {len(frame)} layers: the streams are furthest apart behind layer {int(most.layer)}, "
        f"{most.stream:.3f}; {int(frame.died.sum()):,} of {int(frame.neurons.sum()):,} neurons died; dropped layers: "
        f"{', '.join(map(str, frame.layer[gone])) or 'none'}."
    )


def _cost_axes(axes: Axes, frame: pd.DataFrame) -> None:
    log_y(axes, percent=True, most=6)
    layer_axis(axes, label=_behind(frame))


def _ends(rows: pd.DataFrame, name: str) -> np.ndarray:
    """How far the interval of a column goes down and up (2, rows); 0 where there is none."""
    return np.nan_to_num(np.clip([rows[name] - rows.low, rows.high - rows[name]], 0, None))


def _behind(frame: pd.DataFrame) -> str:
    """The label of an axis of layers, with the tokens behind the points."""
    return f"decoder layer (from {_tokens(frame)})"


def _tokens(frame: pd.DataFrame) -> str:
    return f"{int(frame.tokens.max()):,} tokens"
