"""Pictures of layer importance (lesson 01): what skipping is, what layers are worth, proxy and harm, the stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.ticker import MaxNLocator, MultipleLocator, NullFormatter
from torch import Tensor

from comp_lib.errors import InputError, suggestion
from comp_lib.plots.base import BLUE, GREEN, GREY, ORANGE, RED, Picture, figure_with_axes, layer_axis, panels
from course.layer_importance import LayerStudy, ranks

from . import CLOSE, name_points

METRICS = {"block influence": "block influence\n(1 - mean cosine)", "loss increase": "loss increase\n(nats per token)"}
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
    ylabels = ["loss increase (nats per token)", "place by loss increase"]
    titles = ["values", f"ranks of {layers} layers: Spearman {correlation:.2f}"]
    figure, (left, right) = panels(1, 2, (9.5, 4.4), title=titles, xlabel=xlabels, ylabel=ylabels)
    for axis, x, y in ((left, influence, harm), (right, by, harmed)):
        axis.scatter(x, y, s=22, color=BLUE)
        axis.scatter(x[marked], y[marked], s=70, color=RED, marker="D", label=f"layer {marked}")
    errors = np.abs(study.harm_interval.numpy().T - harm)
    left.errorbar(influence, harm, errors, fmt="none", ecolor=GREY, elinewidth=1, zorder=0, label="95% interval")
    left.set_xscale("log")
    left.xaxis.set_major_formatter("{x:g}")
    _bend(left, study.mean_harm, ylabels[0])
    left.set_ylim(min(0.0, 1.5 * harm.min()), 2.0 * harm.max())
    left.legend(loc="lower right", fontsize=8)
    right.plot([1, layers], [1, layers], color=GREY, linewidth=1, linestyle="--", label="the same place by both")
    right.legend(loc="upper left", fontsize=8)
    right.set_ylim(0, 1.2 * layers)
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


def plot_norms(study: LayerStudy, writer: int, early: Sequence[int] = (), sequence: int = 0) -> Picture:
    """Norm of the stream by depth in one sequence: position 0, made huge by layer `writer`; `early` ones; the rest."""
    norms = _of_sequence(study.norms, sequence)  # (n + 1, L)
    medians, track = norms.median(1).values.tolist(), norms[:, 0].tolist()
    rest = np.delete(norms.numpy(), [0, *early], axis=1)
    title = f"Position 0 is huge from layer {writer} on (text {sequence})"
    labels = {"xlabel": "layers passed (0: embedding)", "ylabel": "norm of the state, log scale"}
    figure, axis = figure_with_axes((9.0, 4.0), title=title, yscale="log", **labels)
    axis.fill_between(range(len(norms)), rest.min(1), rest.max(1), color=BLUE, alpha=0.2, label="other tokens, range")
    axis.plot(medians, color=BLUE, label="median token")
    for place in early:
        label = f"positions {_list(early)}" if place == early[0] else None
        axis.plot(norms[:, place].tolist(), color=GREEN, linewidth=1, label=label)
    axis.plot(track, color=RED, marker="o", markersize=3, label="position 0")
    axis.axvspan(writer, writer + 1, color=ORANGE, alpha=0.25, label=f"layer {writer}")
    axis.legend(fontsize=8)
    return figure.described(
        f"Line chart of the norm of the residual stream over {len(norms) - 1} layers, log scale. The token at position "
        f"0 grows from {track[writer]:.0f} to {track[writer + 1]:.0f} in layer {writer}, "
        f"{track[writer + 1] / medians[writer + 1]:.0f} times the median token there; the median grows from "
        f"{medians[0]:.0f} to {medians[-1]:.0f} over all layers. Large in the early layers only: {_list(early)}."
    )


def plot_sink(attention: Tensor, layer: int, shares: Mapping[str, Tensor]) -> Picture:
    """Where tokens look: attention (L, L) of one layer, a row for each reader; and by layer the share on position 0."""
    here, (whole, lost) = attention[1:, 0].mean(), (share[layer:].mean() for share in shares.values())
    titles = [
        f"Layer {layer}: {here:.0%} of the attention on position 0",
        f"From layer {layer} on: {whole:.0%}, silenced {lost:.0%}",
    ]
    xlabels, ylabels = ["position looked at", "decoder layer"], ["position that looks", "share of attention"]
    figure, (left, right) = panels(1, 2, (9.5, 4.2), title=titles, xlabel=xlabels, ylabel=ylabels)
    left.grid(False)
    image = left.imshow(attention.numpy(), cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(image, ax=left, label="attention, mean over heads", shrink=0.8)
    for (name, share), colour in zip(shares.items(), (RED, BLUE), strict=True):
        right.plot(share.tolist(), "o-", markersize=3, color=colour, label=name)
    right.set_ylim(0, 1)
    right.legend(fontsize=8, loc="upper left")
    words = [f"{name}, {share[layer:].mean():.0%} from layer {layer} on" for name, share in shares.items()]
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
    left.axhline(mean, color=GREY, linestyle="--", linewidth=1, label=f"mean {mean:.3f}")
    left.scatter([lowest], [low], color=RED, zorder=3, s=25, label=f"position {lowest}: {low:.3f}")
    left.set(xlabel="position in the sequence (tokens)", ylabel="cosine(before, after)")
    left.set(ylim=(min(-0.1, low - 0.05), 1.05), title=f"layer {layer} turns position {lowest} most (text {sequence})")
    left.legend(loc="lower right", fontsize=8)
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
        raise InputError(f"expected a sequence from 0 to {values.shape[1] - 1}, got {sequence}: choose another")
    return values[:, sequence]


def _bars(axis: Axes, study: LayerStudy, metric: str, marked: Sequence[int]) -> None:
    """Bars over layers, on a scale that shows small values beside one huge one."""
    values = values_of(study, metric)
    colours = [RED if layer in marked else BLUE for layer in range(len(values))]
    errors = None
    if metric == "loss increase":
        errors = (study.harm_interval.T - values).abs().numpy()
    axis.bar(
        range(len(values)), values.tolist(), color=colours, yerr=errors, error_kw={"elinewidth": 1, "ecolor": GREY}
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
