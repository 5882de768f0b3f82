"""Pictures of layer importance: three readings on the same layers, the proxy against the harm, the stream itself."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, MultipleLocator, NullFormatter
from torch import Tensor

from ..errors import InputError, nearest
from ..importance.layer_study import LayerStudy, hidden_harm, massive, ranks
from .base import COLOURS, figure_with_axes

BLUE, ORANGE, GREEN, RED, GREY = COLOURS[0], COLOURS[1], COLOURS[2], COLOURS[3], COLOURS[7]
METRICS = {
    "block influence": "block influence\n(1 - mean cosine)",
    "loss increase": "loss increase\n(nats per token)",
    "greedy, last round": "loss increase, greedy's\nlast round (nats per token)",
}
SMALLEST_TURN = 1e-5  # float32 cosines of nearly parallel states are noise below this


def values_of(study: LayerStudy, metric: str) -> Tensor:
    """The values (n,) behind a name of METRICS; InputError for another name, or where no greedy round was run."""
    if metric not in METRICS:
        raise InputError(f"expected a layer metric, got {metric!r}: {nearest(metric, METRICS)}")
    if metric == "greedy, last round" and not len(study.rounds):
        raise InputError("expected at least 1 greedy round, got 0: call layer_study with greedy=1 or more")
    values = {"block influence": study.influence, "loss increase": study.mean_harm}
    return values[metric] if metric in values else study.rounds[-1]


def plot_layer_importance(study: LayerStudy) -> Figure:
    """All three importances, one below the other; orange: what each would drop, as many as greedy did (at least 1).

    In greedy's panel, black marks show the loss increase before anything was removed: where a bar is above its mark, a
    layer that stood in for this one is gone.
    """
    count, layers = max(1, len(study.order)), range(len(study.influence))
    names = [name for name in METRICS if name != "greedy, last round" or len(study.rounds)]
    figure, axes = figure_with_axes(len(names), 1, (9.0, 2.4 * len(names)), sharex=True)
    chosen = {}
    for axis, name in zip(axes, names, strict=True):
        values = values_of(study, name)
        chosen[name] = study.order if name == "greedy, last round" else values.argsort(stable=True)[:count].tolist()
        errors = study.harm_error if name == "loss increase" else None
        _bars(axis, values, set(chosen[name]), errors)
        axis.set_ylabel(METRICS[name])
        if name == "greedy, last round":
            axis.scatter(
                layers, study.mean_harm.tolist(), marker="_", s=60, color="black", zorder=3, label="before any removal"
            )
            axis.legend(loc="upper center", fontsize=8)
            for place, layer in enumerate(study.order):
                top = max(0.0, float(study.mean_harm[layer]), float(values[layer].nan_to_num(0.0)))
                axis.annotate(
                    f"{place + 1}.",
                    (layer, top),
                    xytext=(0, 3),
                    textcoords="offset points",
                    ha="center",
                    color=RED,
                    fontsize=9,
                    fontweight="bold",
                )
    axes[0].set_title(f"Three importances, one model; orange: the {count} that would go first")
    _layer_axis(axes[-1], len(layers))
    if len(layers) <= 40:
        axes[-1].xaxis.set_major_locator(MultipleLocator(1))
        axes[-1].tick_params(axis="x", labelsize=8)
    figure.alt_text = f"{len(names)} bar charts over {len(layers)} layers. " + " ".join(
        f"By {name}, the {count} that go first are {_list(chosen[name])}." for name in names
    )
    return figure


def plot_proxy(study: LayerStudy, correlation: float) -> Figure:
    """Block influence against the loss increase, as values and as ranks; `correlation` is Spearman's, of the ranks.

    The layer that hides most harm is marked; the diagonal of the ranks is where a right proxy would have all layers.
    """
    influence, harm = study.influence, study.mean_harm
    hidden = hidden_harm(influence, harm)
    worst = int(hidden.argmax())
    figure, (left, right) = figure_with_axes(1, 2, (9.5, 4.4))
    by, harmed = ranks(influence) + 1, ranks(harm) + 1
    for axis, x, y in ((left, influence, harm), (right, by, harmed)):
        axis.scatter(x.tolist(), y.tolist(), s=22, color=BLUE)
        axis.scatter(
            float(x[worst]), float(y[worst]), s=70, color=RED, marker="D", label=f"layer {worst}: hides the most harm"
        )
    # where harm differs by a few times its error, layers may well swap places
    spread = study.harm_error.tolist()
    left.errorbar(influence.tolist(), harm.tolist(), yerr=spread, fmt="none", ecolor=GREY, elinewidth=1, zorder=0)
    left.set_xscale("log")
    left.set_yscale("symlog", linthresh=max(0.01, float(harm.abs().min())), linscale=0.3)
    for part in (left.xaxis, left.yaxis):
        part.set_major_formatter("{x:g}")
    left.set_ylim(min(0.0, 1.5 * float(harm.min())), 2.0 * float(harm.max()))
    left.set_xlabel("block influence (no unit)")
    left.set_ylabel("loss increase (nats per token)")
    left.legend(loc="lower right", fontsize=8)
    right.plot([1, len(by)], [1, len(by)], color=GREY, linewidth=1, linestyle="--")
    for layer in range(len(by)):
        right.annotate(
            str(layer), (int(by[layer]), int(harmed[layer])), xytext=(3, 3), textcoords="offset points", fontsize=7
        )
    right.set_xlabel("place by block influence (1: goes first)")
    right.set_ylabel("place by loss increase")
    right.set_title(f"ranks of {len(by)} layers: Spearman {correlation:.2f}")
    left.set_title("values")
    figure.alt_text = (
        f"Two scatter plots of {len(by)} layers, block influence against loss increase. Spearman's rank correlation is "
        f"{correlation:.2f}. Layer {worst} hides the most harm: place {int(by[worst])} by block influence, place "
        f"{int(harmed[worst])} by loss increase, {float(harm[worst]):.2f} nats per token."
    )
    return figure


def plot_turns(study: LayerStudy, sequence: int = 0, layer: int | None = None) -> Figure:
    """Heat map of one sequence, layers x positions: how far each token's state is turned, 1 - cosine, on a log scale.

    Given a `layer`, its row is marked.
    """
    turn = 1.0 - _of_sequence(study.cosine, sequence)  # (n, L)
    figure, axis = figure_with_axes(1, 1, (9.5, 4.6))
    axis.grid(False)
    image = axis.imshow(
        turn.clamp(min=SMALLEST_TURN).numpy(),
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        cmap="cividis",
        norm=LogNorm(1e-3, 1.0),
    )
    figure.colorbar(image, ax=axis, label="1 - cosine (no unit), log scale", extend="both")
    axis.set_xlabel("position in the sequence (tokens)")
    axis.set_ylabel("decoder layer")
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_title(f"How far each layer turns each token (sequence {sequence})")
    if layer is not None:
        axis.axhline(layer - 0.5, color=RED, linewidth=1)
        axis.axhline(layer + 0.5, color=RED, linewidth=1)
    means, first = turn.mean(1), turn[:, 0]
    ratio = first / turn.median(dim=1).values
    figure.alt_text = (
        f"Heat map of 1 - cosine over {turn.shape[0]} layers and {turn.shape[1]} positions of sequence {sequence}. "
        f"Layers {_list(means.argsort(descending=True)[:3].tolist())} turn the tokens most on average. Position 0 is "
        f"turned less than the median token in {int((ratio < 1).sum())} layers; it stands out most in layer "
        f"{int(ratio.argmax())}, with {float(ratio.max()):.1f} times the median."
    )
    return figure


def plot_norms(study: LayerStudy, sequence: int = 0) -> Figure:
    """Norm of the residual stream by depth in one sequence: the massive token against the median and range of all."""
    norms = _of_sequence(study.norms, sequence)  # (n + 1, L)
    writer, _, position, _ = massive(norms[:, None])
    depth = range(len(norms))
    figure, axis = figure_with_axes(1, 1, (9.0, 4.0))
    rest = norms[:, [i for i in range(norms.shape[1]) if i != position]]
    low, high = rest.amin(1).tolist(), rest.amax(1).tolist()
    axis.fill_between(depth, low, high, color=BLUE, alpha=0.2, label="other tokens, range")
    axis.plot(depth, norms.median(1).values.tolist(), color=BLUE, label="median token")
    axis.plot(depth, norms[:, position].tolist(), color=RED, marker="o", markersize=3, label=f"position {position}")
    axis.axvspan(writer, writer + 1, color=ORANGE, alpha=0.25, label=f"layer {writer}")
    axis.set_yscale("log")
    axis.set_xlabel("layers passed (0: embedding)")
    axis.set_ylabel("norm of the residual stream")
    axis.set_title(f"Layer {writer} writes a massive activation at position {position} (sequence {sequence})")
    axis.legend(fontsize=8)
    factor = float(norms[writer + 1, position] / norms[writer + 1].median())
    figure.alt_text = (
        f"Line chart of the norm of the residual stream over {len(norms) - 1} layers, log scale. The token at position "
        f"{position} grows from {float(norms[writer, position]):.0f} to {float(norms[writer + 1, position]):.0f} in "
        f"layer {writer}, {factor:.0f} times the median token there; the median grows from "
        f"{float(norms[0].median()):.0f} to {float(norms[-1].median()):.0f} over all layers."
    )
    return figure


def plot_layer(study: LayerStudy, layer: int, metric: str = "block influence", sequence: int = 0) -> Figure:
    """One layer: its token-wise cosines in one sequence, and its place among all layers by `metric`."""
    values, layers = values_of(study, metric), len(study.influence)
    if not 0 <= layer < layers:
        raise InputError(f"expected a layer from 0 to {layers - 1}, got {layer}: choose one of the model's")
    cosine = _of_sequence(study.cosine, sequence)[layer]  # (L,)
    lowest, mean, harm = int(cosine.argmin()), float(cosine.mean()), float(study.mean_harm[layer])
    figure, (left, right) = figure_with_axes(1, 2, (9.5, 3.6))
    figure.set_layout_engine("none")  # it would draw everything twice, and a slider waits for this
    for axis, (start, width) in ((left, (0.075, 0.40)), (right, (0.58, 0.41))):
        axis.set_position((start, 0.15, width, 0.75))
    left.plot(cosine.tolist(), color=BLUE, linewidth=1.2)
    left.axhline(mean, color=GREY, linestyle="--", linewidth=1, label=f"mean {mean:.3f}")
    low = float(cosine[lowest])
    left.scatter([lowest], [low], color=RED, zorder=3, s=25, label=f"position {lowest}: {low:.3f}")
    left.set_ylim(min(-0.1, low - 0.05), 1.05)
    left.set_xlabel("position in the sequence (tokens)")
    left.set_ylabel("cosine(before, after)")
    left.set_title(f"layer {layer}, sequence {sequence}")
    left.legend(loc="lower right", fontsize=8)
    _bars(right, values, {layer}, study.harm_error if metric == "loss increase" else None)
    right.set_ylabel(METRICS[metric])
    _layer_axis(right, layers)
    if values[layer].isnan():
        place = f"gone in round {study.order.index(layer) + 1}"
    else:
        place = f"place {1 + int((values < values[layer]).sum())} of {int(values.isfinite().sum())}"
    right.set_title(f"{place}; harm {harm:.2f} nats")
    figure.alt_text = (
        f"Layer {layer} in sequence {sequence}: mean cosine {mean:.3f}, lowest {low:.3f} at position "
        f"{lowest}. By {metric}: {place}, place 1 being the least important. Block influence "
        f"{float(study.influence[layer]):.4f}; without this layer the loss rises by {harm:.2f} nats per token."
    )
    return figure


def _of_sequence(values: Tensor, sequence: int) -> Tensor:
    """values (depth, S, L) -> (depth, L)."""
    if not 0 <= sequence < values.shape[1]:
        raise InputError(f"expected a sequence from 0 to {values.shape[1] - 1}, got {sequence}: choose another")
    return values[:, sequence]


def _bars(axis: Axes, values: Tensor, marked: set[int], errors: Tensor | None = None) -> None:
    """Bars over layers, on a scale that shows small values beside one huge one; NaN leaves a gap."""
    colours = [RED if layer in marked else BLUE for layer in range(len(values))]
    axis.bar(
        range(len(values)),
        values.nan_to_num(0.0).tolist(),
        color=colours,
        yerr=None if errors is None else errors.tolist(),
        error_kw={"elinewidth": 1, "ecolor": GREY},
    )
    finite = values[values.isfinite()]
    if len(finite) and float(finite.max()) > 20 * float(finite.abs().median()) > 0:
        axis.set_yscale("symlog", linthresh=float(finite.abs().median()))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())


def _layer_axis(axis: Axes, layers: int) -> None:
    axis.set_xlabel("decoder layer")
    axis.set_xlim(-0.7, layers - 0.3)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def _list(numbers: Sequence[int]) -> str:
    """[3, 1, 2] -> '3, 1 and 2'."""
    words = [str(number) for number in numbers]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
