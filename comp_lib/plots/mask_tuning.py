"""Pictures of recovery: masks, their variance, what they cost, and how a fit does on other tokens (see `base`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from .base import COLOURS, figure_with_axes

MARKERS = "oXDs^v"
LOW = 1e-6  # a variance of zero has to stand somewhere on a logarithmic axis


def plot_masks(masks: Mapping[str, Sequence[float]], title: str) -> Figure:
    """The factors of each mask in rising order, label -> (k,): a calm mask is a flat line a little above 1."""
    figure, axis = figure_with_axes(1, 1, (7.5, 3.8))
    words = []
    for (label, values), colour in zip(masks.items(), COLOURS, strict=False):
        ordered = np.sort(np.asarray(values, dtype=float))
        axis.plot(np.linspace(0, 100, len(ordered)), ordered, color=colour, lw=2, label=label)
        words.append(
            f"{label}: from {ordered[0]:.2f} to {ordered[-1]:.2f}, mean {ordered.mean():.2f}, "
            f"variance {ordered.var():.2g}"
        )
    axis.axhline(1.0, color="black", ls="--", lw=1, label="untouched")
    reach = max(np.abs(np.asarray(values, dtype=float)).max() for values in masks.values())
    if reach > 10:
        axis.set_yscale("symlog", linthresh=2, linscale=1.5)
        steps = [step for step in (1, 10, 100, 1000, 10000) if step < 1.5 * reach]
        axis.set_yticks(ticks := [-step for step in steps[::-1]] + [0, *steps], [f"{tick:,}" for tick in ticks])
        lowest = min(np.asarray(values, dtype=float).min() for values in masks.values())
        axis.set_ylim(min(1.4 * lowest, -1.0), 1.4 * reach)
    axis.set(title=title, xlabel="neurons that stay, in the order of their factor (%)", ylabel="factor in the mask")
    axis.legend(fontsize=8, loc="upper left")
    figure.alt_text = f"{title}. Factors of masks in rising order. {'; '.join(words)}."
    return figure


def plot_variances(variances: Mapping[str, Sequence[float]], bound: float, title: str) -> Figure:
    """Variance of the mask in each layer, label -> (layers,), and the guard's bound."""
    figure, axis = figure_with_axes(1, 1, (8.0, 3.6))
    words = []
    for (label, values), colour, marker in zip(variances.items(), COLOURS, MARKERS, strict=False):
        shown = np.maximum(np.asarray(values, dtype=float), LOW)
        axis.plot(shown, marker=marker, ls="", color=colour, alpha=0.8, label=label)
        words.append(
            f"{label}: highest {shown.max():.3g} in layer {shown.argmax()}, {(shown > bound).sum()} of {len(shown)} "
            "layers above the bound"
        )
    axis.axhline(bound, color="black", ls="--", lw=1, label=f"the guard's bound, {bound:g}")
    axis.set(yscale="log", title=title, xlabel="decoder layer", ylabel="variance of the mask")
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.alt_text = f"{title}. Variance of the mask by layer, logarithmic. {'; '.join(words)}."
    return figure


def plot_ridge_path(
    ridges: Sequence[float],
    variance: Sequence[float],
    errors: Mapping[str, Sequence[float]],
    nothing: Mapping[str, float],
    bound: float,
    title: str,
) -> Figure:
    """Against lambda (R,): the variance of the mask on the left; on the right its error by each measure (R,), and the
    error by the same measure with no tuning at all (dashed)."""
    figure, (left, right) = figure_with_axes(1, 2, (10.0, 3.8))
    variance = np.maximum(np.asarray(variance, dtype=float), LOW)
    left.plot(ridges, variance, "o-", color=COLOURS[3])
    left.axhline(bound, color="black", ls="--", lw=1, label=f"the guard's bound, {bound:g}")
    left.set(xscale="log", yscale="log", xlabel="λ (share of each neuron's own energy)", ylabel="variance of the mask")
    left.legend(fontsize=8)
    words = []
    for (label, values), colour, marker in zip(errors.items(), COLOURS, MARKERS, strict=False):
        values = np.asarray(values, dtype=float)
        right.plot(ridges, 100 * values, marker + "-", color=colour, label=label)
        right.axhline(100 * nothing[label], color=colour, ls="--", lw=1, label="the same, no tuning")
        words.append(
            f"{label}: {values[0]:.3g} at the weakest, {values[-1]:.3g} at the strongest, {nothing[label]:.3g} untuned"
        )
    right.set(
        xscale="log", yscale="log", xlabel="λ (share of each neuron's own energy)", ylabel="error left (% of energy)"
    )
    right.yaxis.set_major_formatter(lambda value, place: f"{value:,.0f}%")
    right.yaxis.set_minor_formatter(NullFormatter())
    right.legend(fontsize=8)
    figure.suptitle(title)
    passed = [ridge for ridge, value in zip(ridges, variance, strict=True) if value <= bound]
    figure.alt_text = (
        f"{title}. Left: the variance of the mask falls from {variance[0]:.3g} to {variance[-1]:.3g} while lambda "
        f"rises from {ridges[0]:g} to {ridges[-1]:g}; it is under the bound of {bound:g} "
        + (f"from {min(passed):g} on. " if passed else "nowhere. ")
        + f"Right: relative error left. {'; '.join(words)}."
    )
    return figure


