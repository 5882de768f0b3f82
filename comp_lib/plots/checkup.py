"""Pictures of a check-up, from the frames of `analysis`; narrow, so that they can be read on a phone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator, PercentFormatter

from .base import (
    ABOVE,
    BLUE,
    COLOURS,
    DASHED,
    GREEN,
    GREY,
    ORANGE,
    RED,
    Picture,
    figure_with_axes,
    layer_axis,
    log_y,
    panels,
    style,
)

WIDTH = 5.6  # inches
FEW = 4  # layers that are named in the words
ALL_KINDS = "all"


def plot_parts(attention: Sequence[float], mlp: Sequence[float], other: float) -> Picture:
    """Millions of parameters of each layer, by what holds them; `other`: embeddings, head and the last norm."""
    figure, axes = figure_with_axes((WIDTH, 2.6), ylabel="parameters (millions)")
    layers = range(len(mlp))
    axes.bar(layers, attention, color=ORANGE, label="attention")
    axes.bar(layers, mlp, bottom=attention, color=GREEN, label="MLP")
    axes.legend(ncols=2, **ABOVE)
    layer_axis(axes)
    return figure.described(
        f"Bar chart of the parameters of {len(mlp)} decoder layers: {sum(attention):,.1f} million in attention, "
        f"{sum(mlp):,.1f} million in the MLPs; {other:,.1f} million more are outside the decoder."
    )


def plot_layer_frame(frame: pd.DataFrame) -> Picture:
    """Block influence of each layer, attention and MLP apart, and below its harm, where that was measured.

    frame: of `analysis.layers`; the rows for all kinds are drawn, with their intervals.
    """
    frame = whole_text(frame)
    harm = frame[frame.measure == "harm"]
    shown = [frame[frame.measure == "block influence"], harm][: 1 + bool(len(harm))]
    names = ("block influence\n1 - mean cosine", "harm without it\nnats per token")
    labels = [f"{name}\n({_tokens(rows)})" for name, rows in zip(names, shown, strict=False)]
    figure, axes = panels(len(shown), 1, (WIDTH, 2.4 * len(shown) + 0.4), "x", ylabel=labels)
    for panel, rows in zip(axes, shown, strict=True):
        for place, (part, of_part) in enumerate(rows.groupby("part", sort=False)):
            ends = [of_part.value - of_part.low, of_part.high - of_part.value]
            looks = {"markersize": 3.5, "linewidth": 1, "elinewidth": 1} | style(place)
            panel.errorbar(of_part.layer, of_part.value, np.nan_to_num(np.clip(ends, 0, None)), label=part, **looks)
        if (rows.value > 0).all():
            log_y(panel, most=6)
    axes[0].legend(ncols=3, **ABOVE)
    layer_axis(axes[-1])
    words = []
    for rows in shown:
        whole = rows[rows.part == "layer"].sort_values("value")
        least = ", ".join(f"{row.layer} ({row.value:.3g})" for row in whole.head(FEW).itertuples())
        words.append(f"by {whole.measure.iloc[0]} the least layers are {least}, the highest {whole.layer.iloc[-1]}")
    return figure.described("Points with 95% intervals for each decoder layer, attention and MLP apart: ", words)


def plot_neuron_frame(frame: pd.DataFrame) -> Picture:
    """The cost of each layer's neurons, as bands of quantiles, over the layers. frame: of `analysis.neurons`."""
    shares = (0.05, 0.25, 0.5, 0.75, 0.95)
    bands = frame.groupby("layer").cost.quantile(list(shares)).unstack()  # noqa: PD010
    bands = bands.clip(lower=1e-12)
    ylabel = "cost of a neuron alone\n(% of the layer's energy)"
    figure, axes = figure_with_axes((WIDTH, 3.2), ylabel=ylabel)
    axes.fill_between(bands.index, bands[0.05], bands[0.95], color=BLUE, alpha=0.2, label="5% to 95%")
    axes.fill_between(bands.index, bands[0.25], bands[0.75], color=BLUE, alpha=0.4, label="quartiles")
    axes.plot(bands.index, bands[0.5], color=BLUE, label="median")
    log_y(axes, percent=True, most=6)
    axes.legend(ncols=3, **ABOVE)
    layer_axis(axes, label=_behind(frame))
    low, high = bands[0.5].idxmin(), bands[0.5].idxmax()
    return figure.described(
        f"Bands of the cost of single neurons over {len(bands)} layers, in percent of the layer's energy. The median "
        f"is lowest in layer {low}, {bands[0.5][low]:.2%}, and highest in layer {high}, {bands[0.5][high]:.2%}."
    )


