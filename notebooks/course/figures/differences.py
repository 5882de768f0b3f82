"""The figure of a fair comparison (lessons 03 and 05): paired differences of variants from one reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comp_lib.reports.plots.base import BLUE, DASHED_LINE, GREY, ORANGE, Numbers, Picture, panels

from . import Interval, spans

DifferencesOfSeeds = Mapping[str, Mapping[str, Numbers]]  # model -> variant -> one for each seed


def plot_differences(
    differences: Mapping[str, Mapping[str, Interval]],
    reference: str,
    title: str = "",
    seeds: DifferencesOfSeeds | None = None,
    by_size: bool = True,
) -> Picture:
    """How much more each variant loses than the reference, in a panel for each model.

    The variants stand in the order of the first model: its best on top, or as they come (by_size=False).
    differences[model][variant] is (mean, low, high) of the paired difference, nats per token; it is grey
    where the interval holds 0. seeds[model][variant] has the same difference under each seed, drawn as small
    dots. title: what the reader should see; "": `show` is told it.
    """
    of_first_model = next(iter(differences.values()))
    names = list(of_first_model)[::-1]  # row 0 is the lowest
    if by_size:
        names.sort(key=lambda name: -of_first_model[name][0])
    figure, axes = panels(
        1, len(differences), (9.5, 0.36 * len(names) + 1.7), "xy", ylim=(-0.6, len(names) - 0.4)
    )
    phrases = []
    for panel, (model, intervals) in zip(axes, differences.items(), strict=True):
        panel.axvline(0.0, **DASHED_LINE)
        for name, interval in intervals.items():
            mean, low, high = interval
            row = names.index(name)
            colour = _colour(low, high)
            _, whiskers = spans([interval])
            panel.errorbar([mean], [row], xerr=whiskers, fmt="o", color=colour, capsize=3, linewidth=2.2)
            dots = seeds[model].get(name, ()) if seeds else ()
            panel.plot(dots, [row - 0.28] * len(dots), ".", color=colour, markersize=4)
            phrases.append(f"{model}, {name}: {mean:+.3f} ({low:+.3f} to {high:+.3f})")
        for row, name in enumerate(names):
            if name not in intervals:
                transform = panel.get_yaxis_transform()
                panel.text(
                    0.98, row, "no run", transform=transform, ha="right", va="center", color=GREY, fontsize=9
                )
        panel.set_title(model, fontsize=11)
        panel.locator_params(axis="x", nbins=6)
    axes[0].set_yticks(range(len(names)), names)
    if title:
        figure.suptitle(title)
    key = "blue: less; grey: no difference found; orange: more"
    if seeds:
        key += "; small dots: seeds"
    figure.supxlabel(f"loss minus that of {reference} (nats per token; 95%, paired). {key}", fontsize=9)
    heading = f"{title}. " if title else ""
    return figure.with_alt_text(f"{heading}Loss minus that of {reference}, with 95% intervals: ", phrases)


def _colour(low: float, high: float) -> Any:
    """The colour of a difference with this interval: blue below 0, orange above, grey where it holds 0."""
    if high < 0:
        return BLUE
    return GREY if low <= 0 <= high else ORANGE
