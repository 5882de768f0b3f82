"""Pictures of layer importance (lesson 01): what skipping is, what layers are worth, proxy and harm, the stream."""

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

from . import CLOSE, name_points
from .animation import Frame

METRICS = {
    "block influence": "block influence\n(1 - mean cosine)",
    "loss increase": "harm: loss increase\n(nats per token)",
}
SMALLEST_TURN = 1e-5  # float32 cosines of nearly parallel states are noise below this


def values_of(study: LayerStudy, metric: str) -> Tensor:
    """The values (n,) behind a name of METRICS; InputError for another name."""
    if metric not in METRICS:
        raise InputError(f"expected a layer metric, got {metric!r}: {suggestion(metric, METRICS)}")
    return study.influence if metric == "block influence" else study.mean_harm


def plot_layer_importance(study: LayerStudy, count: int) -> Picture:
    """Block influence above, the loss increase with 95% intervals below; in red the `count` that each would drop."""
    layers, names = len(study.influence), ("block influence", "loss increase")
    figure, axes = panels(2, 1, (9.0, 5.2), "x")
    first = {name: values_of(study, name).argsort(stable=True)[:count].tolist() for name in names}
    for axis, name in zip(axes, names, strict=True):
        _bars(axis, study, name, first[name])
    axes[0].set_title(f"Two readings of one model; orange: the {count} layers that would be removed first")
    _all_layers(axes[-1], layers)
    words = [f"By {name}, the {count} that go first are {_list(chosen)}." for name, chosen in first.items()]
    return figure.described(f"Two bar charts over {layers} layers. {' '.join(words)}")


def plot_proxy(study: LayerStudy, correlation: float, marked: int) -> Picture:
    """Block influence against the loss increase, as values and as ranks; `correlation` is Spearman's, of the ranks.

    One layer is marked; the diagonal of the ranks is where a right proxy would have all layers.
    """
    influence, harm, layers = study.influence.numpy(), study.mean_harm.numpy(), len(study.influence)
    by, harmed = ((ranks(values) + 1).numpy() for values in (study.influence, study.mean_harm))
    xlabels = ["block influence (no unit), log scale", "place by block influence (1: goes first)"]
    ylabels = ["harm (nats per token)", "place by harm (dashed: the same place)"]
    titles = ["values, with 95% intervals", f"ranks of {layers} layers: Spearman {correlation:.2f}"]
    figure, (left, right) = panels(1, 2, (9.5, 4.4), title=titles, xlabel=xlabels, ylabel=ylabels)
    for axis, x, y in ((left, influence, harm), (right, by, harmed)):
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
    named = {str(layer): point for layer, point in enumerate(zip(by, harmed, strict=True))}
    name_points(right, named, fontsize=7, places=CLOSE)
    return figure.described(
        f"Two scatter plots of {layers} layers, block influence against loss increase. Spearman's rank correlation is "
        f"{correlation:.2f}. Layer {marked} is marked: place {by[marked]} by block influence, place {harmed[marked]} "
        f"by loss increase, {harm[marked]:.2f} nats per token."
    )


