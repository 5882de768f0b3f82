"""Pictures of layer importance (lesson 01): what layers are worth, proxy and harm, the stream, attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray
from torch import Tensor

from comp_lib.reports.plots.base import (
    BLUE,
    GREY,
    ORANGE,
    RED,
    Picture,
    figure_with_axes,
    layer_axis,
    note,
    panels,
)
from comp_lib.utils.arguments import suggestion
from comp_lib.utils.errors import InputError
from course.layer_importance import LayerStudy, ranks

from . import TIGHT_OFFSETS, name_points
from .animation import Frame

METRICS = {
    "block influence": "block influence\n(1 - mean cosine)",
    "loss increase": "harm: loss increase\n(nats per token)",
}


def values_of(study: LayerStudy, metric: str) -> Tensor:
    """The values (n,) of a metric. Raises InputError unless METRICS has its name."""
    if metric not in METRICS:
        hint = suggestion(metric, METRICS)
        raise InputError(expected="a layer metric", got=repr(metric), hint=hint)
    return study.influence if metric == "block influence" else study.mean_harm


def plot_hidden_harm(study: LayerStudy, marked: int) -> Picture:
    """The harm of each layer at its place by block influence, and the harm that this place promises.

    The line is the harms in order: where a right proxy would have all layers. A red bar shows by how much the
    `marked` layer lies above it.
    """
    layers = len(study.influence)
    rank_of_layer = (ranks(study.influence) + 1).numpy()
    harm = study.mean_harm.numpy()
    promised = np.sort(harm)
    figure, axes = figure_with_axes((9.0, 4.6), xlabel="place by block influence (1: is removed first)")
    axes.plot(range(1, layers + 1), promised, color=GREY, linewidth=1.5, zorder=1)
    whiskers = np.abs(study.harm_interval.numpy().T - harm)
    axes.errorbar(rank_of_layer, harm, whiskers, fmt="none", ecolor=GREY, elinewidth=1, zorder=1)
    axes.scatter(rank_of_layer, harm, s=22, color=BLUE, zorder=2)
    rank = int(rank_of_layer[marked])
    at_place = promised[rank - 1]
    axes.vlines(rank, at_place, harm[marked], color=RED, linewidth=4, zorder=3)
    hidden = harm[marked] - at_place
    _bend(axes, study.mean_harm, METRICS["loss increase"])
    axes.set_ylim(min(0.0, 1.5 * harm.min()), 2.0 * harm.max())
    middle = (rank, (at_place + harm[marked]) / 2)
    note(axes, f"hidden: {hidden:.2f}", middle, (-8, 0), ha="right", va="center", color=RED, fontsize=9)
    note(
        axes, "what the place promises", (layers, promised[-1]), (-12, 0), ha="right", va="center", color=GREY
    )
    point_of_name = {str(layer): point for layer, point in enumerate(zip(rank_of_layer, harm, strict=True))}
    name_points(axes, point_of_name, fontsize=7, offsets=TIGHT_OFFSETS)
    return figure.with_alt_text(
        f"Harm of {layers} layers by their place in the order of block influence, and a line of the harms in "
        f"order. Layer {marked} is marked: at place {rank} its harm is {harm[marked]:.2f} nats per token, "
        f"and this place promises {at_place:.2f}."
    )


def passing(study: LayerStudy, writer: int, sequence: int = 0) -> list[Frame]:
    """Frames of a sequence that passes the layers: how far each layer turns a state, and its length then.

    They show position 0, made huge by layer `writer`, beside the median token. The last frame, which is the
    still, has the whole lines and the arrows of the writer.
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
        f"{turns[1].max():.0f} degrees."
    )
    turns = np.c_[[0.0, 0.0], turns]  # nothing is turned before layer 0
    pictures = [
        *((passed, passed) for passed in range(len(norms))),
        (len(norms) - 1, writer + 1),  # all lines, and the arrows of the writer: the still
    ]
    frames = []
    for passed, arrows_at in pictures:
        ylabels = ["", "angle (degrees)", "length, log scale"]
        figure, (arrows, above, below) = panels(1, 3, (7.2, 4.2), ylabel=ylabels)
        figure.set_layout_engine("none")  # all parts stand still from frame to frame
        figure.suptitle(title)
        log_lengths = np.log(lengths[:, arrows_at]) / np.log(lengths.max())
        _arrows(arrows, turns[:, arrows_at], log_lengths, arrows_at - 1)
        for axis, values, bottom in ((above, turns, 0.56), (below, lengths, 0.12)):
            axis.set_position((0.5, bottom, 0.48, 0.33))
            for track, colour in zip(values, (RED, BLUE), strict=True):
                axis.plot(track[1 : passed + 1], color=colour, marker="o", markersize=3)
            if passed > writer:
                axis.axvspan(writer - 0.5, writer + 0.5, color=ORANGE, alpha=0.25)
            layer_axis(axis, len(angles), "decoder layer" if axis is below else "")
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
        f"Attention on position 0 from layer {since} on:\n"
        f"{with_write:.0%}, and {without_write:.0%} with that MLP silent",
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
