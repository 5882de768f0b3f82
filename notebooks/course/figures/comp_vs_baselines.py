"""Figures of lesson 07: what each method reads of a neuron, and COMP beside the best of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.lines import Line2D

from comp_lib.plots.base import ABOVE, BLUE, GREY, LOSS, ORANGE, Picture, figure_with_axes, panels, style

from . import Interval, spans

Spans = Mapping[str, Sequence[tuple[float, float, float]]]  # text -> for each seed a value and its 95% interval


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
        middles, apart = spans(values)
        axes.errorbar(
            middles, np.arange(len(duels)) + shift, xerr=apart, fmt=marker, color=colour, capsize=2, label=name
        )
    axes.set_yticks(range(len(duels)), [duel.name for duel in duels], fontsize=9)
    axes.set(ylim=(len(duels) - 0.5, -0.5), xlim=(min(0.0, axes.get_xlim()[0]), None))
    axes.legend(ncols=2, **ABOVE)
    return figure.described(f"{len(duels)} comparisons, the increase of the loss by {ours} and by {theirs}: ", words)


def plot_methods_by_kind(groups: Mapping[str, Mapping[str, Spans]]) -> Picture:
    """Loss increase on each text: a panel for each group, a colour for each method, one mark with whiskers a seed."""
    texts = list(dict.fromkeys(text for group in groups.values() for own in group.values() for text in own))
    methods = list(dict.fromkeys(name for group in groups.values() for name in group))
    size = (4.6 * len(groups) + 1.2, 0.12 * len(texts) * (len(methods) + 1) + 1.4)
    figure, by_group = panels(1, len(groups), size, share="xy", xlabel=LOSS)
    words = []
    for axes, (title, group) in zip(by_group, groups.items(), strict=True):
        axes.set_title(title)
        for name, by_text in group.items():
            number = methods.index(name)
            points = [
                (texts.index(text) + 0.8 * ((number + 0.5) / len(methods) - 0.5), seed)
                for text, seeds in by_text.items()
                for seed in seeds
            ]
            y, seeds = zip(*points, strict=True)
            x, apart = spans(seeds)
            axes.errorbar(x, y, xerr=apart, linestyle="none", capsize=2, markersize=5, **style(number))
            means = ", ".join(f"{text} {np.mean([seed[0] for seed in own]):.2f}" for text, own in by_text.items())
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