def plot_perplexities(outcomes: Mapping[str, Mapping[str, float]], dense: float, title: str) -> Figure:
    """Perplexity of each way in each case, outcomes[case][way], as dots on one logarithmic axis."""
    ways = list(dict.fromkeys(way for table in outcomes.values() for way in table))
    figure, axis = figure_with_axes(1, 1, (8.5, 0.45 * len(ways) + 1.4))
    words = []
    for (case, table), colour, marker in zip(outcomes.items(), COLOURS, MARKERS, strict=False):
        axis.scatter(table.values(), [ways.index(way) for way in table], s=55, color=colour, marker=marker, label=case)
        for way, value in table.items():
            axis.annotate(
                f"{value:,.0f}" if value >= 1000 else f"{value:.1f}",
                (value, ways.index(way)),
                fontsize=8,
                xytext=(0, 6),
                textcoords="offset points",
                ha="center",
            )
        words.append(f"{case}: " + ", ".join(f"{way} {value:,.1f}" for way, value in table.items()))
    axis.axvline(dense, color="black", ls="--", lw=1, label="dense model")
    axis.set(xscale="log", title=title, xlabel="perplexity (lower is better)", ylim=(len(ways) - 0.5, -0.6))
    axis.set_yticks(range(len(ways)), ways)
    axis.margins(x=0.08)
    low, high = axis.get_xlim()
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 300 * low else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
    axis.xaxis.set_major_formatter(lambda value, place: f"{value:,.4g}" if value < 1000 else f"{value:,.0f}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.alt_text = f"{title}. Perplexities, logarithmic. {'; '.join(words)}. The dense model has {dense:,.1f}."
    return figure


def plot_token_curve(
    tokens: Sequence[int], inputs: int, ridges: Sequence[float], curve: Mapping[str, np.ndarray], names: Sequence[str]
) -> Figure:
    """Error on the tokens of the fit (dashed) and on unseen ones (solid) against their number (sizes,).

    curve: fitted and unseen (fits, sizes, ridges), nothing (2,), as `studies.recovery.token_curve` returns them; names
    of the fits, one panel each; inputs: how many inputs the fitted layer has.
    """
    figure, axes = figure_with_axes(1, len(names), (5.0 * len(names), 4.2), sharey=True, squeeze=False)
    fitted, unseen = np.asarray(curve["fitted"]), np.asarray(curve["unseen"])
    untuned = float(curve["nothing"][1])
    words = []
    for panel, (axis, name) in enumerate(zip(axes[0], names, strict=True)):
        for place, ridge in enumerate(ridges):
            colour = COLOURS[place]
            axis.plot(tokens, 100 * unseen[panel, :, place], MARKERS[place] + "-", color=colour, label=f"λ = {ridge:g}")
            axis.plot(tokens, 100 * fitted[panel, :, place], MARKERS[place] + "--", color=colour, alpha=0.5, ms=4)
            worst = int(unseen[panel, :, place].argmax())
            words.append(
                f"{name} with lambda {ridge:g}: on unseen tokens {unseen[panel, 0, place]:.1%} with the fewest, "
                f"at worst {unseen[panel, worst, place]:.1%} with {tokens[worst]:,}, "
                f"{unseen[panel, -1, place]:.1%} with the most; on its own tokens {fitted[panel, 0, place]:.1%} "
                f"and {fitted[panel, -1, place]:.1%}"
            )
        axis.axhline(100 * untuned, color="black", ls=":", lw=1.5, label="no recovery, unseen")
        axis.axvline(inputs, color="grey", lw=1, label="as many tokens as inputs")
        axis.set(xscale="log", title=name, xlabel="calibration tokens")
        axis.set_xticks(tokens, [f"{count:,}" for count in tokens], minor=False)
        axis.xaxis.set_minor_formatter(NullFormatter())
    axes[0][0].set_ylabel("error left (share of energy)")
    axes[0][0].plot([], [], "k--", alpha=0.5, label="on the fit's own tokens")
    axes[0][0].plot([], [], "k-", label="on unseen tokens")
    top, low = max(unseen.max(), untuned) * 1.3, untuned / 12  # a fit that reproduces its tokens leaves at the bottom
    steps = [step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0) if low <= step <= top]
    axes[0][0].set(yscale="log", ylim=(100 * low, 100 * top))
    axes[0][0].set_yticks([100 * step for step in steps], [f"{step:.0%}" for step in steps])
    axes[0][0].yaxis.set_minor_formatter(NullFormatter())
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside right center")
    figure.alt_text = (
        f"Error left against {tokens[0]:,} to {tokens[-1]:,} calibration tokens, one panel for each fit. Without "
        f"recovery it is {untuned:.1%} on unseen tokens. {'; '.join(words)}."
    )
    return figure
