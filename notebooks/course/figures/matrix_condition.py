"""Pictures of what neurons are worth (lesson 02): what is cut, what is lost, and energy against condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from comp_lib.plots.base import BLUE, GREY, RED, Picture, figure_with_axes, note, panels, plain_ticks

from .animation import Frame

Values = NDArray[np.floating]
Arrays = Mapping[str, ArrayLike]
KEPT, REMOVED = BLUE, RED


def plot_projections(grams: Mapping[str, Sequence[Sequence[float]]]) -> Picture:
    """Two contributions as arrows, one panel for each 2 x 2 Gram matrix: what the second cannot stand in for is s_1."""
    figure, axes = panels(1, len(grams), (3.6 * len(grams), 3.4), xlabel="along a₂ (units of y)")
    words = []
    for axis, (label, gram) in zip(axes, grams.items(), strict=True):
        (g11, g12), (_, g22) = np.asarray(gram, dtype=float)
        # the second arrow lies on the x axis; only lengths and the angle count, and G knows them
        along, length = g12 / g22**0.5, g22**0.5
        cost = max(g11 - along**2, 0.0)
        height = cost**0.5
        for arrow, colour in (((length, 0), KEPT), ((along, height), REMOVED)):
            axis.annotate("", arrow, (0, 0), arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2.5})
        axis.plot([along, along], [0, height], "--", color="black", lw=1.5)
        note(axis, "a₂ is kept", (length / 2, 0), (0, -13), ha="center", color=KEPT)
        note(axis, "a₁ is removed", (along, height), (0, 6), ha="right" if along else "left", color=REMOVED)
        note(axis, "lost", (along, height / 2), (6, 0), va="center")
        reach = 1.15 * max(length, abs(along), height)
        axis.set(xlim=(min(0.0, along) - 0.1 * reach, reach), ylim=(-0.3 * reach, reach), aspect="equal")
        kappa = (g11 / cost) ** 0.5 if cost else float("inf")
        axis.set_title(f"{label}\n{cost / g11:.0%} of a₁'s squared length is lost", fontsize=10)
        angle = np.degrees(np.arctan2(height, along))
        words.append(
            f"{label}: {angle:.0f} degrees apart, condition {kappa:.2f}, cost {cost:.2f} of {g11:.2f}"
        )
    axes[0].set_ylabel("across a₂ (units of y)")
    what = "Two arrows for two contributions; the dashed line from the tip of the first down to the second"
    return figure.described(
        f"{what} is what is lost when the first is removed and the second refitted. ", words
    )


def _scatter(
    axis: Axes, energy: Values, condition: Values, removed: NDArray[np.bool_], most: int = 8
) -> None:
    """Energy against condition with lines of equal cost; energy (n,) relative, removed (n,) of bool."""
    energy = energy.clip(0.1 * energy[energy > 0.0].min(initial=1.0))  # what writes nothing has no logarithm
    kept, labels = ~removed, (f"kept ({(~removed).sum():,})", f"removed ({removed.sum():,})")
    axis.scatter(energy[kept], condition[kept], 11, label=labels[0], color=KEPT, marker="o", linewidths=0.0)
    axis.scatter(
        energy[removed], condition[removed], 11, label=labels[1], color=REMOVED, marker="x", linewidths=0.8
    )
    axis.set(xscale="log", yscale="log")
    left, right = energy.min() * 0.7, energy.max() * 1.4
    low, high = min(0.97, condition.min() * 0.95), condition.max() * 1.1
    grid = np.geomspace(left, right, 50)
    powers = np.log10(energy / condition**2)
    for cost in 10.0 ** np.arange(np.ceil(powers.min()), np.floor(powers.max()) + 1):
        # energy / condition² = constant: straight lines on these axes
        axis.plot(grid, np.sqrt(grid / cost), ":", color="grey", lw=1)
        edge = (
            cost * high**2
        )  # where the line leaves at the top, or the height at which it leaves on the right
        spot = (edge, high) if left < edge < right else (right, np.sqrt(right / cost))
        if low < spot[1] <= high and left < spot[0] <= right:
            note(
                axis,
                f"price {100 * cost:g}%",
                spot,
                (-3, -3),
                fontsize=7,
                color="dimgrey",
                ha="right",
                va="top",
            )
    axis.set(xlim=(left, right), ylim=(low, high))
    plain_ticks(axis.xaxis, (left, right), percent=True, most=most)
    plain_ticks(axis.yaxis, (low, high))


def plot_energy_condition(
    energy: ArrayLike, condition: ArrayLike, removed: ArrayLike, title: str, picked: int | None = None
) -> Picture:
    """Every neuron of a layer: energy (n,), as a share of ||Y||², against condition (n,); removed (n,) of bool."""
    energy, condition, removed = np.asarray(energy), np.asarray(condition), np.asarray(removed)
    labels = {
        "xlabel": "energy of the contribution (% of ‖Y‖²)",
        "ylabel": "condition κ (1: none can stand in)",
    }
    figure, axis = figure_with_axes((8.0, 4.8), title=title, **labels)
    _scatter(axis, energy, condition, removed)
    words = ""
    if picked is not None:
        style = {"s": 160, "facecolors": "none", "edgecolors": "black", "linewidths": 2}
        axis.scatter(energy[picked], condition[picked], label=f"neuron {picked}", **style)
        words = f" Neuron {picked} has energy {energy[picked]:.2g} and condition {condition[picked]:.2f}."
    axis.plot([], [], ":", color="grey", label="equal price: energy / κ²")
    figure.legend(fontsize=8, loc="outside lower center", ncols=4)  # points can be anywhere
    costs = energy / condition**2
    return figure.described(
        f"{title}. Scatter of {len(energy):,} neurons: energy from {energy.min():.2g} to {energy.max():.2g} of the "
        f"output's, condition from {condition.min():.2f} to {condition.max():.2f}, median {np.median(condition):.2f}. "
        f"{removed.sum():,} neurons are marked as removed; their costs add up to {costs[removed].sum():.3g}, "
        f"those of the kept ones to {costs[~removed].sum():.3g}.{words}"
    )


def plot_choices(energy: ArrayLike, condition: ArrayLike, removed: Arrays) -> Picture:
    """The same neurons once for each way to choose: energy (n,) as a share, removed[name] (n,) of bool."""
    energy, condition = np.asarray(energy), np.asarray(condition)
    figure, axes = panels(1, len(removed), (3.7 * len(removed), 3.6), "xy", xlabel="energy (% of ‖Y‖²)")
    for axis, (name, gone) in zip(axes, removed.items(), strict=True):
        _scatter(axis, energy, condition, np.asarray(gone), most=5)
        axis.set_title(f"orange: removed by {name}", fontsize=11)
    axes[0].set_ylabel("condition κ")
    count = np.asarray(next(iter(removed.values()))).sum()
    sides = "Energy removes what is on the left, condition what is on top, the cost what lies above a slanted line."
    what = f"Scatter plots of energy against condition, the same {len(energy):,} neurons in each"
    return figure.described(f"{what}; {count:,} are removed by {', by '.join(removed)}. {sides}")


def plot_token_energy(norms: ArrayLike, plain: ArrayLike, weighted: ArrayLike, title: str) -> Picture:
    """Which tokens rule the statistics: all (S, L); norms of the stream, and each token's share of tr C two ways."""
    norms, *energies = (np.asarray(values) for values in (norms, plain, weighted))
    sequences, length = norms.shape
    shares = [np.sort(energy.flatten())[::-1].cumsum() / energy.sum() for energy in energies]
    as_they_are, divided = (share[sequences - 1] for share in shares)
    rule = f"The loudest {sequences} tokens hold {as_they_are:.1%} of C"
    titles, ylabels = [title, rule], ["length of a token's state", "share of tr C (%)"]
    xlabels = ["position in the sequence (first = 1)", "tokens, loudest first"]
    figure, (left, right) = panels(
        1, 2, (10.0, 3.6), xscale="log", title=titles, xlabel=xlabels, ylabel=ylabels
    )
    left.plot(np.arange(1, length + 1), norms.T, color=BLUE, alpha=0.35, lw=1)
    left.set_yscale("log")
    for share, colour, line in zip(shares, (RED, BLUE), ("-", "--"), strict=True):
        right.plot(np.arange(1, norms.size + 1), 100 * share, line, color=colour)
    right.set_ylim(0, 103)
    note(right, "as they are", (sequences, 100 * as_they_are), (8, -14), color=RED)
    some = norms.size // 6
    note(right, "divided by\nthat length", (some, 100 * shares[1][some - 1]), (-8, 6), ha="right", color=BLUE)
    first, others = np.median(norms[:, 0]), np.median(norms[:, 1:])
    return figure.described(
        f"Left: norm of the residual stream by position; the first token's is {first:.3g}, the median of the others "
        f"{others:.3g}. Right: of {norms.size:,} tokens, the {sequences} loudest hold {as_they_are:.1%} of the Gram "
        f"matrix's trace as they are, and {divided:.1%} when divided by their norms."
    )


