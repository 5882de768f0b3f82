"""The picture of COMP from scratch (lesson 05): how the ridge is chosen."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.ticker import MultipleLocator, PercentFormatter

from comp_lib.plots.base import BLUE, DASHED_LINE, GREY, ORANGE, Picture, panels, plain_ticks


def plot_lambdas(
    ridges: Sequence[float], fitted: Sequence[float], held_out: Sequence[float], old_rows: float
) -> Picture:
    """The error on the half of the text that was fitted, and on the other half, for each ridge.

    fitted and held_out are shares of the output's energy, and so is old_rows: the share that is lost without
    a refit, on the other half.
    """
    figure, [axes] = panels(
        1, 1, (7.2, 3.4), xlabel="ridge λ", ylabel="error (% of the output)", xscale="log"
    )
    axes.plot(ridges, fitted, "o-", color=GREY, label="on the half that was fitted")
    axes.plot(ridges, held_out, "o-", color=BLUE, label="on the other half")
    best = min(range(len(ridges)), key=held_out.__getitem__)
    axes.plot(ridges[best], held_out[best], "o", color=ORANGE, markersize=11, label="the λ that is chosen")
    axes.axhline(old_rows, **DASHED_LINE, label="old rows, other half")
    axes.yaxis.set_major_locator(MultipleLocator(0.05))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylim(0, 1.25 * max(*fitted, *held_out, old_rows))  # room for the legend
    plain_ticks(axes.xaxis, (min(ridges), max(ridges)))
    axes.legend(loc="upper right")
    phrases = [
        f"λ {ridge:.2f}: {own:.1%} and {other:.1%}"
        for ridge, own, other in zip(ridges, fitted, held_out, strict=True)
    ]
    start = (
        f"Two lines over the ridge: the error of the refit on the half of the text that was fitted, and on "
        f"the other half. The other half chooses λ {ridges[best]:.2f}. A dashed line: with the old rows the "
        f"other half loses {old_rows:.1%}. "
    )
    return figure.with_alt_text(start, phrases)
