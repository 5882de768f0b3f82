"""Pictures of recovery (lesson 04): the variance of masks, what they cost, and how a fit does on other tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import NullFormatter
from numpy.typing import ArrayLike

from comp_lib.plots.base import (
    BESIDE,
    COLOURS,
    DASHED,
    MARKERS,
    Picture,
    figure_with_axes,
    layer_axis,
    log_y,
    note,
)

from . import TITLE, Interval, spans

Arrays = Mapping[str, ArrayLike]
LOW = 1e-6  # a variance of zero has to stand somewhere on a logarithmic axis


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


def plot_losses(
    outcomes: Mapping[str, Mapping[str, Interval]], marks: Mapping[str, float], title: str
) -> Picture:
    """Loss of each way in each case, outcomes[case][way] = (mean, low, high), as dots with their 95% intervals.

    A row for each; the `marks` are losses to compare with, as dashed lines that bear their names.
    """
    rows = [
        way if len(outcomes) == 1 else f"{case}, {way}" for case, table in outcomes.items() for way in table
    ]
    figure, axis = figure_with_axes((8.5, 0.35 * len(rows) + 1.5), ylim=(len(rows) - 0.4, -0.6))
    words, top = [], 0
    for (case, table), colour, marker in zip(outcomes.items(), COLOURS, MARKERS, strict=False):
        mean, apart = spans(list(table.values()))
        looks = {"color": colour, "marker": marker, "ls": "", "capsize": 3, "ms": 6}
        axis.errorbar(mean, range(top, top := top + len(table)), xerr=apart, **looks)
        numbers = ", ".join(
            f"{way} {one:.2f} ({least:.2f} to {most:.2f})" for way, (one, least, most) in table.items()
        )
        words.append(f"{case}: {numbers}")
    for (mark, value), line in zip(marks.items(), ("--", ":", "-."), strict=False):
        axis.axvline(value, color="black", ls=line, lw=1)
        note(axis, mark, (value, -0.6), (0, 3), ha="center", va="bottom", fontsize=8)
        words.append(f"{mark}: {value:.2f}")
    axis.set_title(title, pad=TITLE)
    axis.set_yticks(range(len(rows)), rows)
    axis.set_xlabel("loss (nats per token, lower is better); bars: 95% interval over windows")
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
    figure, axis = figure_with_axes(
        (8.5, 4.4), title=title, xscale="log", xlabel="calibration tokens of the fit"
    )
    words: list[str] = []
    for (name, rows), colour, marker in zip(unseen.items(), COLOURS, MARKERS, strict=False):
        mean, apart = (100 * part for part in spans(rows))
        bars = {"color": colour, "marker": marker, "capsize": 3}
        axis.errorbar(tokens, mean, yerr=apart, **bars)
        end = bool(words)  # the first line is named at its peak, the others at their ends
        at = -1 if end else int(mean.argmax())
        up = -14 if mean[at] < 0.9 * mean[0] else 8
        note(
            axis,
            name,
            (tokens[at], mean[at]),
            (0 if end else 8, up),
            ha="right" if end else "left",
            color=colour,
        )
        axis.plot(tokens, seen := 100 * np.asarray(own[name], dtype=float), "--", color=colour, alpha=0.6)
        worst = f"at worst {mean.max():.1f}% with {tokens[mean.argmax()]:,}"
        others = f"on unseen tokens {mean[0]:.1f}% with the fewest, {worst}, {mean[-1]:.1f}% with the most"
        words.append(f"{name}: {others}; on its own tokens {seen[0]:.1f}% and {seen[-1]:.1f}%")
    axis.axhline(100 * untuned[0], color="black", ls=":", lw=1.5, label="no recovery")
    axis.axvline(inputs, color="grey", lw=1, label="as many tokens as kept neurons")
    axis.plot([], [], "k-", label="on unseen tokens (95%)")
    axis.plot([], [], "k--", alpha=0.6, label="on the fit's own tokens;\nbelow the axis: hardly any")
    axis.set_xticks(tokens, [f"{count:,}" for count in tokens], minor=False)
    axis.xaxis.set_minor_formatter(NullFormatter())
    top = max(high for rows in unseen.values() for _, _, high in rows)
    # a fit that reproduces its tokens leaves at the bottom
    axis.set(
        ylim=(100 * untuned[0] / 12, 130 * max(top, untuned[2])),
        ylabel="error left (% of the layer's energy)",
    )
    log_y(axis)
    axis.legend(fontsize=8, **BESIDE)
    what = f"{title}. Error left against {tokens[0]:,} to {tokens[-1]:,} calibration tokens"
    return figure.described(f"{what}. Without recovery it is {untuned[0]:.1%} on unseen tokens. ", words)
