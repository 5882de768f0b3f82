"""Pictures of what neurons are worth (lesson 02): what is cut, what is lost, and energy against condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from comp_lib.reports.plots.base import BLUE, GREY, RED, Picture, figure_with_axes, note, panels, plain_ticks

from .animation import Frame

Values = NDArray[np.floating]
KEPT = BLUE
REMOVED = RED


def plot_projections(grams: Mapping[str, Sequence[Sequence[float]]]) -> Picture:
    """Two contributions as arrows, one panel for each 2 x 2 Gram matrix.

    The part of the first that the second cannot stand in for is s_1.
    """
    figure, axes = panels(1, len(grams), (3.6 * len(grams), 3.4), xlabel="along a₂ (units of y)")
    phrases = []
    for axis, (label, gram) in zip(axes, grams.items(), strict=True):
        (g11, g12), (_, g22) = np.asarray(gram, dtype=float)
        # the second arrow lies on the x axis; only lengths and the angle count, and G knows them
        length = g22**0.5
        along = g12 / length
        cost = max(g11 - along**2, 0.0)
        height = cost**0.5
        for arrow, colour in (((length, 0), KEPT), ((along, height), REMOVED)):
            axis.annotate("", arrow, (0, 0), arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2.5})
        axis.plot([along, along], [0, height], "--", color="black", lw=1.5)
        note(axis, "a₂ is kept", (length / 2, 0), (0, -13), ha="center", color=KEPT)
        side = "right" if along else "left"
        note(axis, "a₁ is removed", (along, height), (0, 6), ha=side, color=REMOVED)
        note(axis, "lost", (along, height / 2), (6, 0), va="center")
        reach = 1.15 * max(length, abs(along), height)
        axis.set(xlim=(min(0.0, along) - 0.1 * reach, reach), ylim=(-0.3 * reach, reach), aspect="equal")
        kappa = (g11 / cost) ** 0.5 if cost else float("inf")
        axis.set_title(f"{label}\n{cost / g11:.0%} of a₁'s squared length is lost", fontsize=10)
        angle = np.degrees(np.arctan2(height, along))
        cost_of_energy = f"cost {cost:.2f} of {g11:.2f}"
        phrases.append(f"{label}: {angle:.0f} degrees apart, condition {kappa:.2f}, {cost_of_energy}")
    axes[0].set_ylabel("across a₂ (units of y)")
    opening = (
        "Two arrows for two contributions; the dashed line from the tip of the first down to the second is "
        "what is lost when the first is removed and the second turned up or down. "
    )
    return figure.with_alt_text(opening, phrases)


def _scatter(axis: Axes, energy: Values, condition: Values, removed: NDArray[np.bool_]) -> None:
    """Energy (n,), as a share, against condition (n,), with lines of equal cost; removed (n,) of bool."""
    energy = energy.clip(0.1 * energy[energy > 0.0].min(initial=1.0))  # an energy of 0 has no logarithm
    dots = {"label": f"kept ({(~removed).sum():,})", "color": KEPT, "marker": "o", "linewidths": 0.0}
    axis.scatter(energy[~removed], condition[~removed], 11, **dots)
    crosses = {"label": f"removed ({removed.sum():,})", "color": REMOVED, "marker": "x", "linewidths": 0.8}
    axis.scatter(energy[removed], condition[removed], 11, **crosses)
    axis.set(xscale="log", yscale="log")
    left = energy.min() * 0.7
    right = energy.max() * 1.4
    low = min(0.97, condition.min() * 0.95)
    high = condition.max() * 1.1
    grid = np.geomspace(left, right, 50)
    powers = np.log10(energy / condition**2)
    for cost in 10.0 ** np.arange(np.ceil(powers.min()), np.floor(powers.max()) + 1):
        # energy / condition² = constant: straight lines on these axes
        axis.plot(grid, np.sqrt(grid / cost), ":", color="grey", lw=1)
        leaves_at_top = left < cost * high**2 < right
        x = cost * high**2 if leaves_at_top else right
        y = high if leaves_at_top else np.sqrt(right / cost)
        if low < y <= high:
            looks = {"fontsize": 7, "color": "dimgrey", "ha": "right", "va": "top"}
            note(axis, f"price {100 * cost:g}%", (x, y), (-3, -3), **looks)
    axis.set(xlim=(left, right), ylim=(low, high))
    plain_ticks(axis.xaxis, (left, right), percent=True, max_ticks=8)
    plain_ticks(axis.yaxis, (low, high))


def plot_energy_condition(
    energy: ArrayLike, condition: ArrayLike, removed: ArrayLike, title: str, picked: int | None = None
) -> Picture:
    """Every neuron of a layer: energy (n,), a share of ||Y||², against condition (n,); removed (n,), bool."""
    energy = np.asarray(energy)
    condition = np.asarray(condition)
    removed = np.asarray(removed)
    labels = {
        "xlabel": "energy of the contribution (% of ‖Y‖²)",
        "ylabel": "condition κ (1: none can stand in)",
    }
    figure, axis = figure_with_axes((8.0, 4.8), title=title, **labels)
    _scatter(axis, energy, condition, removed)
    sentence_on_picked = ""
    if picked is not None:
        style = {"s": 160, "facecolors": "none", "edgecolors": "black", "linewidths": 2}
        axis.scatter(energy[picked], condition[picked], label=f"neuron {picked}", **style)
        sentence_on_picked = (
            f" Neuron {picked} has energy {energy[picked]:.2g} and condition {condition[picked]:.2f}."
        )
    axis.plot([], [], ":", color="grey", label="equal price: energy / κ²")
    figure.legend(fontsize=8, loc="outside lower center", ncols=4)  # points can be anywhere
    costs = energy / condition**2
    return figure.with_alt_text(
        f"{title}. Scatter of {len(energy):,} neurons: energy from {energy.min():.2g} to {energy.max():.2g} "
        f"of the output's, condition from {condition.min():.2f} to {condition.max():.2f}, median "
        f"{np.median(condition):.2f}. {removed.sum():,} neurons are marked as removed; their costs add up to "
        f"{costs[removed].sum():.3g}, those of the kept ones to "
        f"{costs[~removed].sum():.3g}.{sentence_on_picked}"
    )


def leaving(steps: Sequence[tuple[ArrayLike, ArrayLike, float]]) -> list[Frame]:
    """Frames of a toy that its neurons leave one by one; a step is energies (n,), prices (n,), and the error.

    The first step comes before any removal, the last after all. A neuron that has left has an infinite price.
    The steps stand side by side, and each grows out of the one before it.
    """
    energies = np.array([np.asarray(energy, dtype=float) for energy, _, _ in steps])  # (n + 1, n)
    prices = np.array([np.asarray(price, dtype=float) for _, price, _ in steps])  # (n + 1, n)
    errors = np.array([np.asarray(error, dtype=float) for _, _, error in steps])  # (n + 1,)
    present = np.isfinite(prices)  # (n + 1, n)
    energies = np.where(present, energies, 0.0)
    prices = np.where(present, prices, 0.0)
    order = (present[:-1] & ~present[1:]).argmax(1)  # the neuron that leaves after each step: (n,)
    title = "The neurons leave, one by one"
    rise = _largest_rise(prices, present, order)
    names = ", ".join(str(neuron + 1) for neuron in order)
    alt_text = (
        f"{title}. {rise}. Bars of prices and energies; neurons {names} leave in turn, each time with the "
        f"best factors. The error grows to {', '.join(f'{error:.1f}' for error in errors[1:])}."
    )
    pitch = len(order) + 1.5
    limits = {"xlim": (-0.7, len(steps) * pitch - 0.8), "ylim": (0, 1.3 * errors[-1])}
    moments = [(0, 1.0)]  # the last step shown, and how far it has grown out of the one before it
    moments += [(step, share) for step in range(1, len(steps)) for share in (0.25, 0.5, 0.75, 1.0)]
    frames = []
    for last_step, last_share in moments:
        figure, axis = figure_with_axes((7.2, 4.0), **limits)
        figure.suptitle(title)
        for step in range(last_step + 1):
            share = last_share if step == last_step else 1.0
            previous = max(step - 1, 0)
            heights = [share * h[step] + (1 - share) * h[previous] for h in (energies, prices, errors)]
            leaves_next = int(order[step]) if share == 1.0 and step < len(order) else None
            neurons = np.flatnonzero(present[step])
            _step_of_toy(axis, step * pitch, heights, neurons, leaves_next, numbers=share == 1.0)
            removed = ", ".join(str(neuron + 1) for neuron in sorted(order[:step]))
            text = f"without {removed}" if removed else "with all"
            middle = step * pitch + len(order) / 2
            axis.text(middle, 1.18 * errors[-1], text, ha="center", fontsize=11)
        axis.set_xticks([])
        xlabel = "neurons (orange: leaves next), and the error with the best factors"
        axis.set_xlabel(xlabel, fontsize=11, labelpad=20)
        axis.set_ylabel("price (filled), energy (outline)", fontsize=11)
        seconds = 1.6 if last_share == 1.0 else 0.15
        frames.append((figure.with_alt_text(alt_text), seconds))
    return frames


def _largest_rise(prices: Values, present: NDArray[np.bool_], order: NDArray[np.integer]) -> str:
    """Which removal raises a price most, in words: prices and present (n + 1, n), order (n,)."""
    rises = np.where(present[1:], prices[1:] - prices[:-1], -np.inf)
    step, neuron = divmod(int(rises.argmax()), len(order))
    change = f"{prices[step, neuron]:.1f} to {prices[step + 1, neuron]:.1f}"
    return f"Neuron {order[step] + 1} leaves, and the price of neuron {neuron + 1} rises from {change}"


def _step_of_toy(
    axis: Axes,
    left: float,
    heights: Sequence[Values],
    neurons: NDArray[np.integer],
    leaves_next: int | None,
    numbers: bool,
) -> None:
    """Bars of the `neurons` that stay, and of the error, from x = `left` on.

    The neuron that leaves next is red. heights: energies (n,), drawn as outlines, prices (n,), drawn filled,
    and the error.
    """
    energies, prices, error = heights
    bars = []
    for neuron in neurons:
        colour = REMOVED if neuron == leaves_next else KEPT
        bars.append((left + neuron, prices[neuron], energies[neuron], colour, f"{neuron + 1}"))
    bars.append((left + len(prices), error, error, GREY, "error"))
    for x, price, energy, colour, name in bars:
        axis.bar(x, price, 0.8, color=colour)
        axis.bar(x, energy, 0.8, facecolor="none", edgecolor="black", linewidth=0.8)
        note(axis, name, (x, 0), (0, -13), ha="center", fontsize=11)
        if numbers:
            note(axis, f"{price:.1f}", (x, price), (0, 3), ha="center", fontsize=11)