def plot_turns(study: LayerStudy, sequence: int = 0, layer: int | None = None) -> Picture:
    """Heat map of one sequence, layers x positions: how far each token's state is turned, 1 - cosine, on a log scale.

    Given a `layer`, its row is marked.
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
    for edge in () if layer is None else (layer - 0.5, layer + 0.5):
        axis.axhline(edge, color=RED, linewidth=1)
    ratio = turn[:, 0] / turn.median(dim=1).values
    return figure.described(
        f"Heat map of 1 - cosine over {turn.shape[0]} layers and {turn.shape[1]} positions of sequence {sequence}. "
        f"Layers {_list(turn.mean(1).argsort(descending=True)[:3].tolist())} turn the tokens most on average. Position "
        f"0 is turned less than the median token in {(ratio < 1).sum()} layers; it stands out most in layer "
        f"{ratio.argmax()}, with {ratio.max():.1f} times the median."
    )


def passing(study: LayerStudy, writer: int, early: Sequence[int] = (), sequence: int = 0) -> list[Frame]:
    """Frames of a sequence that passes the layers: how far each layer turns a state, and how long the state is then.

    Position 0, made huge by layer `writer`, beside the median token; of the `early` positions the lengths alone.
    """
    angles = _of_sequence(study.cosine, sequence).clamp(-1.0, 1.0).arccos().rad2deg()  # (n, L)
    norms = _of_sequence(study.norms, sequence)  # (n + 1, L)
    turns, lengths = (
        np.stack([values[:, 0], values.median(1).values]) for values in (angles, norms)
    )  # (2, n), n + 1
    hardly = (1 - np.cos(np.deg2rad(turns[0])) < 0.01)[writer + 1 :].tolist()
    title = f"Layer {writer} makes position 0 long; the next {[*hardly, False].index(False)} hardly turn it"
    before, after, others = (
        f"{length:.0f}" for length in (*lengths[0, writer : writer + 2], lengths[1, writer + 1])
    )
    words = (
        f"{title}. In layer {writer} its length grows from {before} to {after}; there the median token has {others}. "
        f"The layers turn the median token by {turns[1].min():.0f} to {turns[1].max():.0f} degrees. Long in the early "
        f"layers only: {_list(early)}."
    )
    turns = np.c_[[0.0, 0.0], turns]  # nothing is turned before layer 0
    frames = []
    for passed in range(len(norms)):
        figure, (arrows, above, below) = panels(
            1, 3, (7.2, 4.2), ylabel=["", "angle (degrees)", "length, log scale"]
        )
        figure.set_layout_engine("none")  # each thing stays at its place
        figure.suptitle(title)
        _arrows(arrows, turns[:, passed], np.log(lengths[:, passed]) / np.log(lengths.max()), passed - 1)
        for axis, values, bottom in ((above, turns, 0.56), (below, lengths, 0.12)):
            axis.set_position((0.5, bottom, 0.48, 0.33))
            for track, colour in zip(values, (RED, BLUE), strict=True):
                axis.plot(track[1 : passed + 1], color=colour, marker="o", markersize=3)
            if passed > writer:
                axis.axvspan(writer - 0.5, writer + 0.5, color=ORANGE, alpha=0.25)
            layer_axis(axis, len(angles), "decoder layer" if axis is below else "")
        for place in early:
            below.plot(norms[1 : passed + 1, place], color=GREEN, linewidth=1, zorder=1)
        if early:
            looks = {"ha": "right", "color": GREEN, "transform": below.transAxes}
            below.text(0.98, 0.06, f"positions {_list(early)}", **looks)
        above.set_ylim(-4, 1.1 * turns.max())
        below.set(yscale="log", ylim=(0.7 * lengths[:, 1:].min(), 4.0 * lengths.max()))
        frames.append((figure.described(words), 1.2 if passed in (0, writer, writer + 1) else 0.3))
    return frames


def _arrows(axis: Axes, angles: NDArray[np.floating], lengths: NDArray[np.floating], layer: int) -> None:
    """States after a layer as arrows, turned from the direction before it: position 0, and the median token."""
    axis.set_position((0.01, 0.1, 0.38, 0.78))
    axis.plot([0, 1], [0, 0], "--", color=GREY)
    axis.text(1.0, -0.1, "dashed: before; length: log", ha="right", color="dimgrey")
    axis.text(0.0, 1.45, "before layer 0" if layer < 0 else f"layer {layer}", fontsize=12)
    rows = zip(("position 0", "median token"), (RED, BLUE), angles, lengths, (1.3, 1.17), strict=True)
    for name, colour, angle, length, height in rows:
        tip = (length * np.cos(np.radians(angle)), length * np.sin(np.radians(angle)))
        axis.annotate(
            "", tip, (0, 0), arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 3, "shrinkA": 0}
        )
        axis.text(0.0, height, f"{name}: {angle:.0f}°", color=colour, fontsize=11)
    axis.set(xlim=(-0.15, 1.05), ylim=(-0.15, 1.45), aspect="equal")
    axis.axis("off")


def plot_sink(attention: Tensor, layer: int, shares: Mapping[str, Tensor], since: int) -> Picture:
    """Where tokens look: attention (L, L) of one layer, a row for each reader; and by layer the share on position 0.

    Readers are positions 8 and later. The title on the right has the means from layer `since` on.
    """
    here, (whole, lost) = attention[8:, 0].mean(), (share[since:].mean() for share in shares.values())
    titles = [
        f"Layer {layer}: {here:.0%} of the attention on position 0",
        f"From layer {since} on: {whole:.0%}, without the write {lost:.0%}",
    ]
    xlabels = ["position looked at", "decoder layer"]
    ylabels = ["position that looks", "share on position 0, positions from 8 on"]
    figure, (left, right) = panels(1, 2, (9.5, 4.2), title=titles, xlabel=xlabels, ylabel=ylabels)
    left.grid(False)
    image = left.imshow(attention.numpy(), cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(image, ax=left, label="attention, mean over heads and texts", shrink=0.8)
    for (name, share), colour, up in zip(shares.items(), (RED, BLUE), (-14, 22), strict=True):
        right.plot(share.tolist(), "o-", markersize=3, color=colour)
        note(right, name, (len(share) - 1, share[-1]), (0, up), ha="right", color=colour)
    right.set_ylim(0, 1)
    words = [f"{name}, {share[since:].mean():.0%} from layer {since} on" for name, share in shares.items()]
    return figure.described(
        f"Left: heat map of attention in layer {layer}; position 0 gets {here:.0%} of it. Right: "
        "line chart over layers of the share of attention on position 0: ",
        words,
    )


def plot_layer(study: LayerStudy, layer: int, metric: str = "block influence", sequence: int = 0) -> Picture:
    """One layer: its token-wise cosines in one sequence, and its place among all layers by `metric`."""
    values, layers = values_of(study, metric), len(study.influence)
    if not 0 <= layer < layers:
        raise InputError(f"expected a layer from 0 to {layers - 1}, got {layer}: choose one of the model's")
    cosine = _of_sequence(study.cosine, sequence)[layer]  # (L,)
    lowest, low, mean = int(cosine.argmin()), float(cosine.min()), float(cosine.mean())
    figure, (left, right) = panels(1, 2, (9.5, 3.6))
    figure.set_layout_engine("none")  # it would draw everything twice, and a slider waits for this
    left.set_position((0.075, 0.15, 0.40, 0.75))
    right.set_position((0.58, 0.15, 0.41, 0.75))
    left.plot(cosine.tolist(), color=BLUE, linewidth=1.2)
    left.axhline(mean, color=GREY, linestyle="--", linewidth=1)
    left.scatter([lowest], [low], color=RED, zorder=3, s=25)
    side = ((8, 0), "left") if lowest < len(cosine) / 2 else ((-8, 0), "right")
    note(left, f"position {lowest}: {low:.3f}", (lowest, low), side[0], ha=side[1], va="center")
    left.set(xlabel="position in the sequence (tokens)", ylabel=f"cosine (dashed: mean {mean:.3f})")
    left.set(
        ylim=(min(-0.1, low - 0.05), 1.05),
        title=f"layer {layer} turns position {lowest} most (text {sequence})",
    )
    _bars(right, study, metric, [layer])
    layer_axis(right, layers)
    place = f"place {1 + int((values < values[layer]).sum())} of {layers}"
    harm = f"{study.mean_harm[layer]:.2f} nats"
    right.set_title(f"{place}; harm {harm}")
    return figure.described(
        f"Layer {layer} in sequence {sequence}: mean cosine {mean:.3f}, lowest {low:.3f} at position {lowest}. By "
        f"{metric}: {place}, place 1 being the least important. Block influence {study.influence[layer]:.4f}; without "
        f"this layer the loss rises by {harm} per token."
    )


def _of_sequence(values: Tensor, sequence: int) -> Tensor:
    """values (depth, S, L) -> (depth, L)."""
    if not 0 <= sequence < values.shape[1]:
        raise InputError(
            f"expected a sequence from 0 to {values.shape[1] - 1}, got {sequence}: choose another"
        )
    return values[:, sequence]


def _bars(axis: Axes, study: LayerStudy, metric: str, marked: Sequence[int]) -> None:
    """Bars over layers, on a scale that shows small values beside one huge one."""
    values = values_of(study, metric)
    colours = [RED if layer in marked else BLUE for layer in range(len(values))]
    errors = None
    if metric == "loss increase":
        errors = (study.harm_interval.T - values).abs().numpy()
    axis.bar(
        range(len(values)),
        values.tolist(),
        color=colours,
        yerr=errors,
        error_kw={"elinewidth": 1, "ecolor": GREY},
    )
    _bend(axis, values, METRICS[metric])


def _bend(axis: Axes, values: Tensor, label: str) -> None:
    """A y axis for values of which some dwarf the others: straight up to the median, logarithmic above; it says so."""
    axis.set_ylabel(label)
    if float(values.max()) > 20 * (middle := float(values.abs().median())) > 0:
        axis.set_yscale("symlog", linthresh=middle)
        axis.set_ylabel(f"{label}\nlog scale above {middle:.2g}")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())


def _all_layers(axes: Axes, layers: int) -> None:
    layer_axis(axes, layers)
    if layers <= 40:
        axes.xaxis.set_major_locator(MultipleLocator(1))
        axes.tick_params(axis="x", labelsize=8)


def _list(numbers: Sequence[object]) -> str:
    """[3, 1, 2] -> '3, 1 and 2'."""
    *head, last = map(str, numbers or ["none"])
    return f"{', '.join(head)} and {last}" if head else last
