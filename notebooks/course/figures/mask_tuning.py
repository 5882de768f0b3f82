"""Pictures of recovery (lesson 04): the variance of masks, what they cost, and how a fit does on other tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import NullFormatter
from numpy.typing import ArrayLike

from comp_lib.plots.base import (
    BESIDE,
    COLOURS,
    DASHED,
    GREY,
    ORANGE,
    Picture,
    figure_with_axes,
    layer_axis,
    log_y,
    panels,
)

Arrays = Mapping[str, ArrayLike]
Interval = tuple[float, float, float]  # a mean, and the bounds of its interval
MARKERS = "oXDs^v"
LOW = 1e-6  # a variance of zero has to stand somewhere on a logarithmic axis
LAMBDA = "strength of the pull, λ"
RECOVERIES = {  # name -> (what is free, towards what it is fitted, the solve)
    "mask": ("{kept:,} factors, one a neuron", "the layer's own output", "(G + D) m = G 1 + D 1"),
    "refit": ("{weights:,} weights", "the layer's own output", "(C + D) V = C W + D W"),
    "dense target": ("{weights:,} weights", "the dense model's stream,\nminus what flows past", "(C + D) V = B + D W"),
}


def plot_recoveries(neurons: int, kept: int, outputs: int) -> Picture:
    """What is free and what is aimed at, a panel for each recovery: mask, refit, refit towards the dense stream."""
    figure, axes = panels(1, len(RECOVERIES), (10.5, 4.6), xlim=(-0.3, 10), ylim=(-4.6, 7.4))
    words = []
    for axis, (name, (free, target, solve)) in zip(axes, RECOVERIES.items(), strict=True):
        axis.axis("off")
        axis.set_title(name)
        _layer(axis, name)
        free = free.format(kept=kept, weights=kept * outputs)
        for height, label, text in ((-1.3, "free", free), (-2.6, "aims at", target), (-4.1, "solve", solve)):
            axis.text(2.3, height, f"{label}:", ha="right", va="center", fontsize=9, weight="bold")
            axis.text(2.6, height, text, ha="left", va="center", fontsize=9)
        words.append(f"{name}: free are {free}, it aims at {' '.join(target.split())}, it solves {solve}")
    what = f"Three drawings of one MLP whose {neurons:,} neurons write {outputs:,} outputs; {kept:,} neurons stay"
    return figure.described(f"{what}. What is free to move is orange. ", words)


def _layer(axis: Axes, name: str) -> None:
    """Five neurons, two of which go, and three outputs; orange is what this recovery may change."""
    stay, ends, free = (5.8, 4.3, 1.3), (5.0, 3.3, 1.6), name != "mask"
    for height in (2.8, -0.1):
        axis.plot(2.0, height, "x", color=GREY, ms=9, mew=2)
        axis.text(1.4, height, "goes", ha="right", va="center", fontsize=8, color="dimgrey")
    for height in stay:
        axis.text(1.4, height, "stays", ha="right", va="center", fontsize=8)
        for end in ends:
            axis.plot([2.2, 7.0], [height, end], color=ORANGE if free else GREY, lw=1.6 if free else 0.9, zorder=1)
        axis.plot(2.0, height, "o", color=COLOURS[0], ms=11, zorder=3)
        if not free:
            axis.plot(3.1, height + (3.3 - height) * 0.19, "D", color=ORANGE, ms=9, zorder=3)
    for end in ends:
        axis.plot(7.0, end, "s", color="black", ms=7, zorder=3)
    axis.text(2.0, 6.8, "neurons", ha="center", fontsize=8)
    axis.text(7.0, 6.1, "outputs", ha="center", fontsize=8)
    if name == "dense target":
        box: Any = FancyBboxPatch((8.3, 1.2), 1.3, 4.2, boxstyle="round,pad=0.1", fc="none", ec=COLOURS[2], lw=2)
        axis.add_patch(box)
        axis.text(8.95, 3.3, "dense stream", rotation=90, ha="center", va="center", fontsize=8)
        axis.annotate("", (8.1, 3.3), (7.25, 3.3), arrowprops={"arrowstyle": "<->", "color": COLOURS[2], "lw": 2})


def plot_variances(variances: Arrays, bound: float, title: str) -> Picture:
    """Variance of the mask in each layer, label -> (layers,), and the guard's bound."""
    figure, axis = figure_with_axes((8.5, 3.6), title=title, ylabel="variance of the mask", yscale="log")
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
    ridges: Sequence[float],
    errors: Arrays,
    nothing: Mapping[str, float],
    passing: Mapping[str, Sequence[bool]],
    title: str,
    at: int | None = None,
) -> Picture:
    """Error of a mask against lambda (R,), by each measure, beside that without tuning (dashed); below, which lambdas
    let the mask pass each guard: passing[guard] (R,). at: the place of the lambda to point at."""
    figure, axis = figure_with_axes((8.5, 4.0), title=title, xlabel=LAMBDA, xscale="log")
    words = []
    for (label, values), colour, marker in zip(errors.items(), COLOURS, MARKERS, strict=False):
        values, untuned = np.asarray(values, dtype=float), nothing[label]
        axis.plot(ridges, 100 * values, marker + "-", color=colour, label=label)
        axis.axhline(100 * untuned, color=colour, ls="--", lw=1, label="the same, no tuning")
        ends = f"{values[0]:.3g} at the weakest, {values[-1]:.3g} at the strongest"
        words.append(f"{label}: {ends}, {untuned:.3g} untuned")
    high = axis.get_ylim()[1]
    floor = 80 * min([*nothing.values(), *(float(np.min(np.asarray(values))) for values in errors.values())])
    for place, ((guard, passes), colour) in enumerate(zip(passing.items(), COLOURS[2:], strict=False)):
        lambdas = [ridge for ridge, one in zip(ridges, passes, strict=True) if one]
        height = floor / 1.6 ** (place + 1)
        axis.plot(lambdas, [height] * len(lambdas), "|-", color=colour, lw=4, ms=9, label=f"{guard}: passes")
        words.append(f"{guard} lets pass {'from ' + format(min(lambdas), 'g') + ' on' if lambdas else 'nothing'}")
    axis.set(ylim=(floor / 1.6 ** (len(passing) + 1), 1.3 * max(high, 1.5 * floor)), ylabel="error left (% of energy)")
    if at is not None:
        axis.axvline(ridges[at], color=GREY, lw=4, alpha=0.4, label=f"λ = {ridges[at]:g}")
    log_y(axis, most=6)
    shown = ridges[:: -(-len(ridges) // 7)]
    axis.set_xticks(shown, [f"{ridge:,.0f}" if ridge >= 100 else f"{ridge:.3g}" for ridge in shown])
    axis.set_xticks([], minor=True)
    axis.legend(fontsize=8, **BESIDE)
    span = f"against lambda from {ridges[0]:g} to {ridges[-1]:g}"
    return figure.described(f"{title}. Relative error left {span}. ", words)


def plot_losses(outcomes: Mapping[str, Mapping[str, Interval]], marks: Mapping[str, float], title: str) -> Picture:
    """Loss of each way in each case, outcomes[case][way] = (mean, low, high), as dots with their 95% intervals; the
    `marks` are losses to compare with, as dashed lines."""
    ways = list(dict.fromkeys(way for table in outcomes.values() for way in table))[::-1]  # the first on top
    size = (8.5, 0.3 * len(ways) * max(1.0, 0.6 * len(outcomes)) + 1.6)
    figure, axis = figure_with_axes(size, ylim=(-0.6, len(ways) - 0.4), title=title)
    words = []
    for place, ((case, table), colour, marker) in enumerate(zip(outcomes.items(), COLOURS, MARKERS, strict=False)):
        shift = 0.36 * (0.5 * (len(outcomes) - 1) - place) / max(1, len(outcomes) - 1)
        mean, low, high = np.array([table[way] for way in table]).T
        heights = [ways.index(way) + shift for way in table]
        style = {"color": colour, "marker": marker, "ls": "", "capsize": 3, "ms": 6}
        axis.errorbar(mean, heights, xerr=[mean - low, high - mean], label=case, **style)
        numbers = ", ".join(f"{way} {one:.2f} ({least:.2f} to {most:.2f})" for way, (one, least, most) in table.items())
        words.append(f"{case}: {numbers}")
    for (mark, value), line in zip(marks.items(), ("--", ":", "-."), strict=False):
        axis.axvline(value, color="black", ls=line, lw=1, label=mark)
        words.append(f"{mark}: {value:.2f}")
    axis.set_yticks(range(len(ways)), ways)
    axis.set_xlabel("loss (nats per token, lower is better); bars: 95% interval over windows")
    axis.legend(fontsize=8, **BESIDE)
    return figure.described(f"{title}. Losses with 95% intervals. ", words)


def plot_token_curve(
    tokens: Sequence[int],
    inputs: int,
    own: Arrays,
    unseen: Mapping[str, Sequence[Interval]],
    untuned: Interval,
    title: str,
) -> Picture:
    """Error on the tokens of the fit (dashed) and on unseen ones (solid) against their number, a line for each fit.

    own: fit -> (sizes,); unseen: fit -> (mean, low, high) for each size; untuned: on unseen tokens without recovery;
    inputs: how many inputs the fitted layer has.
    """
    figure, axis = figure_with_axes((8.5, 4.4), title=title, xscale="log", xlabel="calibration tokens of the fit")
    words = []
    for (name, rows), colour, marker in zip(unseen.items(), COLOURS, MARKERS, strict=False):
        mean, low, high = 100 * np.array(rows).T
        bars = {"color": colour, "marker": marker, "capsize": 3}
        axis.errorbar(tokens, mean, yerr=[mean - low, high - mean], label=name, **bars)
        axis.plot(tokens, seen := 100 * np.asarray(own[name], dtype=float), "--", color=colour, alpha=0.6)
        worst = f"at worst {mean.max():.1f}% with {tokens[mean.argmax()]:,}"
        others = f"on unseen tokens {mean[0]:.1f}% with the fewest, {worst}, {mean[-1]:.1f}% with the most"
        words.append(f"{name}: {others}; on its own tokens {seen[0]:.1f}% and {seen[-1]:.1f}%")
    axis.axhline(100 * untuned[0], color="black", ls=":", lw=1.5, label="no recovery")
    axis.axvline(inputs, color="grey", lw=1, label="as many tokens as inputs")
    axis.plot([], [], "k-", label="on unseen tokens (95%)")
    axis.plot([], [], "k--", alpha=0.6, label="on the fit's own tokens;\nbelow the axis: hardly any")
    axis.set_xticks(tokens, [f"{count:,}" for count in tokens], minor=False)
    axis.xaxis.set_minor_formatter(NullFormatter())
    top = max(high for rows in unseen.values() for _, _, high in rows)
    # a fit that reproduces its tokens leaves at the bottom
    axis.set(ylim=(100 * untuned[0] / 12, 130 * max(top, untuned[2])), ylabel="error left (% of the layer's energy)")
    log_y(axis)
    axis.legend(fontsize=8, **BESIDE)
    what = f"{title}. Error left against {tokens[0]:,} to {tokens[-1]:,} calibration tokens"
    return figure.described(f"{what}. Without recovery it is {untuned[0]:.1%} on unseen tokens. ", words)
