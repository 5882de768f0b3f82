"""Figures of lesson 10: what two models answer, and how training brings a pruned model near its parent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.patches import Rectangle

from comp_lib.reports.plots.base import (
    BLUE,
    DASHED_LINE,
    GREY,
    LEGEND_ABOVE,
    Picture,
    figure_with_axes,
    panels,
    style,
)

from . import Interval, spans

Line = Sequence[tuple[int, float]]  # (step, divergence from the parent in nats per token)


def plot_answers(
    tokens: Sequence[str],
    answers: Mapping[str, Sequence[float]],
    prompt: str,
    title: str = "Pruning has moved the probabilities",
) -> Picture:
    """Bars of the probabilities of some next tokens.

    answers: name of the model -> a probability for each of `tokens`. The parent comes first.
    """
    xlabel = f"the parent's likeliest tokens after “{prompt} …”"
    figure, axes = figure_with_axes((7.0, 3.2), xlabel=xlabel, ylabel="probability")
    positions = np.arange(len(tokens))
    phrases = []
    for number, (name, values) in enumerate(answers.items()):
        axes.bar(positions + 0.4 * (number - 0.5), values, 0.4, color=(GREY, BLUE)[number], label=name)
        numbers = [f"{token} {value:.2f}" for token, value in zip(tokens, values, strict=True)]
        phrases.append(f"{name}: {', '.join(numbers)}")
    axes.set_xticks(positions, tokens)
    axes.grid(axis="x", visible=False)
    axes.set_title(title)
    axes.legend()
    return figure.with_alt_text("Bars of the probabilities of the next token. ", phrases)


def plot_divergence(lines: Mapping[int, Mapping[str, Line]], title: str) -> Picture:
    """Divergence from the parent against the steps of a training: seed -> method -> its line."""
    ylabel = "divergence from the parent\n(nats per token)"
    figure, axes = figure_with_axes((7.0, 3.4), xlabel="steps of training", ylabel=ylabel)
    phrases = []
    for (seed, methods), dashes in zip(lines.items(), cycle(("-", "--", ":")), strict=False):
        for number, (method, points) in enumerate(methods.items()):
            steps, values = zip(*points, strict=True)
            name = f"{method}, seed {seed}"
            axes.plot(steps, values, label=name, **style(number) | {"linestyle": dashes})
            phrases.append(f"{name}: {values[0]:.3f} before, {values[-1]:.3f} after {steps[-1]} steps")
    axes.set_title(title, pad=26)
    axes.legend(ncols=4, fontsize=9, **LEGEND_ABOVE)
    opening = "Lines of the divergence from the parent against the steps of a training. "
    return figure.with_alt_text(opening, phrases)


def plot_low_rank(outputs: int, inputs: int, rank: int) -> Picture:
    """A matrix (outputs, inputs) and the two thin ones of a change of this rank, to scale."""
    figure, axes = figure_with_axes((7.0, 3.0))
    gap = 0.8 * inputs  # room for the names
    boxes = {  # name: left edge, height, width
        "W": (0, outputs, inputs),
        "B": (inputs + gap, outputs, rank),
        "A": (inputs + 2 * gap, rank, inputs),
    }
    for (name, (left, height, width)), colour in zip(boxes.items(), (GREY, BLUE, BLUE), strict=True):
        axes.add_patch(Rectangle((left, outputs - height), width, height, color=colour))
        label = f"{name}: {height:,} × {width:,}"
        axes.text(left + width / 2, -0.06 * outputs, label, ha="center", va="top")
    axes.set(xlim=(-gap, 2 * inputs + 3 * gap), ylim=(-0.25 * outputs, outputs), aspect="equal")
    axes.axis("off")
    axes.set_title(f"A matrix W, and a change of rank {rank}")
    sizes = [f"{name} {height:,} × {width:,}" for name, (_, height, width) in boxes.items()]
    return figure.with_alt_text("Three rectangles to scale, B a thin column and A a thin row: ", sizes)


def plot_gains_and_duels(gains: Mapping[str, Interval], duels: Mapping[str, Interval], title: str) -> Picture:
    """Two panels of differences with their 95% intervals, a row for each, in nats per token.

    gains: a model after the training minus the same model before it; duels: one model minus another one.
    """
    size = (8.0, 0.4 * (len(gains) + len(duels)) + 2.0)
    figure, (upper, lower) = panels(2, 1, size, share="x")
    phrases = []
    for axes, name, rows in (
        (upper, "gains: after the training minus before it", gains),
        (lower, "duels: below 0 the first one loses less", duels),
    ):
        middles, whiskers = spans(list(rows.values()))
        axes.errorbar(middles, range(len(rows)), xerr=whiskers, fmt="o", color=BLUE, capsize=3)
        axes.axvline(0.0, **DASHED_LINE)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_title(name, fontsize=10)
        numbers = [
            f"{' '.join(row.split())} {mean:+.3f} ({low:+.3f} to {high:+.3f})"
            for row, (mean, low, high) in rows.items()
        ]
        phrases.append(f"{name}: {', '.join(numbers)}")
    lower.set_xlabel("difference of the loss (nats per token), paired by window")
    figure.suptitle(title)
    return figure.with_alt_text("Marks with 95% intervals in two panels. ", phrases)
