"""Pictures of recovery (lesson 04): the variance of masks, their cost, and how a fit does on other tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import NullFormatter
from numpy.typing import ArrayLike

from comp_lib.plots.base import (
    COLOURS,
    DASHED_LINE,
    LEGEND_BESIDE,
    MARKERS,
    Picture,
    figure_with_axes,
    layer_axis,
    log_y,
    note,
    style,
)

from . import TITLE, Interval, spans

Arrays = Mapping[str, ArrayLike]
SMALLEST_VARIANCE = 1e-6  # where a variance of zero stands on a logarithmic axis


def plot_variances(variances: Arrays, bound: float, title: str) -> Picture:
    """Variance of the mask in each layer, label -> (layers,), and the guard's bound."""
    figure, axis = figure_with_axes((8.5, 3.6), title=title, ylabel="variance of the mask", yscale="log")
    phrases = []
    for (label, values), colour, marker in zip(variances.items(), COLOURS, MARKERS, strict=False):
        heights = np.maximum(np.asarray(values, dtype=float), SMALLEST_VARIANCE)
        axis.plot(heights, marker=marker, ls="", color=colour, alpha=0.8, label=label)
        above = f"{(heights > bound).sum()} of {len(heights)} layers above the bound"
        phrases.append(f"{label}: highest {heights.max():.3g} in layer {heights.argmax()}, {above}")
    axis.axhline(bound, label=f"the guard's bound, {bound:g}", **DASHED_LINE)
    layer_axis(axis)
    axis.legend(fontsize=8, **LEGEND_BESIDE)
    return figure.with_alt_text(f"{title}. Variance of the mask by layer, logarithmic. ", phrases)


def plot_losses(
    outcomes: Mapping[str, Mapping[str, Interval]], marks: Mapping[str, float], title: str
) -> Picture:
    """Losses as dots with their 95% intervals: outcomes[case][way] = (mean, low, high).

    Each way of each case has a row. The `marks` are losses to compare with: dashed lines that bear their
    names.
    """
    rows: list[str] = []
    for case, losses in outcomes.items():
        rows += [way if len(outcomes) == 1 else f"{case}, {way}" for way in losses]
    figure, axis = figure_with_axes((8.5, 0.35 * len(rows) + 1.5), ylim=(len(rows) - 0.4, -0.6))
    phrases = []
    top = 0  # row of the case's first way
    for (case, losses), colour, marker in zip(outcomes.items(), COLOURS, MARKERS, strict=False):
        means, whiskers = spans(list(losses.values()))
        looks = {"color": colour, "marker": marker, "ls": "", "capsize": 3, "ms": 6}
        axis.errorbar(means, range(top, top + len(losses)), xerr=whiskers, **looks)
        top += len(losses)
        numbers = [f"{way} {mean:.2f} ({low:.2f} to {high:.2f})" for way, (mean, low, high) in losses.items()]
        phrases.append(f"{case}: {', '.join(numbers)}")
    for (mark, value), line in zip(marks.items(), ("--", ":", "-."), strict=False):
        axis.axvline(value, color="black", ls=line, lw=1)
        note(axis, mark, (value, -0.6), (0, 3), ha="center", va="bottom", fontsize=8)
        phrases.append(f"{mark}: {value:.2f}")
    axis.set_title(title, pad=TITLE)
    axis.set_yticks(range(len(rows)), rows)
    axis.set_xlabel("loss (nats per token, lower is better); bars: 95% interval over windows")
    return figure.with_alt_text(f"{title}. Losses with 95% intervals. ", phrases)


def plot_token_curve(
    tokens: Sequence[int],
    inputs: int,
    fitted: Arrays,
    unseen: Mapping[str, Sequence[Interval]],
    untuned: Interval,
    title: str,
) -> Picture:
    """Error on the tokens of each fit (dashed) and on unseen ones (solid) against the number of tokens.

    fitted: error on the tokens of the fit, fit -> (sizes,); unseen: fit -> (mean, low, high) for each size;
    untuned: on unseen tokens without recovery; inputs: how many inputs the fitted layer has.
    """
    labels = {"title": title, "xscale": "log", "xlabel": "calibration tokens of the fit"}
    figure, axis = figure_with_axes((8.5, 4.4), **labels)
    phrases = []
    for number, (name, intervals) in enumerate(unseen.items()):
        means, whiskers = (100 * errors for errors in spans(intervals))
        axis.errorbar(tokens, means, yerr=whiskers, capsize=3, **style(number))
        colour = COLOURS[number]
        peak = int(means.argmax())
        if number == 0:  # the first line is named at its peak, the others at their ends
            note(axis, name, (tokens[peak], means[peak]), (8, 8), ha="left", color=colour)
        else:
            up = -14 if means[-1] < 0.9 * means[0] else 8
            note(axis, name, (tokens[-1], means[-1]), (0, up), ha="right", color=colour)
        on_fit = 100 * np.asarray(fitted[name], dtype=float)
        axis.plot(tokens, on_fit, "--", color=colour, alpha=0.6)
        worst = f"at worst {means[peak]:.1f}% with {tokens[peak]:,}"
        on_unseen = f"{means[0]:.1f}% with the fewest, {worst}, {means[-1]:.1f}% with the most"
        on_own = f"on its own tokens {on_fit[0]:.1f}% and {on_fit[-1]:.1f}%"
        phrases.append(f"{name}: on unseen tokens {on_unseen}; {on_own}")
    axis.axhline(100 * untuned[0], color="black", ls=":", lw=1.5, label="no recovery")
    axis.axvline(inputs, color="grey", lw=1, label="as many tokens as kept neurons")
    axis.plot([], [], "k-", label="on unseen tokens (95%)")
    axis.plot([], [], "k--", alpha=0.6, label="on the fit's own tokens;\nbelow the axis: hardly any")
    axis.set_xticks(tokens, [f"{count:,}" for count in tokens], minor=False)
    axis.xaxis.set_minor_formatter(NullFormatter())
    highest = max(high for intervals in unseen.values() for _, _, high in intervals)
    # the line of a fit that reproduces its tokens leaves the panel at the bottom
    limits = (100 * untuned[0] / 12, 130 * max(highest, untuned[2]))
    axis.set(ylim=limits, ylabel="error left (% of the layer's energy)")
    log_y(axis)
    axis.legend(fontsize=8, **LEGEND_BESIDE)
    opening = (
        f"{title}. Error left against {tokens[0]:,} to {tokens[-1]:,} calibration tokens. Without recovery "
        f"it is {untuned[0]:.1%} on unseen tokens. "
    )
    return figure.with_alt_text(opening, phrases)
