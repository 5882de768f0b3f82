"""Figures of a model on a device (lesson 08)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from comp_lib.decoder.shape import Shape
from comp_lib.reports.plots.base import (
    BLUE,
    DASHED_LINE,
    GREEN,
    GREY,
    LEGEND_ABOVE,
    ORANGE,
    Picture,
    figure_with_axes,
    style,
)
from comp_lib.reports.speed import Timing, median_ratio

from . import TITLE


def plot_reads(shapes: Mapping[str, Shape], vocabulary: int, bits: float) -> Picture:
    """A drawing to scale of what each model reads for one token.

    A strip shows the layers from the left, and the head last. In each layer the attention stands before the
    neurons. A weight has `bits` bits.
    """
    size = (9.5, 0.75 * len(shapes) + 1.3)
    figure, axes = figure_with_axes(size, xlabel="megabytes read for one token")
    megabytes_per_weight = bits / 8e6
    phrases = []
    for row, (name, shape) in enumerate(shapes.items()):
        left = 0.0
        for neurons, groups in zip(shape.neurons, shape.kv_groups, strict=True):
            attention = groups * shape.group_parameters * megabytes_per_weight
            mlp = neurons * shape.neuron_parameters * megabytes_per_weight
            for width, colour in ((attention, BLUE), (mlp, ORANGE)):
                axes.barh(row, width, 0.6, left, color=colour, edgecolor="white", linewidth=0.4)
                left += width
        head = vocabulary * shape.hidden_size * megabytes_per_weight
        axes.barh(row, head, 0.6, left, color=GREY)
        phrases.append(f"{name}: {left:.0f} MB of {shape.layer_count} layers and {head:.0f} MB of the head")
    for label, colour in (("attention", BLUE), ("neurons", ORANGE), ("head (the tied embedding)", GREY)):
        axes.barh(0, 0, color=colour, label=label)
    axes.set_yticks(range(len(shapes)), list(shapes))
    axes.set(ylim=(len(shapes) - 0.4, -0.6))
    axes.grid(axis="y", visible=False)
    axes.set_title(f"What decode reads for one token, in {bits:g} bits", pad=TITLE)
    axes.legend(ncols=3, **LEGEND_ABOVE)
    return figure.with_alt_text("Strips to scale of the bytes that are read for one token. ", phrases)


def plot_speedup(measured: Sequence[Timing]) -> Picture:
    """Speed-up of decoding over the first model, a row for each of the others, beside the byte ratio.

    The whiskers span the rounds.
    """
    dense, *pruned = measured
    xlabel = "speed of decode (dense model = 1)"
    figure, axes = figure_with_axes((8.5, 0.4 * max(2, len(pruned)) + 1.7), xlabel=xlabel)
    dot = style(0) | {"capsize": 3, "linestyle": "none", "label": "measured, all rounds"}
    tick = {"markersize": 16, "markeredgewidth": 2, "label": "byte ratio"}
    phrases = []
    for row, model in enumerate(pruned):
        byte_ratio = dense.bytes_per_token / model.bytes_per_token
        middle, low, high = median_ratio(model.decode, dense.decode)
        axes.errorbar(middle, row, xerr=[[middle - low], [high - middle]], **dot)
        axes.plot([byte_ratio], [row], "k|", **tick)
        dot["label"] = tick["label"] = ""  # the legend names each mark once
        phrases.append(f"{model.name}, {middle:.2f} beside a byte ratio of {byte_ratio:.2f}")
    axes.set_yticks(range(len(pruned)), [model.name for model in pruned])
    axes.set_ylim(len(pruned) - 0.5, -0.5)
    axes.axvline(1.0, **DASHED_LINE)
    axes.legend(ncols=2, fontsize=9, **LEGEND_ABOVE)
    opening = "Measured speed-up of decoding, with the ratio of the bytes read for a token: "
    return figure.with_alt_text(opening, phrases)


def plot_parts(parts: Mapping[str, tuple[float, float, float]], measured: Mapping[str, float]) -> Picture:
    """Milliseconds of a token: a stacked bar for each model, and what was measured.

    parts: name -> (what is the same for all models, for the layers, for their bytes).
    """
    size = (8.5, 0.5 * len(parts) + 1.3)
    figure, axes = figure_with_axes(size, xlabel="milliseconds of a token")
    labels = ("the same for all models", "layers, besides their bytes", "layers, by their bytes")
    for row, terms in enumerate(parts.values()):
        left = 0.0
        for term, label, colour in zip(terms, labels, (GREY, GREEN, ORANGE), strict=True):
            axes.barh(row, term, 0.6, left, color=colour, label=label if row == 0 else None)
            left += term
    axes.plot([measured[name] for name in parts], range(len(parts)), "kD", label="measured")
    axes.set_yticks(range(len(parts)), list(parts))
    axes.set_ylim(len(parts) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.set_title("Three fitted terms beside the measured times, in 16 bits", pad=TITLE)
    axes.legend(ncols=4, fontsize=9, **LEGEND_ABOVE)
    phrases = [
        f"{name} {sum(terms):.1f} fitted, {measured[name]:.1f} measured" for name, terms in parts.items()
    ]
    return figure.with_alt_text(
        "Stacked bars of the milliseconds of a token, with what was measured: ", phrases
    )