def plot_group_frame(frame: pd.DataFrame) -> Picture:
    """The cost of each KV group alone, a point a group. frame: of `analysis.groups`."""
    ylabel = "cost of a KV group alone\n(% of the layer's energy)"
    figure, axes = figure_with_axes((WIDTH, 2.8), ylabel=ylabel)
    axes.scatter(frame.layer, frame.cost.clip(lower=1e-12), s=14, color=ORANGE)
    log_y(axes, percent=True, most=6)
    layer_axis(axes, label=_behind(frame))
    order = frame.sort_values("cost")
    least = (f"group {row.group} of layer {row.layer} {row.cost:.1%}" for row in order.head(FEW).itertuples())
    return figure.described("Points of the cost of each KV group over the layers; the least: ", least)


def plot_spectra_frame(frame: pd.DataFrame) -> Picture:
    """Effective rank over the number of inputs, of C and G of both dense layers. frame: of `analysis.spectra`."""
    figure, axes = figure_with_axes((WIDTH, 3.0), ylabel="effective rank\n(% of what it could be)")
    first, words = frame[frame.place == 1], []
    for place, ((part, matrix), rows) in enumerate(first.groupby(["part", "matrix"], sort=False)):
        share = rows.effective_rank / rows["size"]
        axes.plot(rows.layer, share, label=f"{part}, {matrix}", markersize=3.5, linewidth=1, **style(place))
        words.append(f"{matrix} of {part} {share.min():.1%} to {share.max():.1%}")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylim(0, None)
    axes.legend(ncols=2, **ABOVE)
    layer_axis(axes, label=_behind(frame))
    return figure.described("Lines of the effective rank over the layers, as a share of the largest possible: ", words)


def plot_curve_frame(frame: pd.DataFrame, share: float = 0.3) -> Picture:
    """Error of each layer's MLP against the neurons gone, a line a layer. frame: of `analysis.curves`."""
    rows = frame[(frame.part == "mlp") & (frame.gone > 0)]
    ylabel, xlabel = "error left after the re-tuning\n(% of the layer's energy)", "neurons gone (% of the layer)"
    xlabel += f", from {_tokens(frame)}"
    figure, axes = figure_with_axes((WIDTH, 3.6), xlabel=xlabel, ylabel=ylabel)
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
        f"Lines of the error against the neurons gone, one for each of {len(at)} layers, from orange (first) to blue "
        f"(last). With {share:.0%} gone the error is least in layer {low}, {at[low]:.1%}, and largest in layer {high}, "
        f"{at[high]:.1%}."
    )


def plot_cost_frame(frame: pd.DataFrame, allowed: float | None = None) -> Picture:
    """Increase of the loss against the ratio, a line with 95% intervals for each way. frame: of `analysis.costs`."""
    frame = whole_text(frame)
    xlabel = f"parameters of the decoder removed (judged on {_tokens(frame)})"
    ylabel = "increase of the loss\n(nats per token)"
    figure, axes = figure_with_axes((WIDTH, 3.2), xlabel=xlabel, ylabel=ylabel)
    words = []
    for place, (way, rows) in enumerate(frame.groupby("way", sort=False)):
        rows = rows.sort_values("removed")
        ends = np.nan_to_num(np.clip([rows.increase - rows.low, rows.high - rows.increase], 0, None))
        axes.errorbar(rows.removed, rows.increase, ends, label=way, capsize=3, linewidth=1.2, **style(place))
        numbers = ", ".join(f"{row.increase:+.2f} at {row.removed:.0%}" for row in rows.itertuples())
        words.append(f"{way} {numbers}")
    if allowed is not None:
        axes.axhline(allowed, **DASHED, label="allowed")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))  # as many digits as tell the ticks apart
    axes.xaxis.set_major_locator(MaxNLocator(5))  # which may be many
    axes.margins(x=0.08)
    axes.legend(ncols=3, **ABOVE)
    return figure.described("Lines of the loss added, with 95% intervals, on the mean of the kinds: ", words)


def plot_kind_costs(frame: pd.DataFrame, way: str) -> Picture:
    """Increase of the loss on each kind of text, a point with its interval for each ratio. frame: of `costs`."""
    rows = frame[frame.way == way].reset_index()
    kinds = list(dict.fromkeys(rows.kind))
    tokens = rows[rows.kind != ALL_KINDS].tokens.max()
    xlabel = f"increase of the loss (nats per token; {tokens:,} tokens a kind)"
    figure, axes = figure_with_axes((WIDTH, 0.3 * len(kinds) + 1.3), xlabel=xlabel)
    ratios, words = sorted(set(rows.ratio)), []
    for place, ratio in enumerate(ratios):
        of_ratio = rows[rows.ratio == ratio].set_index("kind").loc[kinds]
        heights = np.arange(len(kinds)) + 0.22 * (place - (len(ratios) - 1) / 2)
        ends = np.nan_to_num(np.clip([of_ratio.increase - of_ratio.low, of_ratio.high - of_ratio.increase], 0, None))
        looks = {"linestyle": "none", "markersize": 4, "capsize": 2, "elinewidth": 1} | style(place)
        axes.errorbar(of_ratio.increase, heights, xerr=ends, label=f"{ratio:.0%} asked", **looks)
        worst = of_ratio.increase.drop(ALL_KINDS, errors="ignore").idxmax()
        words.append(f"at {ratio:.0%} most on {worst}, {of_ratio.increase[worst]:+.2f}")
    axes.set_yticks(range(len(kinds)), kinds)
    axes.invert_yaxis()
    axes.legend(ncols=3, **ABOVE)
    return figure.described(f"Points of the loss added on {len(kinds)} texts by {way} widths: ", words)


