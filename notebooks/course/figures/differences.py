"""The figure of a fair comparison (lessons 03 and 05): by how much each variant differs from one reference, paired."""

from __future__ import annotations

from collections.abc import Mapping

from comp_lib.plots.base import BLUE, DASHED, GREY, ORANGE, Numbers, Picture, panels

from . import Interval, spans

Dots = Mapping[str, Mapping[str, Numbers]]


def plot_differences(
    differences: Mapping[str, Mapping[str, Interval]], reference: str, title: str, seeds: Dots | None = None
) -> Picture:
    """How much more each variant loses than the reference: a panel for each model, the first model's best on top.

    differences[model][variant]: (mean, low, high) of the paired difference, nats per token; grey where the interval
    holds 0. seeds[model][variant]: the same difference under each seed, as small dots.
    """
    first = next(iter(differences.values()))
    names = sorted(first, key=lambda name: -first[name][0])
    figure, axes = panels(
        1, len(differences), (9.5, 0.36 * len(names) + 1.7), "xy", ylim=(-0.6, len(names) - 0.4)
    )
    words = []
    for panel, (model, rows) in zip(axes, differences.items(), strict=True):
        panel.axvline(0.0, **DASHED)
        for name, interval in rows.items():
            mean, low, high = interval
            place = names.index(name)
            colour = GREY if low <= 0 <= high else BLUE if high < 0 else ORANGE
            apart = spans([interval])[1]
            panel.errorbar([mean], [place], xerr=apart, fmt="o", color=colour, capsize=3, linewidth=2.2)
            dots = seeds[model].get(name, ()) if seeds else ()
            panel.plot(dots, [place - 0.28] * len(dots), ".", color=colour, markersize=4)
            words.append(f"{model}, {name}: {mean:+.3f} ({low:+.3f} to {high:+.3f})")
        panel.set_title(model, fontsize=11)
        panel.locator_params(axis="x", nbins=6)
    axes[0].set_yticks(range(len(names)), names)
    figure.suptitle(title)
    colours = f"blue: less; grey: no difference found; orange: more{'; small dots: seeds' if seeds else ''}"
    figure.supxlabel(f"loss minus that of {reference} (nats per token; 95%, paired). {colours}", fontsize=9)
    return figure.described(f"{title}. Loss minus that of {reference}, with 95% intervals: ", words)