def leaving(steps: Sequence[tuple[ArrayLike, ArrayLike, float]]) -> list[Frame]:
    """Frames of a toy that its neurons leave one by one; a step: energies (n,), prices (n,), and the error.

    The first step comes before any removal, the last after all. Who has left has an infinite price.
    """
    energies, prices, errors = (
        np.array([np.asarray(step[part], dtype=float) for step in steps]) for part in range(3)
    )
    here = np.isfinite(prices)  # (n + 1, n)
    energies, prices = np.where(here, energies, 0.0), np.where(here, prices, 0.0)
    order = (here[:-1] & ~here[1:]).argmax(1)  # who leaves: (n,)
    rise = np.where(here[1:], prices[1:] - prices[:-1], -np.inf)
    when, dear = divmod(int(rise.argmax()), len(order))
    change = f"{prices[when, dear]:.1f} to {prices[when + 1, dear]:.1f}"
    title = f"Neuron {order[when] + 1} leaves, and the price of neuron {dear + 1} rises from {change}"
    words = (
        f"{title}. Bars of prices and energies; neurons {', '.join(str(one + 1) for one in order)} leave in turn, each "
        f"time with the best factors. The error grows to {', '.join(f'{error:.1f}' for error in errors[1:])}."
    )
    pitch, moves = len(order) + 1.5, [(0, 1.0)]
    moves += [(step, share) for step in range(1, len(steps)) for share in (0.25, 0.5, 0.75, 1.0)]
    frames = []
    for step, share in moves:
        figure, axis = figure_with_axes(
            (7.2, 4.0), xlim=(-0.7, len(steps) * pitch - 0.8), ylim=(0, 1.3 * errors[-1])
        )
        figure.suptitle(title)
        for each in range(step + 1):
            part, before = share if each == step else 1.0, max(each - 1, 0)  # of the way from the step before
            now = [part * values[each] + (1 - part) * values[before] for values in (energies, prices, errors)]
            goes = int(order[each]) if part == 1.0 and each < len(order) else None
            _step_of_toy(axis, each * pitch, now, np.flatnonzero(here[each]), goes, numbers=part == 1.0)
            gone = ", ".join(str(one + 1) for one in sorted(order[:each]))
            place = (each * pitch + len(order) / 2, 1.18 * errors[-1])
            axis.text(*place, f"without {gone}" if gone else "with all", ha="center", fontsize=11)
        axis.set_xticks([])
        axis.set_xlabel(
            "neurons (orange: leaves next), and the error with the best factors", fontsize=11, labelpad=20
        )
        axis.set_ylabel("price (filled), energy (outline)", fontsize=11)
        frames.append((figure.described(words), 1.6 if share == 1.0 else 0.15))
    return frames


def _step_of_toy(
    axis: Axes,
    left: float,
    heights: Sequence[Values],
    stay: NDArray[np.integer],
    goes: int | None,
    numbers: bool,
) -> None:
    """The price of each neuron that stays, filled, in its energy, an outline; red: who goes next; and the error."""
    energies, prices, error = heights
    bars = [
        (left + one, prices[one], energies[one], REMOVED if one == goes else KEPT, f"{one + 1}")
        for one in stay
    ]
    for x, price, energy, colour, name in [*bars, (left + len(prices), error, error, GREY, "error")]:
        axis.bar(x, price, 0.8, color=colour)
        axis.bar(x, energy, 0.8, facecolor="none", edgecolor="black", linewidth=0.8)
        note(axis, name, (x, 0), (0, -13), ha="center", fontsize=11)
        if numbers:
            note(axis, f"{price:.1f}", (x, price), (0, 3), ha="center", fontsize=11)