def plot_latency_frame(frame: pd.DataFrame) -> Picture:
    """Where the time goes, a bar for each of decode and prefill. frame: of `analysis.latency`."""
    tokens = frame.groupby("what", sort=False).tokens.max()
    behind = ", ".join(f"{what} {count} tokens" for what, count in tokens.items())
    xlabel = f"time (% of the whole; {behind})"
    figure, axes = figure_with_axes((WIDTH, 1.9), xlabel=xlabel)
    words, colours = [], (GREY, BLUE, ORANGE, GREEN)
    for what, rows in frame.groupby("what", sort=False):
        left = 0.0
        for colour, row in zip(colours, rows.itertuples(), strict=False):
            axes.barh([what], row.share, left=left, color=colour, label=row.term if what == "decode" else None)
            left += row.share
        parts = ", ".join(f"{row.term} {row.share:.0%}" for row in rows.itertuples())
        parts += f", give or take {rows.misfit.max():.0%} of each"
        words.append(f"{what} {rows.milliseconds.sum():.1f} ms: {parts}")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlim(0.0, 1.0)
    axes.legend(ncols=2, **ABOVE)
    return figure.described("Bars of where the time goes: ", words)


def plot_stand_ins(name: str, coefficients: Sequence[float], stand_ins: Sequence[str]) -> Picture:
    """The coefficients with which other neurons stand in for one."""
    figure, axes = figure_with_axes((WIDTH, 0.3 * len(stand_ins) + 1.0), xlabel="coefficient")
    colours = [BLUE if value >= 0 else RED for value in coefficients]
    axes.barh(list(stand_ins), list(coefficients), color=colours)
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.set_title(f"Who stands in for {name}", fontsize=10)
    words = (f"{other} {value:+.3f}" for other, value in zip(stand_ins, coefficients, strict=True))
    return figure.described(f"Bars of the coefficients of those who stand in for {name}: ", words)


def plot_changed_layers(frame: pd.DataFrame) -> Picture:
    """How far the streams of two models are apart behind each layer, above; neurons that died, below."""
    labels = ["streams apart\n(1 - mean cosine)", "neurons that died\n(% of the layer)"]
    figure, (top, bottom) = panels(2, 1, (WIDTH, 4.6), "x", ylabel=labels)
    ends = np.nan_to_num(np.clip([frame.stream - frame.low, frame.high - frame.stream], 0, None))
    top.errorbar(frame.layer, frame.stream, ends, color=BLUE, marker="o", markersize=3.5, linewidth=1, elinewidth=1)
    share = frame.died / frame.neurons
    colours = [RED if np.isnan(other) else COLOURS[1] for other in frame.other_layer]
    bottom.bar(frame.layer, share, color=colours)
    if frame.other_layer.isna().any():
        bottom.set_title("red: the layer was dropped", fontsize=9)
    bottom.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    bottom.set_ylim(0, None)
    layer_axis(bottom, label=_behind(frame))
    dropped = [str(layer) for layer in frame.layer[frame.other_layer.isna()]]
    known = frame.dropna(subset=["stream"])
    most = known.loc[known.reset_index(drop=True).stream.idxmax() == np.arange(len(known))].iloc[0]
    return figure.described(
        f"Two panels over {len(frame)} layers. The streams are furthest apart behind layer {int(most.layer)}, "
        f"{most.stream:.3f}. {int(frame.died.sum()):,} of {int(frame.neurons.sum()):,} neurons died. Dropped layers: "
        f"{', '.join(dropped) or 'none'}."
    )


def _behind(frame: pd.DataFrame) -> str:
    """The label of an axis of layers, with the tokens behind the points."""
    return f"decoder layer (from {_tokens(frame)})"


def _tokens(frame: pd.DataFrame) -> str:
    return f"{int(frame.tokens.max()):,} tokens"


def whole_text(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows for all kinds together, those of the only kind where there is one."""
    kinds = frame.index.get_level_values("kind")
    return frame[kinds == (ALL_KINDS if ALL_KINDS in kinds else kinds[0])] if len(frame) else frame
