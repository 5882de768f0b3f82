"""Pictures of layer importance (lesson 01): what layers are worth, proxy and harm, the stream, attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.ticker import MaxNLocator, MultipleLocator, NullFormatter
from numpy.typing import NDArray
from torch import Tensor

from comp_lib.errors import InputError, suggestion
from comp_lib.plots.base import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    Picture,
    figure_with_axes,
    layer_axis,
    note,
    panels,
)
from course.layer_importance import LayerStudy, ranks

from . import TIGHT_OFFSETS, name_points
from .animation import Frame

METRICS = {
    "block influence": "block influence\n(1 - mean cosine)",
    "loss increase": "harm: loss increase\n(nats per token)",
}
SMALLEST_TURN = 1e-5  # float32 cosines of nearly parallel states are noise below this


def values_of(study: LayerStudy, metric: str) -> Tensor:
    """The values (n,) of a metric. Raises InputError unless METRICS has its name."""
    if metric not in METRICS:
        hint = suggestion(metric, METRICS)
        raise InputError(expected="a layer metric", got=repr(metric), hint=hint)
    return study.influence if metric == "block influence" else study.mean_harm


def plot_layer_importance(study: LayerStudy, count: int) -> Picture:
    """Block influence above, the loss increase with 95% intervals below.

    The `count` layers that each would drop first are red.
    """
    layers = len(study.influence)
    figure, axes = panels(2, 1, (9.0, 5.2), "x")
    sentences = []
    for axis, metric in zip(axes, ("block influence", "loss increase"), strict=True):
        removed_first = values_of(study, metric).argsort(stable=True)[:count].tolist()
        _bars(axis, study, metric, removed_first)
        sentences.append(f"By {metric}, the {count} that go first are {_list(removed_first)}.")
    axes[0].set_title(f"Two readings of one model; orange: the {count} layers that would be removed first")
    _all_layers(axes[-1], layers)
    return figure.with_alt_text(f"Two bar charts over {layers} layers. {' '.join(sentences)}")


def plot_proxy(study: LayerStudy, correlation: float, marked: int) -> Picture:
    """Block influence against the loss increase, as values and as ranks.

    `correlation` is Spearman's, of the ranks. One layer is marked; the diagonal of the ranks is where a right
    proxy would have all layers.
    """
    layers = len(study.influence)
    influence = study.influence.numpy()
    harm = study.mean_harm.numpy()
    influence_ranks = (ranks(study.influence) + 1).numpy()
    harm_ranks = (ranks(study.mean_harm) + 1).numpy()
    xlabels = ["block influence (no unit), log scale", "place by block influence (1: goes first)"]
    ylabels = ["harm (nats per token)", "place by harm (dashed: the same place)"]
    titles = ["values, with 95% intervals", f"ranks of {layers} layers: Spearman {correlation:.2f}"]
    figure, (left, right) = panels(1, 2, (9.5, 4.4), title=titles, xlabel=xlabels, ylabel=ylabels)
    for axis, x, y in ((left, influence, harm), (right, influence_ranks, harm_ranks)):
        axis.scatter(x, y, s=22, color=BLUE)
        axis.scatter(x[marked], y[marked], s=70, color=RED, marker="D")
    errors = np.abs(study.harm_interval.numpy().T - harm)
    left.errorbar(influence, harm, errors, fmt="none", ecolor=GREY, elinewidth=1, zorder=0)
    left.set_xscale("log")
    left.xaxis.set_major_formatter("{x:g}")
    _bend(left, study.mean_harm, ylabels[0])
    left.set_ylim(min(0.0, 1.5 * harm.min()), 2.0 * harm.max())
    note(left, f"layer {marked}", (influence[marked], harm[marked]), (8, 6), fontsize=9)
    right.plot([1, layers], [1, layers], color=GREY, linewidth=1, linestyle="--")
    points = zip(influence_ranks, harm_ranks, strict=True)
    point_of_name = {str(layer): point for layer, point in enumerate(points)}
    name_points(right, point_of_name, fontsize=7, offsets=TIGHT_OFFSETS)
    return figure.with_alt_text(
        f"Two scatter plots of {layers} layers, block influence against loss increase. Spearman's rank "
        f"correlation is {correlation:.2f}. Layer {marked} is marked: place {influence_ranks[marked]} by "
        f"block influence, place {harm_ranks[marked]} by loss increase, {harm[marked]:.2f} nats per token."
    )


def plot_turns(study: LayerStudy, sequence: int = 0, layer: int | None = None) -> Picture:
    """Heat map of one sequence, layers x positions: how far the state of each token is turned.

    The colour is 1 - cosine, on a log scale. Given a `layer`, its row is marked.
    """
    turn = 1.0 - _of_sequence(study.cosine, sequence)  # (n, L)
    title = f"How far each layer turns each token of text {sequence}: dark means hardly"
    labels = {"xlabel": "position in the sequence (tokens)", "ylabel": "decoder layer"}
    figure, axis = figure_with_axes((9.5, 4.6), title=title, **labels)
    axis.grid(False)
    style = {"aspect": "auto", "origin": "lower", "interpolation": "nearest", "cmap": "cividis"}
    image = axis.imshow(turn.clamp(min=SMALLEST_TURN).numpy(), norm=LogNorm(1e-3, 1.0), **style)
    figure.colorbar(image, ax=axis, label="1 - cosine (no unit), log scale", extend="both")
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    if layer is not None:
        for edge in (layer - 0.5, layer + 0.5):
            axis.axhline(edge, color=RED, linewidth=1)
    turners = turn.mean(1).argsort(descending=True)[:3].tolist()
    ratio = turn[:, 0] / turn.median(dim=1).values  # (n,)
    return figure.with_alt_text(
        f"Heat map of 1 - cosine over {turn.shape[0]} layers and {turn.shape[1]} positions of sequence "
        f"{sequence}. Layers {_list(turners)} turn the tokens most on average. Position 0 is turned less "
        f"than the median token in {(ratio < 1).sum()} layers; it stands out most in layer {ratio.argmax()}, "
        f"with {ratio.max():.1f} times the median."
    )


def passing(study: LayerStudy, writer: int, early: Sequence[int] = (), sequence: int = 0) -> list[Frame]:
    """Frames of a sequence that passes the layers: how far each layer turns a state, and its length then.

    They show position 0, made huge by layer `writer`, beside the median token, and the lengths of the `early`
    positions.
    """
    angles = _of_sequence(study.cosine, sequence).clamp(-1.0, 1.0).arccos().rad2deg()  # (n, L)
    norms = _of_sequence(study.norms, sequence)  # (n + 1, L)
    turns = _first_and_median(angles)  # (2, n)
    lengths = _first_and_median(norms)  # (2, n + 1)
    hardly_turned = (1 - np.cos(np.deg2rad(turns[0])) < 0.01)[writer + 1 :].tolist()
    run = [*hardly_turned, False].index(False)  # layers behind the writer that hardly turn position 0
    title = f"Layer {writer} makes position 0 long; the next {run} hardly turn it"
    before, after = lengths[0, writer : writer + 2]
    median_after = lengths[1, writer + 1]
    alt_text = (
        f"{title}. In layer {writer} its length grows from {before:.0f} to {after:.0f}; there the median "
        f"token has {median_after:.0f}. The layers turn the median token by {turns[1].min():.0f} to "
        f"{turns[1].max():.0f} degrees. Long in the early layers only: {_list(early)}."
    )
    turns = np.c_[[0.0, 0.0], turns]  # nothing is turned before layer 0
    frames = []
    for passed in range(len(norms)):
        ylabels = ["", "angle (degrees)", "length, log scale"]
        figure, (arrows, above, below) = panels(1, 3, (7.2, 4.2), ylabel=ylabels)
        figure.set_layout_engine("none")  # all parts stand still from frame to frame
        figure.suptitle(title)
        log_lengths = np.log(lengths[:, passed]) / np.log(lengths.max())
        _arrows(arrows, turns[:, passed], log_lengths, passed - 1)
        for axis, values, bottom in ((above, turns, 0.56), (below, lengths, 0.12)):
            axis.set_position((0.5, bottom, 0.48, 0.33))
            for track, colour in zip(values, (RED, BLUE), strict=True):
                axis.plot(track[1 : passed + 1], color=colour, marker="o", markersize=3)
            if passed > writer:
                axis.axvspan(writer - 0.5, writer + 0.5, color=ORANGE, alpha=0.25)
            layer_axis(axis, len(angles), "decoder layer" if axis is below else "")
        for position in early:
            below.plot(norms[1 : passed + 1, position], color=GREEN, linewidth=1, zorder=1)
        if early:
            looks = {"ha": "right", "color": GREEN, "transform": below.transAxes}
            below.text(0.98, 0.06, f"positions {_list(early)}", **looks)
        above.set_ylim(-4, 1.1 * turns.max())
        below.set(yscale="log", ylim=(0.7 * lengths[:, 1:].min(), 4.0 * lengths.max()))
        seconds = 1.2 if passed in (0, writer, writer + 1) else 0.3
        frames.append((figure.with_alt_text(alt_text), seconds))
    return frames


def _first_and_median(values: Tensor) -> NDArray[np.floating]:
    """values (depth, L) of a sequence -> (2, depth): of position 0, and of the median token."""
    return np.stack([values[:, 0], values.median(1).values])


def _arrows(axis: Axes, angles: NDArray[np.floating], lengths: NDArray[np.floating], layer: int) -> None:
    """States behind a layer as arrows, turned from the direction before: position 0 and the median token."""
    axis.set_position((0.01, 0.1, 0.38, 0.78))
    axis.plot([0, 1], [0, 0], "--", color=GREY)
    axis.text(1.0, -0.1, "dashed: before; length: log", ha="right", color="dimgrey")
    axis.text(0.0, 1.45, "before layer 0" if layer < 0 else f"layer {layer}", fontsize=12)
    rows = zip(("position 0", "median token"), (RED, BLUE), angles, lengths, (1.3, 1.17), strict=True)
    for name, colour, angle, length, height in rows:
        tip = (length * np.cos(np.radians(angle)), length * np.sin(np.radians(angle)))
        arrow = {"arrowstyle": "-|>", "color": colour, "lw": 3, "shrinkA": 0}
        axis.annotate("", tip, (0, 0), arrowprops=arrow)
        axis.text(0.0, height, f"{name}: {angle:.0f}°", color=colour, fontsize=11)
    axis.set(xlim=(-0.15, 1.05), ylim=(-0.15, 1.45), aspect="equal")
    axis.axis("off")


def plot_sink(attention: Tensor, layer: int, shares: Mapping[str, Tensor], since: int) -> Picture:
    """Where tokens look: attention (L, L) of one layer, a row for each position that looks, and its sink.

    shares: the part of the attention that positions 8 and later pay to position 0, (layers,), of the model as
    it is and without the write that makes position 0 huge. The title on the right has their means from layer
    `since` on.
    """
    sink_share = attention[8:, 0].mean()
    with_write, without_write = (share[since:].mean() for share in shares.values())
    titles = [
        f"Layer {layer}: {sink_share:.0%} of the attention on position 0",
        f"From layer {since} on: {with_write:.0%}, without the write {without_write:.0%}",
    ]
    xlabels = ["position looked at", "decoder layer"]
    ylabels = ["position that looks", "share on position 0, positions from 8 on"]
    figure, (left, right) = panels(1, 2, (9.5, 4.2), title=titles, xlabel=xlabels, ylabel=ylabels)
    left.grid(False)
    image = left.imshow(attention.numpy(), cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(image, ax=left, label="attention, mean over heads and texts", shrink=0.8)
    phrases = []
    for (name, share), colour, up in zip(shares.items(), (RED, BLUE), (-14, 22), strict=True):
        right.plot(share.tolist(), "o-", markersize=3, color=colour)
        note(right, name, (len(share) - 1, share[-1]), (0, up), ha="right", color=colour)
        phrases.append(f"{name}, {share[since:].mean():.0%} from layer {since} on")
    right.set_ylim(0, 1)
    opening = (
        f"Left: heat map of attention in layer {layer}; position 0 gets {sink_share:.0%} of it. Right: "
        "line chart over layers of the share of attention on position 0: "
    )
    return figure.with_alt_text(opening, phrases)


def plot_layer(study: LayerStudy, layer: int, metric: str = "block influence", sequence: int = 0) -> Picture:
    """One layer: the cosine of each token in one sequence, and the layer's place among all by `metric`."""
    values = values_of(study, metric)
    layers = len(study.influence)
    if not 0 <= layer < layers:
        expected = f"a layer from 0 to {layers - 1}"
        raise InputError(expected=expected, got=layer, hint="choose one of the model's")
    cosine = _of_sequence(study.cosine, sequence)[layer]  # (L,)
    mean = float(cosine.mean())
    lowest = float(cosine.min())
    position = int(cosine.argmin())
    figure, (left, right) = panels(1, 2, (9.5, 3.6))
    figure.set_layout_engine("none")  # it would draw everything twice, and a slider waits for this
    left.set_position((0.075, 0.15, 0.40, 0.75))
    right.set_position((0.58, 0.15, 0.41, 0.75))
    left.plot(cosine.tolist(), color=BLUE, linewidth=1.2)
    left.axhline(mean, color=GREY, linestyle="--", linewidth=1)
    left.scatter([position], [lowest], color=RED, zorder=3, s=25)
    in_left_half = position < len(cosine) / 2
    offset = (8 if in_left_half else -8, 0)
    side = "left" if in_left_half else "right"
    text = f"position {position}: {lowest:.3f}"
    note(left, text, (position, lowest), offset, ha=side, va="center")
    left.set(
        title=f"layer {layer} turns position {position} most (text {sequence})",
        xlabel="position in the sequence (tokens)",
        ylabel=f"cosine (dashed: mean {mean:.3f})",
        ylim=(min(-0.1, lowest - 0.05), 1.05),
    )
    _bars(right, study, metric, [layer])
    layer_axis(right, layers)
    rank = f"place {1 + int((values < values[layer]).sum())} of {layers}"
    harm = f"{study.mean_harm[layer]:.2f} nats"
    right.set_title(f"{rank}; harm {harm}")
    return figure.with_alt_text(
        f"Layer {layer} in sequence {sequence}: mean cosine {mean:.3f}, lowest {lowest:.3f} at position "
        f"{position}. By {metric}: {rank}, place 1 being the least important. Block influence "
        f"{study.influence[layer]:.4f}; without this layer the loss rises by {harm} per token."
    )


