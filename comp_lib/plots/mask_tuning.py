"""Pictures of recovery (lesson 04): masks, their variance, what they cost, and how a fit does on other tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import NullFormatter
from numpy.typing import ArrayLike

from .base import BESIDE, COLOURS, DASHED, Picture, figure_with_axes, layer_axis, log_y, note, outcome_dots, panels

Arrays = Mapping[str, ArrayLike]
MARKERS = "oXDs^v"
LOW = 1e-6  # a variance of zero has to stand somewhere on a logarithmic axis
LAMBDA = "λ (share of each neuron's own energy)"


def plot_masks(masks: Arrays, title: str) -> Picture:
    """The factors of each mask in rising order, label -> (k,): a calm mask is a flat line a little above 1."""
    labels = {"xlabel": "neurons that stay, in the order of their factor (%)", "ylabel": "factor in the mask"}
    figure, axis = figure_with_axes((7.5, 3.8), title=title, **labels)
    rising = {label: np.sort(np.asarray(values, dtype=float)) for label, values in masks.items()}
    words = []
    for (label, values), colour in zip(rising.items(), COLOURS, strict=False):
        axis.plot(np.linspace(0, 100, len(values)), values, color=colour, lw=2, label=label)
        moments = f"mean {values.mean():.2f}, variance {values.var():.2g}"
        words.append(f"{label}: from {values[0]:.2f} to {values[-1]:.2f}, {moments}")
    axis.axhline(1.0, label="untouched", **DASHED)
    reach = max(np.abs(values).max() for values in rising.values())
    if reach > 10:
        axis.set_yscale("symlog", linthresh=2, linscale=1.5)
        steps = [step for step in (1, 10, 100, 1000, 10000) if step < 1.5 * reach]
        axis.set_yticks(ticks := [-step for step in steps[::-1]] + [0, *steps], [f"{tick:,}" for tick in ticks])
        axis.set_ylim(min(1.4 * min(values[0] for values in rising.values()), -1.0), 1.4 * reach)
    axis.legend(fontsize=8, loc="upper left")
    return figure.described(f"{title}. Factors of masks in rising order. ", words)


def plot_variances(variances: Arrays, bound: float, title: str) -> Picture:
    """Variance of the mask in each layer, label -> (layers,), and the guard's bound."""
    figure, axis = figure_with_axes((8.0, 3.6), title=title, ylabel="variance of the mask", yscale="log")
    words = []
    for (label, values), colour, marker in zip(variances.items(), COLOURS, MARKERS, strict=False):
        shown = np.maximum(np.asarray(values, dtype=float), LOW)
        axis.plot(shown, marker=marker, ls="", color=colour, alpha=0.8, label=label)
        above = f"{(shown > bound).sum()} of {len(shown)} layers above the bound"
        words.append(f"{label}: highest {shown.max():.3g} in layer {shown.argmax()}, {above}")
    axis.axhline(bound, label=f"the guard's bound, {bound:g}", **DASHED)
    layer_axis(axis)
    axis.legend(fontsize=8, **BESIDE)
    return figure.described(f"{title}. Variance of the mask by layer, logarithmic. ", words)


def plot_ridge_path(
    ridges: Sequence[float], variance: ArrayLike, errors: Arrays, nothing: Mapping[str, float], bound: float, title: str
) -> Picture:
    """Against lambda (R,): the variance of the mask on the left; on the right its error by each measure (R,), and the
    error by the same measure with no tuning at all (dashed)."""
    ylabels = ["variance of the mask", "error left (% of energy)"]
    figure, (left, right) = panels(1, 2, (10.0, 3.8), xscale="log", yscale="log", xlabel=LAMBDA, ylabel=ylabels)
    shown = np.maximum(np.asarray(variance, dtype=float), LOW)
    left.plot(ridges, shown, "o-", color=COLOURS[3])
    left.axhline(bound, label=f"the guard's bound, {bound:g}", **DASHED)
    left.legend(fontsize=8)
    words = []
    for (label, values), colour, marker in zip(errors.items(), COLOURS, MARKERS, strict=False):
        values, untuned = np.asarray(values, dtype=float), nothing[label]
        right.plot(ridges, 100 * values, marker + "-", color=colour, label=label)
        right.axhline(100 * untuned, color=colour, ls="--", lw=1, label="the same, no tuning")
        ends = f"{values[0]:.3g} at the weakest, {values[-1]:.3g} at the strongest"
        words.append(f"{label}: {ends}, {untuned:.3g} untuned")
    right.yaxis.set_major_formatter(lambda value, place: f"{value:,.0f}%")
    right.yaxis.set_minor_formatter(NullFormatter())
    right.legend(fontsize=8)
    figure.suptitle(title)
    passed = [ridge for ridge, value in zip(ridges, shown, strict=True) if value <= bound]
    under = f"from {min(passed):g} on" if passed else "nowhere"
    falls = f"the variance of the mask falls from {shown[0]:.3g} to {shown[-1]:.3g}"
    rises = f"while lambda rises from {ridges[0]:g} to {ridges[-1]:g}; it is under the bound of {bound:g} {under}"
    return figure.described(f"{title}. Left: {falls} {rises}. Right: relative error left. ", words)


