"""The still pictures of docs/explore.html, which stand where there is no JavaScript."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

WIDTH = 640
HEIGHT = 300
LEFT = 60
BOTTOM = 250
TOP = 30
Points = Sequence[tuple[float, float]]

NO_NUMBERS = '<p class="hint">The numbers of this part were not taken yet.</p>'


def figure(content: Sequence[str], label: str, words: str, height: int = HEIGHT) -> str:
    """A picture with its caption; label: what a reader who cannot see it would want to know."""
    box = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{html.escape(label)}">'
    caption = f"<figcaption>{html.escape(words)}</figcaption>"
    return "\n".join(["<figure>", box, *content, "</svg>", caption, "</figure>"])


def text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(words)}</text>'


def line(points: Points, kind: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" class="{kind}"/>'


def bar(x: float, y: float, width: float, height: float, kind: str) -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'


def path(points: Points, kind: str) -> str:
    steps = " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path d="M{steps}" fill="none" class="{kind}"/>'


def neurons_still(numbers: None) -> str:
    """Part 2 as it begins: lesson 02's toy, without neuron 1."""
    scale = 90.0
    origin = (70.0, 230.0)

    def at(x: float, y: float) -> tuple[float, float]:
        return origin[0] + scale * x, origin[1] - scale * y

    third = 540.0
    content = [
        path([at(0, 0), at(3.6, 1.8)], "refit arrow-2"),
        path([at(0, 0), at(2, 0)], "arrow arrow-1 gone"),
        path([at(0, 0), at(2, 1)], "arrow arrow-2"),
        path([(third, origin[1]), (third, origin[1] - scale)], "arrow arrow-3"),
        path([at(1.6, 0.8), at(2, 0)], "lost"),
        text(at(2, 0)[0] + 8, at(2, 0)[1] + 5, "neuron 1: energy 4.00, price 0.80"),
        text(at(2, 1)[0] - 150, at(2, 1)[1] - 12, "neuron 2: energy 5.00, price 1.00"),
        text(at(1.8, 0.4)[0] + 8, at(1.8, 0.4)[1], "lost: 0.80"),
        text(third, origin[1] - scale - 12, "neuron 3: 1.00, 1.00", "middle"),
    ]
    words = (
        "Energy would remove neuron 3, which is the smallest, and lose 1.00. The price removes neuron 1: "
        "neuron 2, turned up to 1.8 times, takes over, and 0.80 is lost."
    )
    return figure(content, "Three arrows; neuron 1 is removed and neuron 2 turned up", words, 270)


