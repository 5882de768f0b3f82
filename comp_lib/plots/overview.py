"""A model at first sight: where its parameters are, and which of its layers look idle."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..shape import Shape
from .base import COLOURS, figure_with_axes


def plot_overview(shape: Shape, influence: Sequence[float]) -> Figure:
    """Parameters of each decoder layer, by what holds them, above; its block influence, one entry a layer, below."""
    figure, (top, bottom) = figure_with_axes(2, 1, (9.0, 5.0), sharex=True)
    layers = list(range(shape.layers))
    attention = [shape.kv_groups[i] * shape.group_parameters / 1e6 for i in layers]
    mlp = [shape.neurons[i] * shape.neuron_parameters / 1e6 for i in layers]
    top.bar(layers, attention, color=COLOURS[1], label="attention")
    top.bar(layers, mlp, bottom=attention, color=COLOURS[2], label="MLP")
    top.set_ylabel("parameters (millions)")
    top.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    bottom.bar(layers, influence, color=COLOURS[0])
    bottom.set_ylabel("block influence\n(1 - mean cosine)")
    bottom.set_xlabel("decoder layer")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    share = sum(mlp) / (sum(mlp) + sum(attention))
    figure.alt_text = (
        f"Two bar charts over {shape.layers} decoder layers. Parameters: {share:.0%} of them are in the MLPs, the rest "
        f"in attention. Block influence: highest, {max(influence):.3f}, in layer "
        f"{max(layers, key=lambda i: influence[i])}; lowest, {min(influence):.3f}, in layer "
        f"{min(layers, key=lambda i: influence[i])}."
    )
    return figure
