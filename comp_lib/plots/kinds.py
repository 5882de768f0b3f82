"""Pictures of models on every kind of text: one beside the dense one, or several methods beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.lines import Line2D

from ..evaluation.by_kind import Row
from ..evaluation.confidence import UNKNOWN
from .base import ABOVE, BLUE, GREY, LOSS, Picture, figure_with_axes, note, panels, style

Spans = Mapping[str, Sequence[tuple[float, float, float]]]  # text -> for each seed a value and its 95% interval


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


def plot_kinds(rows: Mapping[str, Row]) -> Picture:
    """Bars of the loss on each text, from the top; the last row is their mean. See `evaluation.by_kind.ByKind.rows`.

    Whiskers are 95% intervals of the loss. Where rows have a `dense_loss`, it gets a bar too, and the whiskers are
    those of the increase, which is known far better than either loss.
    """
    compared = all("dense_loss" in values for values, _ in rows.values())
    measure, height = ("increase", 0.38) if compared else ("loss", 0.6)
    size = (7.8, (0.45 if compared else 0.36) * len(rows) + 1.2)
    figure, axes = figure_with_axes(size, xlabel="loss (nats per token)")
    places = np.arange(len(rows))
    losses = np.array([values["loss"] for values, _ in rows.values()])
    middles = np.array([values[measure] for values, _ in rows.values()])
    lows, highs = np.array([intervals[measure] or UNKNOWN for _, intervals in rows.values()]).T
    whiskers = {"xerr": [middles - lows, highs - middles], "error_kw": {"elinewidth": 1.5}, "capsize": 3}
    label = f"{'pruned' if compared else 'model'}, with the 95% interval of its {measure}"
    if compared:
        dense = [values["dense_loss"] for values, _ in rows.values()]
        axes.barh(places - height / 2, dense, height, color=GREY, label="dense")
    axes.barh(places + compared * height / 2, losses, height, color=BLUE, label=label, **whiskers)
    ends = np.fmax(losses, losses + highs - middles)  # of the whiskers, where there are any
    for place, end, middle in zip(places, ends, middles, strict=True):
        number = f"{middle:+.2f}" if compared else f"{middle:.2f}"
        note(axes, number, (end, place + compared * height / 2), (5, 0), va="center", fontsize=9)
    axes.set_yticks(places, list(rows))
    axes.get_yticklabels()[-1].set_weight("bold")
    axes.axhline(len(rows) - 1.5, color="black", linewidth=0.8)
    axes.set(xlim=(0, 1.12 * max(ends[np.isfinite(ends)], default=1.0)), ylim=(len(rows) - 0.4, -0.6))
    axes.grid(axis="y", visible=False)
    axes.legend(ncols=2, **ABOVE)
    words = [f"{name} {_words(values, *(intervals[measure] or UNKNOWN))}" for name, (values, intervals) in rows.items()]
    return figure.described("Bars of the loss on each text, in nats per token, with 95% intervals: ", words)


def _words(values: Mapping[str, float], low: float, high: float) -> str:
    span = "" if np.isnan(low) else f" ({low:.2f} to {high:.2f})"
    if "dense_loss" not in values:
        return f"{values['loss']:.2f}{span}"
    return f"{values['dense_loss']:.2f} dense, {values['loss']:.2f} pruned, {values['increase']:+.2f}{span}"