def layer_still(numbers: Mapping[str, Any]) -> str:
    """Part 3: the race as comp_lib ran it."""
    race = numbers["race"]
    size = numbers["size"]

    def x(count: int) -> float:
        return LEFT + (WIDTH - LEFT - 90) * count / race["counts"][-1]

    def y(error: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (math.log10(max(error, 1e-4)) + 4) / 4.3

    content = [text(LEFT, 16, "error, % of the output's energy (solid: refitted; dashed: not)")]
    for power in range(-4, 1):
        content.append(text(LEFT - 8, y(10.0**power) + 4, f"{100 * 10.0**power:g}%", "end"))
    for count in (0, 416, 768, 1152):
        content.append(text(x(count), BOTTOM + 20, f"{size - count:,}", "middle"))
    content.append(text((LEFT + WIDTH) / 2, BOTTOM + 42, "neurons that stay", "middle"))
    for name in ("price", "energy", "random"):
        for kind in ("refitted", "bare"):
            points = [
                (x(count), y(error)) for count, error in zip(race["counts"], race[name][kind], strict=True)
            ]
            content.append(path(points, f"curve {name}{' bare' if kind == 'bare' else ''}"))
        content.append(text(points[-1][0] + 6, y(race[name]["refitted"][-1]) + 14 * len(name) - 60, name))
    place = race["counts"].index(size - numbers["compared_width"])
    found = "; ".join(
        f"by {name} {race[name]['refitted'][place]:.2%} with a refit and {race[name]['bare'][place]:.2%} not"
        for name in ("price", "energy", "random")
    )
    words = f"With {numbers['compared_width']:,} of {size:,} neurons layer {numbers['layer']} loses: {found}."
    return figure(content, "Six falling and rising error curves: price with the refit is lowest", words)


def budget_still(numbers: Mapping[str, Any]) -> str:
    """Part 4: own widths at a fifth."""
    plan = numbers["plans"]["measured"]["0.2"]
    uniform = numbers["plans"]["uniform"]["0.2"]
    widths = plan["widths"]
    most = max(numbers["neurons"])
    breadth = (WIDTH - LEFT - 10) / len(widths)
    content = [text(LEFT, 16, "neurons that stay, layer by layer, when a fifth of the decoder goes")]
    for layer, width in enumerate(widths):
        height = (BOTTOM - TOP) * width / most
        content.append(bar(LEFT + breadth * layer, BOTTOM - height, breadth - 2, height, "bar stays pruned"))
    for layer in range(0, len(widths), 5):
        content.append(text(LEFT + breadth * (layer + 0.5), BOTTOM + 20, str(layer), "middle"))
    for tick in (0, most // 2, most):
        content.append(text(LEFT - 8, BOTTOM - (BOTTOM - TOP) * tick / most + 4, f"{tick:,}", "end"))
    content.append(text((LEFT + WIDTH) / 2, BOTTOM + 42, "layer", "middle"))
    words = (
        f"Layers of their own widths, {min(widths):,} to {max(widths):,} neurons: the loss rises by "
        f"{plan['increase'][0]:.2f} nats per token. With one width for all, {max(uniform['widths']):,}, "
        f"it rises by {uniform['increase'][0]:.2f}. Both were measured."
    )
    return figure(content, "Bars: the first and the last layers keep most of their neurons", words)


def costs_still(numbers: Mapping[str, Any]) -> str:
    """Part 1: what the dense model and a pruned one write and lose."""
    runs = numbers["runs"]
    ways = [way for way in ("tailored", "stock") if runs.get(way)]
    if not ways:
        return NO_NUMBERS
    ratio = "0.2" if "0.2" in runs[ways[0]] else min(runs[ways[0]])
    run = runs[ways[0]][ratio]
    models = {"dense": numbers["dense"], "pruned": run}
    content = [
        text(LEFT, 16, f"loss, nats per token (upper bar: dense; lower bar: {float(ratio):.0%} removed)")
    ]
    for index, kind in enumerate(numbers["kinds"]):
        y = TOP + 32 * index
        content.append(text(118, y + 16, kind, "end"))
        for place, (name, model) in enumerate(models.items()):
            loss = model["losses"][kind]
            content.append(bar(126, y + 13 * place, 60 * loss, 11, name))
            content.append(text(132 + 60 * loss, y + 10 + 13 * place, f"{loss:.2f}"))
    prompt = numbers["prompts"][0]
    words = (
        f"After “{prompt}” the dense model writes: “{numbers['dense']['texts'][0].strip()}” With "
        f"{run['removed']:.1%} of the decoder removed it writes: “{run['texts'][0].strip()}”"
    )
    return figure(
        content, "Bars of the loss on eight kinds of text, dense and pruned", words, TOP + 32 * 8 + 10
    )


def tokens_still(numbers: Mapping[str, Any]) -> str:
    """Part 5: the mean loss without each layer."""
    values = numbers["texts"]["facts"]
    dense = sum(values["loss"]) / len(values["loss"])
    rises = [sum(row) / len(row) - dense for row in values["without"]]
    most = max(rises)
    breadth = (WIDTH - LEFT - 10) / len(rises)
    content = [text(LEFT, 16, "rise of the loss without each layer, nats per token (one text)")]
    for layer, rise in enumerate(rises):
        height = (BOTTOM - TOP) * max(0.0, rise) / most
        content.append(bar(LEFT + breadth * layer, BOTTOM - height, breadth - 2, height, "pruned"))
    for layer in range(0, len(rises), 5):
        content.append(text(LEFT + breadth * (layer + 0.5), BOTTOM + 20, str(layer), "middle"))
    for tick in (0.0, most / 2, most):
        content.append(text(LEFT - 8, BOTTOM - (BOTTOM - TOP) * tick / most + 4, f"{tick:.1f}", "end"))
    content.append(text((LEFT + WIDTH) / 2, BOTTOM + 42, "layer that is skipped", "middle"))
    silenced = numbers["silenced_layer"]
    silent = sum(values["silenced"]) / len(values["silenced"])
    words = (
        f"Without layer {silenced} the loss rises by {rises[silenced]:.2f} nats per token. If only its MLP "
        f"writes nothing at the first token, it rises by {silent - dense:.2f}."
    )
    return figure(
        content, "Bars: the first layers and a few others do most harm when they are skipped", words
    )


STILLS: dict[str, Callable[[Any], str]] = {
    "costs": costs_still,
    "neurons": neurons_still,
    "layer": layer_still,
    "budget": budget_still,
    "tokens": tokens_still,
}
