"""Figures of lesson 10: how a training brings a pruned model nearer to its parent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from comp_lib.plots.base import DASHED, Picture, figure_with_axes, style

Line = Sequence[tuple[int, float]]  # (step, divergence from the parent in nats per token)


def plot_divergence(lines: Mapping[str, Line]) -> Picture:
    """Divergence from the parent against the steps of a training, a line for each text; dashed: where it began."""
    label = "divergence from the parent\n(nats per token)"
    figure, axes = figure_with_axes((7.0, 3.4), xlabel="steps of training", ylabel=label)
    words = []
    for place, (name, points) in enumerate(lines.items()):
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, label=name, **style(place))
        before = "before training" if place == 0 else None
        axes.axhline(values[0], **DASHED | {"color": style(place)["color"]}, label=before)
        words.append(f"{name}: {values[0]:.3f} before, {values[-1]:.3f} after {steps[-1]} steps")
    axes.set_ylim(0, 1.08 * max(value for points in lines.values() for _, value in points))
    axes.legend(loc="lower left")
    return figure.described("Lines of the divergence from the parent against the steps of a training. ", words)
