"""Picture of COMP's walk through a model (lesson 05)."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from comp_lib.plots.base import GREEN, GREY, ORANGE, RED, panels

from .animation import Frame

STEPS = ("watch", "choose", "re-tune", "cut", "pass on")  # those of the lesson
DENSE = tuple(0.7 + 0.3 * part for part in GREEN)  # neurons that COMP has not re-tuned yet: pale


def walking(neurons: Sequence[int], kept: Sequence[int], drift: Sequence[float]) -> list[Frame]:
    """Frames of COMP's walk: the five steps in the first layer, then what is done after some fifteen others.

    All arguments are (layers,). neurons: of the dense layers; kept: how many of them stay (0: the layer is dropped, and
    grey); drift: the relative distance of the stream from the dense one after each layer.
    """
    layers = len(neurons)
    title = f"After one walk through {layers} layers the stream is {drift[-1]:.0%} off the dense one"
    most = max(range(layers), key=drift.__getitem__)
    widths = sorted({f"{few:,} of {many:,}" for few, many in zip(kept, neurons, strict=True)})
    words = (
        f"{title}. Bars of the layers from the first to the last: each in turn is watched, chosen from, re-tuned and "
        f"cut, and passes the text on. Neurons that stay: {', '.join(widths)}. The stream is {drift[0]:.1%} off after "
        f"the first layer, and at most {drift[most]:.1%}, after layer {most}."
    )
    frames = []
    later = sorted({*range(1, layers, max(1, layers // 15)), layers - 1})
    for layer, step in [(0, -1), *((0, step) for step in range(5)), *((layer, 4) for layer in later)]:
        figure, (left, right) = panels(1, 2, (7.2, 4.6), "y", ylabel=["decoder layer", ""])
        figure.set_layout_engine("none")  # each thing stays at its place
        figure.suptitle(title)
        _layers(left, neurons, kept, layer, step)
        for place, name in enumerate(STEPS):
            looks = {"weight": "bold"} if place == step else {"color": GREY}
            figure.text(0.14 + 0.18 * place, 0.87, f"{place + 1} {name}", fontsize=11, **looks)
        passed = layer + (step == 4)
        right.plot(drift[:passed], range(passed), "o-", color=ORANGE, markersize=4)
        right.set(xlim=(0, 1.1 * max(drift)), xlabel="the stream's distance\nfrom the dense one")
        right.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        left.set_position((0.1, 0.15, 0.5, 0.68))
        right.set_position((0.66, 0.15, 0.3, 0.68))
        frames.append((figure.described(words), 0.5 if layer else 1.2))
    return frames


def _layers(axes: Axes, neurons: Sequence[int], kept: Sequence[int], layer: int, step: int) -> None:
    """A row for each layer: what stays and what goes of its neurons; the layer in which COMP is has a frame."""
    rows = range(len(neurons))
    done = [4 if row < layer else step if row == layer else -1 for row in rows]
    stays = [GREEN if each >= STEPS.index("re-tune") else DENSE for each in done]
    goes = [(DENSE, RED, RED, "lightgrey", "lightgrey")[max(each, 0)] for each in done]
    axes.barh(rows, neurons, 0.8, color=goes)
    axes.barh(rows, kept, 0.8, color=stays)
    if step >= 0:
        axes.barh(layer, neurons[layer], 1.1, facecolor="none", edgecolor="black", linewidth=1.5)
    axes.grid(visible=False)
    axes.set(
        ylim=(len(neurons) - 0.3, -0.7),
        xlabel="MLP neurons: pale not yet tuned, red about to go,\ngreen re-tuned, grey removed",
    )
