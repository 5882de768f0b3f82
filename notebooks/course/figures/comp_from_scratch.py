"""Figures of lesson 05: the loop of the method as a drawing, and what each of its parts is worth."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.patches import FancyBboxPatch

from comp_lib.plots.base import (
    ABOVE,
    BLUE,
    DASHED,
    GREEN,
    GREY,
    LOSS,
    ORANGE,
    Numbers,
    Picture,
    figure_with_axes,
    panels,
)

STEPS = {  # of one layer: what each does, and what it leaves behind
    "1 watch": "the text passes;\n$C = X^\\top X$ is kept",
    "2 choose": "in rounds, the least\n$s_i = \\|v_i\\|^2 / P_{ii}$ go",
    "3 re-tune": "those that stay get\nweights $V$ by least squares",
    "4 cut": "gate, up and down\nlose rows and columns",
    "5 pass on": "the text goes through\nthe smaller layer",
}


def plot_loop() -> Picture:
    """The five steps of one layer in a row, the plan before them, and the way of the calibration text below them."""
    figure, axes = figure_with_axes((10.0, 3.7), xlim=(-0.66, 5.06), ylim=(-0.25, 3.0))
    axes.axis("off")
    axes.text(2.2, 2.86, "plan, once: one width for all layers, from the ratio", ha="center", va="center", fontsize=11)
    axes.annotate("", (2.2, 2.4), (2.2, 2.72), arrowprops={"arrowstyle": "->", "color": "black"})
    frame = {"boxstyle": "round,pad=0.02", "facecolor": "none", "edgecolor": GREY, "linestyle": "--"}
    axes.add_patch(FancyBboxPatch((-0.58, 0.72), 5.56, 1.66, **frame))
    axes.text(4.9, 2.2, "for each layer, from the first to the last", ha="right", va="center", fontsize=9)
    for place, (name, words) in enumerate(STEPS.items()):
        colour = ORANGE if name.endswith(("watch", "pass on")) else BLUE
        looks = {"boxstyle": "round,pad=0.02", "facecolor": colour, "alpha": 0.25}
        axes.add_patch(FancyBboxPatch((1.1 * place - 0.47, 0.95), 0.94, 1.0, **looks))
        axes.text(1.1 * place, 1.74, name, ha="center", va="center", weight="bold", fontsize=10)
        axes.text(1.1 * place, 1.28, words, ha="center", va="center", fontsize=8)
        if place:
            arrow = {"arrowstyle": "->", "color": "black"}
            axes.annotate("", (1.1 * place - 0.47, 1.45), (1.1 * place - 0.63, 1.45), arrowprops=arrow)
    axes.annotate("", (0.0, 0.93), (0.0, 0.3), arrowprops={"arrowstyle": "->", "color": ORANGE, "linewidth": 2})
    axes.annotate("", (4.4, 0.3), (4.4, 0.93), arrowprops={"arrowstyle": "->", "color": ORANGE, "linewidth": 2})
    axes.text(0.12, 0.06, "$h$: what the smaller layers\nbefore this one make of the text", ha="center", va="center")
    axes.text(4.4, 0.06, "the new $h$,\nfor the next layer", ha="center", va="center")
    return figure.described(
        "Drawing. Once: the plan sets one width for all layers from the ratio. Then, for each layer from the first to "
        "the last, five boxes in a row: watch, choose, re-tune, cut, pass on. The calibration text enters at watch, as "
        "the smaller layers before left it, and leaves at pass on, through the layer that was just made smaller."
    )


def plot_parts(increases: Mapping[str, Numbers], differences: Mapping[str, Numbers], reference: str) -> Picture:
    """What each variant costs, a dot a seed, beside its difference from the `reference` with the same seed.

    increases: nats per token of each seed; differences: of all variants but the reference, of each seed that both have.
    The band is as wide as the seeds of the reference lie apart: the ruler.
    """
    names = sorted(increases, key=lambda name: float(np.mean(increases[name])), reverse=True)
    own = increases[reference]
    span = max(own) - min(own)
    labels = [LOSS, f"difference from {reference}, same seed\n(nats per token)"]
    size = (10.0, 0.36 * len(names) + 1.6)
    figure, (left, right) = panels(1, 2, size, "y", xlabel=labels, ylim=(-0.6, len(names) - 0.4))
    left.axvspan(min(own), max(own), color=GREEN, alpha=0.15, linewidth=0, label=f"seeds of {reference}")
    right.axvspan(-span, span, color=GREEN, alpha=0.15, linewidth=0, label=f"as far as seeds of {reference} differ")
    right.axvline(0.0, **DASHED)
    words = []
    for place, name in enumerate(names):
        values, apart = increases[name], differences.get(name, ())
        beyond = len(apart) > 0 and abs(float(np.mean(apart))) > span
        colour = GREEN if name == reference else BLUE if beyond else GREY
        for axes, dots in ((left, values), (right, apart)):
            axes.scatter(dots, [place] * len(dots), s=26, color=colour, zorder=3)
        if name != reference:
            words.append(f"{name} {np.mean(apart):+.3f} ({len(apart)} seed{'s' if len(apart) > 1 else ''})")
    left.set_yticks(range(len(names)), names)
    left.legend(fontsize=8, **ABOVE)
    right.legend(fontsize=8, **ABOVE)
    return figure.described(
        f"Two panels over {len(names)} variants. Left: dots of the loss increase, one a seed; {reference} spans "
        f"{min(own):.3f} to {max(own):.3f} nats. Right: mean difference from {reference} with the same seeds: ",
        reversed(words),
    )
