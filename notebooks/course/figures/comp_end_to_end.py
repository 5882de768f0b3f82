"""Picture of COMP's walk through a model (lesson 05)."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from comp_lib.plots.base import GREEN, GREY, ORANGE, RED, panels

from .animation import Frame

STEPS = ("watch", "choose", "re-tune", "cut", "pass on")  # those of the lesson
BEFORE = -1  # the step of a layer that COMP has not reached
WATCH, CHOOSE, RE_TUNE, CUT, PASS_ON = range(5)
PALE_GREEN = tuple(0.7 + 0.3 * part for part in GREEN)  # neurons that COMP has not re-tuned yet
COLOUR_OF_REMOVED = {  # of the neurons that go, after each step
    BEFORE: PALE_GREEN,
    WATCH: PALE_GREEN,
    CHOOSE: RED,
    RE_TUNE: RED,
    CUT: "lightgrey",
    PASS_ON: "lightgrey",
}


def walking(neurons: Sequence[int], kept: Sequence[int], drift: Sequence[float]) -> list[Frame]:
    """Frames of COMP's walk: the five phases in the first layer, then the state after some later layers.

    About fifteen later layers are shown. All arguments are (layers,). neurons: of the dense layers; kept: how
    many of them stay (0: the layer is dropped, and grey); drift: the relative distance of the stream from the
    dense one after each layer.
    """
    layers = len(neurons)
    title = f"After one walk through {layers} layers the stream is {drift[-1]:.0%} off the dense one"
    furthest = max(range(layers), key=drift.__getitem__)
    widths = sorted({f"{stay:,} of {width:,}" for stay, width in zip(kept, neurons, strict=True)})
    alt_text = (
        f"{title}. Bars of the layers from the first to the last: each in turn is watched, chosen from, "
        f"re-tuned and cut, and passes the text on. Neurons that stay: {', '.join(widths)}. The stream is "
        f"{drift[0]:.1%} off after the first layer, and at most {drift[furthest]:.1%}, after layer "
        f"{furthest}."
    )
    later_layers = sorted({*range(1, layers, max(1, layers // 15)), layers - 1})
    moments = [(0, step) for step in (BEFORE, WATCH, CHOOSE, RE_TUNE, CUT, PASS_ON)]
    moments += [(layer, PASS_ON) for layer in later_layers]
    frames = []
    for layer, step in moments:
        figure, (left, right) = panels(1, 2, (7.2, 4.6), "y", ylabel=["decoder layer", ""])
        figure.set_layout_engine("none")  # all parts stand still from frame to frame
        figure.suptitle(title)
        _layers(left, neurons, kept, layer, step)
        for number, name in enumerate(STEPS):
            looks = {"weight": "bold"} if number == step else {"color": GREY}
            figure.text(0.14 + 0.18 * number, 0.87, f"{number + 1} {name}", fontsize=11, **looks)
        passed = layer + 1 if step == PASS_ON else layer
        right.plot(drift[:passed], range(passed), "o-", color=ORANGE, markersize=4)
        right.set(xlim=(0, 1.1 * max(drift)), xlabel="the stream's distance\nfrom the dense one")
        right.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        left.set_position((0.1, 0.15, 0.5, 0.68))
        right.set_position((0.66, 0.15, 0.3, 0.68))
        seconds = 1.2 if layer == 0 else 0.5
        frames.append((figure.with_alt_text(alt_text), seconds))
    return frames


def _layers(axes: Axes, neurons: Sequence[int], kept: Sequence[int], layer: int, step: int) -> None:
    """A row for each layer: the neurons that stay, and those that go.

    A frame marks the layer in which COMP is. The layers above it are done, those below are dense.
    """
    rows = range(len(neurons))
    steps = [PASS_ON] * layer + [step] + [BEFORE] * (len(neurons) - layer - 1)
    colours_of_kept = [GREEN if row_step >= RE_TUNE else PALE_GREEN for row_step in steps]
    colours_of_removed = [COLOUR_OF_REMOVED[row_step] for row_step in steps]
    axes.barh(rows, neurons, 0.8, color=colours_of_removed)
    axes.barh(rows, kept, 0.8, color=colours_of_kept)
    if step != BEFORE:
        axes.barh(layer, neurons[layer], 1.1, facecolor="none", edgecolor="black", linewidth=1.5)
    axes.grid(visible=False)
    axes.set(
        ylim=(len(neurons) - 0.3, -0.7),
        xlabel="MLP neurons: pale not yet tuned, red about to go,\ngreen re-tuned, grey removed",
    )