def _of_sequence(values: Tensor, sequence: int) -> Tensor:
    """values (depth, S, L) -> (depth, L)."""
    if not 0 <= sequence < values.shape[1]:
        expected = f"a sequence from 0 to {values.shape[1] - 1}"
        raise InputError(expected=expected, got=sequence, hint="choose another")
    return values[:, sequence]


def _bars(axis: Axes, study: LayerStudy, metric: str, marked: Sequence[int]) -> None:
    """Bars over layers, on a scale that shows small values beside one huge one."""
    values = values_of(study, metric)
    colours = [RED if layer in marked else BLUE for layer in range(len(values))]
    errors = None
    if metric == "loss increase":
        errors = (study.harm_interval.T - values).abs().numpy()
    whisker_looks = {"elinewidth": 1, "ecolor": GREY}
    axis.bar(range(len(values)), values.tolist(), color=colours, yerr=errors, error_kw=whisker_looks)
    _bend(axis, values, METRICS[metric])


def _bend(axis: Axes, values: Tensor, label: str) -> None:
    """Bends a y axis if some values dwarf the others.

    It is then linear up to the median and logarithmic above, and its label says so.
    """
    axis.set_ylabel(label)
    middle = float(values.abs().median())
    if float(values.max()) > 20 * middle > 0:
        axis.set_yscale("symlog", linthresh=middle)
        axis.set_ylabel(f"{label}\nlog scale above {middle:.2g}")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())


def _all_layers(axes: Axes, layers: int) -> None:
    """An x axis of layers that names each of them, if they are few enough to be read."""
    layer_axis(axes, layers)
    if layers <= 40:
        axes.xaxis.set_major_locator(MultipleLocator(1))
        axes.tick_params(axis="x", labelsize=8)


def _list(numbers: Sequence[object]) -> str:
    """The numbers as words: [3, 1, 2] -> '3, 1 and 2', [] -> 'none'."""
    *head, last = map(str, numbers or ["none"])
    return f"{', '.join(head)} and {last}" if head else last
