"""Figures of lesson 05: the loop of the method as a drawing, and what each of its parts is worth."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from comp_lib.plots.base import ABOVE, BLUE, DASHED, GREEN, GREY, LOSS, Numbers, Picture, panels


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