def plot_perplexities(outcomes: Mapping[str, Mapping[str, float]], dense: float, title: str) -> Picture:
    """Perplexity of each way in each case, outcomes[case][way], as dots on one logarithmic axis."""
    ways = list(dict.fromkeys(way for table in outcomes.values() for way in table))[::-1]  # the first on top
    styles = list(zip(COLOURS, MARKERS, strict=False))
    figure, axis, words = outcome_dots(outcomes, ways, styles, "{:,.1f}", dense)
    for way, value in (pair for table in outcomes.values() for pair in table.items()):
        number = f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"
        note(axis, number, (value, ways.index(way)), (0, 6), ha="center")
    axis.set(title=title, xlabel="perplexity (lower is better)")
    return figure.described(f"{title}. Perplexities, logarithmic. {words}")


def plot_token_curve(
    tokens: Sequence[int], inputs: int, ridges: Sequence[float], curve: Arrays, names: Sequence[str]
) -> Picture:
    """Error on the tokens of the fit (dashed) and on unseen ones (solid) against their number (sizes,).

    curve: fitted and unseen (fits, sizes, ridges), nothing (2,), as `lessons.mask_tuning.token_curve` returns them;
    names of the fits, one panel each; inputs: how many inputs the fitted layer has.
    """
    labels = {"xscale": "log", "xlabel": "calibration tokens", "title": list(names)}
    figure, axes = panels(1, len(names), (5.0 * len(names), 4.2), "y", **labels)
    fitted, unseen, untuned = np.asarray(curve["fitted"]), np.asarray(curve["unseen"]), np.asarray(curve["nothing"])[1]
    words = []
    for axis, name, own, other in zip(axes, names, fitted, unseen, strict=True):
        for ridge, colour, marker, seen, fresh in zip(ridges, COLOURS, MARKERS, own.T, other.T, strict=False):
            axis.plot(tokens, 100 * fresh, marker + "-", color=colour, label=f"λ = {ridge:g}")
            axis.plot(tokens, 100 * seen, marker + "--", color=colour, alpha=0.5, ms=4)
            worst = f"at worst {fresh.max():.1%} with {tokens[fresh.argmax()]:,}"
            on_unseen = f"on unseen tokens {fresh[0]:.1%} with the fewest, {worst}, {fresh[-1]:.1%} with the most"
            own_tokens = f"on its own tokens {seen[0]:.1%} and {seen[-1]:.1%}"
            words.append(f"{name} with lambda {ridge:g}: {on_unseen}; {own_tokens}")
        axis.axhline(100 * untuned, color="black", ls=":", lw=1.5, label="no recovery, unseen")
        axis.axvline(inputs, color="grey", lw=1, label="as many tokens as inputs")
        axis.set_xticks(tokens, [f"{count:,}" for count in tokens], minor=False)
        axis.xaxis.set_minor_formatter(NullFormatter())
    first = axes[0]
    first.plot([], [], "k--", alpha=0.5, label="on the fit's own tokens")
    first.plot([], [], "k-", label="on unseen tokens")
    low, top = untuned / 12, max(unseen.max(), untuned) * 1.3  # a fit that reproduces its tokens leaves at the bottom
    first.set(ylim=(100 * low, 100 * top), ylabel="error left (share of energy)")
    log_y(first)
    first.yaxis.set_major_formatter("{x:g}%")
    figure.legend(*first.get_legend_handles_labels(), fontsize=8, loc="outside right center")
    what = f"Error left against {tokens[0]:,} to {tokens[-1]:,} calibration tokens, one panel for each fit. "
    return figure.described(f"{what}Without recovery it is {untuned:.1%} on unseen tokens. ", words)
