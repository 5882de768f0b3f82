"""Figures of lesson 07: what each method reads of a neuron, and COMP beside the best of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.lines import Line2D

from comp_lib.plots.base import ABOVE, BLUE, GREEN, GREY, LOSS, ORANGE, RED, Picture, figure_with_axes, panels, style

Spans = Mapping[str, Sequence[tuple[float, float, float]]]  # text -> for each seed a value and its 95% interval
Interval = tuple[float, float, float]  # a value, the ends of its 95% interval; NaN where none is known


class Duel(NamedTuple):
    """One comparison: the increase of the loss by COMP, and by its rival in the same place."""

    name: str
    ours: Interval
    theirs: Interval


def plot_duels(duels: Sequence[Duel], ours: str = "COMP", theirs: str = "the best baseline") -> Picture:
    """Comparisons below each other, from the top: two marks a row, with their 95% intervals where these are known."""
    figure, axes = figure_with_axes((9.0, 0.33 * len(duels) + 1.4), xlabel=LOSS.replace("\n", " "))
    words = []
    sides = ((ours, BLUE, "o", [duel.ours for duel in duels]), (theirs, ORANGE, "D", [duel.theirs for duel in duels]))
    for place, duel in enumerate(duels):
        axes.plot([duel.ours[0], duel.theirs[0]], [place, place], color=GREY, linewidth=1, zorder=1)
        words.append(f"{duel.name}: {duel.ours[0]:.3f} against {duel.theirs[0]:.3f}")
    for shift, (name, colour, marker, values) in zip((-0.13, 0.13), sides, strict=True):
        middles, lows, highs = np.array(values).T
        spans = np.nan_to_num([middles - lows, highs - middles])
        places = np.arange(len(duels)) + shift
        axes.errorbar(middles, places, xerr=spans, fmt=marker, color=colour, capsize=2, label=name)
    axes.set_yticks(range(len(duels)), [duel.name for duel in duels], fontsize=9)
    axes.set(ylim=(len(duels) - 0.5, -0.5), xlim=(min(0.0, axes.get_xlim()[0]), None))
    axes.legend(ncols=2, **ABOVE)
    return figure.described(f"{len(duels)} comparisons, the increase of the loss by {ours} and by {theirs}: ", words)


SCORES = {  # method: colour, what it reads of the neuron, what it does once neurons are gone
    "Wanda-sp": (RED, "how much it sends,\ntimes what it writes with", "nothing"),
    "FLAP": (GREEN, "how much it varies,\ntimes what it writes with", "its mean becomes a bias"),
    "LLM-Pruner": (ORANGE, "all its weights, times\nthe gradient of the loss", "nothing"),
    "COMP": (BLUE, "what the other neurons\ncannot say in its place", "the others are fitted anew"),
}


def plot_scores() -> Picture:
    """A drawing: what each method reads in order to score one neuron of an MLP, and what it does afterwards."""
    figure, by_method = panels(1, len(SCORES), (11.0, 3.5))
    stream, neurons = (0.6, 1.5, 2.4), (0.0, 1.0, 2.0, 3.0)
    for axes, (name, (colour, read, then)) in zip(by_method, SCORES.items(), strict=True):
        for height in neurons:
            scored = height == 1.0
            for other in stream:
                into = colour if scored and name == "LLM-Pruner" else GREY
                out = colour if scored else GREY
                axes.plot([0, 1], [other, height], color=into, linewidth=0.6 if into == GREY else 2.2, zorder=1)
                axes.plot([1, 2], [height, other], color=out, linewidth=0.6 if out == GREY else 2.2, zorder=1)
            if name == "COMP" and not scored:
                curve = {"arrowstyle": "<->", "color": colour, "linestyle": "--", "connectionstyle": "arc3,rad=0.35"}
                axes.annotate("", (0.93, height), (0.93, 1.0), arrowprops=curve)
            filled = scored and name != "LLM-Pruner"
            axes.scatter([1], [height], 260, color=colour if filled else "white", edgecolor="black", zorder=3)
        for place in (0, 2):
            axes.scatter([place] * 3, stream, 60, color=GREY, zorder=3)
        axes.set_title(name, color="black", weight="bold")
        axes.text(1, -0.75, f"reads {read}", ha="center", va="top", fontsize=9)
        axes.text(1, -2.05, f"then: {then}", ha="center", va="top", fontsize=9, style="italic")
        axes.set(xlim=(-0.35, 2.35), ylim=(-2.7, 3.4))
        axes.set_axis_off()
    words = [f"{name} reads {read}; then {then}".replace("\n", " ") for name, (_, read, then) in SCORES.items()]
    what = "Four drawings of an MLP: stream, neurons, stream; one neuron is scored, what a method reads is in colour. "
    return figure.described(what, words)


def plot_methods_by_kind(groups: Mapping[str, Mapping[str, Spans]]) -> Picture:
    """Loss increase on each text: a panel for each group, a colour for each method, one mark with whiskers a seed."""
    texts = list(dict.fromkeys(text for group in groups.values() for spans in group.values() for text in spans))
    methods = list(dict.fromkeys(name for group in groups.values() for name in group))
    size = (4.6 * len(groups) + 1.2, 0.12 * len(texts) * (len(methods) + 1) + 1.4)
    figure, by_group = panels(1, len(groups), size, share="xy", xlabel=LOSS)
    words = []
    for axes, (title, group) in zip(by_group, groups.items(), strict=True):
        axes.set_title(title)
        for name, spans in group.items():
            number = methods.index(name)
            points = [
                (value, value - low, high - value, texts.index(text) + 0.8 * ((number + 0.5) / len(methods) - 0.5))
                for text, seeds in spans.items()
                for value, low, high in seeds
            ]
            x, left, right, y = np.array(points).T
            axes.errorbar(x, y, xerr=[left, right], linestyle="none", capsize=2, markersize=5, **style(number))
            means = ", ".join(f"{text} {np.mean([seed[0] for seed in seeds]):.2f}" for text, seeds in spans.items())
            words.append(f"{title}, {name}: {means}")
        for place in range(1, len(texts)):
            axes.axhline(place - 0.5, color=GREY, linewidth=0.5)
        axes.grid(axis="y", visible=False)
    by_group[0].set_yticks(range(len(texts)), texts)
    by_group[0].set(ylim=(len(texts) - 0.5, -0.5), xlim=(min(0.0, by_group[0].get_xlim()[0]), None))
    marks = [Line2D([], [], linestyle="none", label=name, **style(place)) for place, name in enumerate(methods)]
    columns = min(len(methods), 2 * len(groups))
    figure.legend(handles=marks, ncols=columns, loc="outside upper center", frameon=False)
    return figure.described("Marks of the loss increase on each text, with 95% intervals. ", words)
