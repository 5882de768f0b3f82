"""Pictures of what neurons are worth (lesson 02): energy against condition, metrics against measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from .base import BLUE, GREEN, RED, Numbers, Picture, figure_with_axes, log_y, note, outcome_dots, panels, plain_ticks

Values = NDArray[np.floating]
Arrays = Mapping[str, ArrayLike]
Scores = Mapping[str, float]
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
        for arrow, colour, name in (((length, 0), KEPT, "a₂ stays"), ((along, height), REMOVED, "a₁ goes")):
            axis.annotate("", arrow, (0, 0), arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2.5})
            axis.plot([], [], color=colour, lw=2.5, label=name)
        axis.plot([along, along], [0, height], "--", color="black", lw=1.5, label="what is lost")
        reach = 1.15 * max(length, abs(along), height)
        axis.set(xlim=(min(0.0, along) - 0.1 * reach, reach), ylim=(-0.3 * reach, reach), aspect="equal")
        kappa = (g11 / cost) ** 0.5 if cost else float("inf")
        axis.set_title(f"{label}\nκ₁ = {kappa:.2f},  s₁ = {cost:.2f}", fontsize=10)
        angle = np.degrees(np.arctan2(height, along))
        words.append(f"{label}: {angle:.0f} degrees apart, condition {kappa:.2f}, cost {cost:.2f} of {g11:.2f}")
    axes[0].set_ylabel("across a₂ (units of y)")
    axes[0].legend(fontsize=8, loc="upper right")
    what = "Two arrows for two contributions; the dashed line from the tip of the first down to the second"
    return figure.described(f"{what} is what is lost when the first goes and the second is re-tuned. ", words)


def plot_cosines(grams: Mapping[str, ArrayLike], neurons: Sequence[int]) -> Picture:
    """Cosines M_ij / sqrt(M_ii M_jj) of the same neurons (at most 40), a panel for each matrix grams[what] (n, n)."""
    figure, axes = panels(1, len(grams), (4.3 * len(grams) + 1.2, 4.6))
    words = []
    for axis, (what, gram) in zip(axes, grams.items(), strict=True):
        part = np.asarray(gram)[np.ix_(neurons, neurons)]
        size = np.sqrt(part.diagonal())
        cosines = part / np.outer(size, size)
        names = [str(n) for n in neurons] if axis is axes[0] else False
        style = {"vmin": -1, "vmax": 1, "cmap": "RdBu_r", "square": True, "cbar": False}
        sns.heatmap(cosines, ax=axis, xticklabels=False, yticklabels=names, **style)
        axis.tick_params(axis="y", labelsize=7, labelrotation=0)
        axis.set(title=what, xlabel="neuron (same order)")
        off = np.abs(cosines - np.eye(len(cosines)))
        i, j = divmod(int(off.argmax()), len(off))
        pair = f"the closest pair is {neurons[i]} and {neurons[j]} with a cosine of {cosines[i, j]:.2f}"
        words.append(f"{what}: {pair}, the typical size is {np.median(off[np.triu_indices(len(off), 1)]):.2f}")
    axes[0].set_ylabel("neuron")
    figure.colorbar(axes[-1].collections[0], ax=axes[-1], label="cosine", shrink=0.8)
    return figure.described(f"Heat maps of the cosines between {len(neurons)} neurons. ", words)


def _scatter(axis: Axes, energy: Values, condition: Values, removed: NDArray[np.bool_], most: int = 8) -> None:
    """Energy against condition with lines of equal cost; energy (n,) relative, removed (n,) of bool."""
    kept, labels = ~removed, (f"kept ({(~removed).sum():,})", f"removed ({removed.sum():,})")
    axis.scatter(energy[kept], condition[kept], 11, label=labels[0], color=KEPT, marker="o", linewidths=0.0)
    axis.scatter(energy[removed], condition[removed], 11, label=labels[1], color=REMOVED, marker="x", linewidths=0.8)
    axis.set(xscale="log", yscale="log")
    left, right = energy.min() * 0.7, energy.max() * 1.4
    low, high = min(0.97, condition.min() * 0.95), condition.max() * 1.1
    grid = np.geomspace(left, right, 50)
    powers = np.log10(energy / condition**2)
    for cost in 10.0 ** np.arange(np.ceil(powers.min()), np.floor(powers.max()) + 1):
        # energy / condition² = constant: straight lines on these axes
        axis.plot(grid, np.sqrt(grid / cost), ":", color="grey", lw=1)
        edge = cost * high**2  # where the line leaves at the top, or the height at which it leaves on the right
        spot = (edge, high) if left < edge < right else (right, np.sqrt(right / cost))
        if low < spot[1] <= high and left < spot[0] <= right:
            note(axis, f"{100 * cost:g}%", spot, (-3, -3), fontsize=7, color="dimgrey", ha="right", va="top")
    axis.set(xlim=(left, right), ylim=(low, high))
    plain_ticks(axis.xaxis, (left, right), percent=True, most=most)
    plain_ticks(axis.yaxis, (low, high))


def plot_energy_condition(
    energy: ArrayLike, condition: ArrayLike, removed: ArrayLike, title: str, picked: int | None = None
) -> Picture:
    """Every neuron of a layer: energy (n,), as a share of ||Y||², against condition (n,); removed (n,) of bool."""
    energy, condition, removed = np.asarray(energy), np.asarray(condition), np.asarray(removed)
    labels = {"xlabel": "energy of the contribution (% of ‖Y‖²)", "ylabel": "condition κ (1: none can stand in)"}
    figure, axis = figure_with_axes((8.0, 4.8), title=title, **labels)
    _scatter(axis, energy, condition, removed)
    words = ""
    if picked is not None:
        style = {"s": 160, "facecolors": "none", "edgecolors": "black", "linewidths": 2}
        axis.scatter(energy[picked], condition[picked], label=f"neuron {picked}", **style)
        words = f" Neuron {picked} has energy {energy[picked]:.2g} and condition {condition[picked]:.2f}."
    axis.plot([], [], ":", color="grey", label="equal cost s = energy / κ²")
    figure.legend(fontsize=8, loc="outside lower center", ncols=4)  # points can be anywhere
    costs = energy / condition**2
    return figure.described(
        f"{title}. Scatter of {len(energy):,} neurons: energy from {energy.min():.2g} to {energy.max():.2g} of the "
        f"output's, condition from {condition.min():.2f} to {condition.max():.2f}, median {np.median(condition):.2f}. "
        f"{removed.sum():,} neurons are marked as removed; their costs add up to {costs[removed].sum():.3g}, "
        f"those of the kept ones to {costs[~removed].sum():.3g}.{words}"
    )


def plot_choices(energy: ArrayLike, condition: ArrayLike, removed: Arrays, errors: Scores) -> Picture:
    """The same neurons once for each way to choose: removed[name] (n,) of bool, errors[name] relative, re-tuned."""
    energy, condition = np.asarray(energy), np.asarray(condition)
    figure, axes = panels(1, len(removed), (3.7 * len(removed), 3.6), "xy", xlabel="energy (% of ‖Y‖²)")
    for axis, (name, gone) in zip(axes, removed.items(), strict=True):
        _scatter(axis, energy, condition, np.asarray(gone), most=5)
        axis.set_title(f"by {name}\nerror left {errors[name]:.1%}", fontsize=11)
    axes[0].set_ylabel("condition κ")
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=2)
    count = np.asarray(next(iter(removed.values()))).sum()
    listed = "; ".join(f"by {name}, error {errors[name]:.1%}" for name in removed)
    sides = "Energy removes what is on the left, condition what is on top, the cost what lies above a slanted line."
    what = f"Scatter plots of energy against condition, the same {len(energy):,} neurons in each"
    return figure.described(f"{what}; {count:,} are removed {listed}. {sides}")


def plot_against_measured(scores: Arrays, measured: ArrayLike, correlations: Scores, what: str) -> Picture:
    """One panel for each metric: its scores (k,) of some neurons against the measured cost (k,), a share, of each."""
    columns, rows, count = 5, -(-len(scores) // 5), len(np.asarray(measured))
    figure, axes = panels(rows, columns, (11.5, 2.4 * rows), "y")
    for axis, (name, values) in zip(axes, scores.items(), strict=False):
        axis.scatter(values, measured, s=12, color=KEPT)
        axis.set_yscale("log")
        if np.asarray(values).min() > 0:
            axis.set_xscale("log")
            plain_ticks(axis.xaxis, axis.get_xlim(), most=4)
        else:  # a share can be negative
            axis.xaxis.set_major_locator(MaxNLocator(3))
        axis.tick_params(labelsize=8)
        axis.set_title(f"{name}: ρ = {correlations[name]:.2f}", fontsize=9)
    log_y(axes[0], percent=True, most=5)
    for axis in axes[: len(scores)][-columns:]:  # the lowest of each column
        axis.set_xlabel("score (its own unit)", fontsize=9)
    for axis in axes[len(scores) :]:
        axis.set_axis_off()
    for axis in axes[::columns]:
        axis.set_ylabel(what, fontsize=9)
    ranking = sorted(correlations, key=lambda name: -correlations[name])
    listed = ", ".join(f"{name} {correlations[name]:.2f}" for name in ranking)
    what = f"Scatter plots of {count} neurons, score against measured cost of removal. "
    return figure.described(f"{what}Spearman correlations: {listed}.")


def plot_outcomes(
    outcomes: Mapping[str, Scores], what: str, reference: float | None = None, percent: bool = False
) -> Picture:
    """A number for each metric and each recovery: outcomes[recovery][metric], as dots on a logarithmic axis."""
    last = list(outcomes.values())[-1]
    names = sorted(last, key=lambda name: -last[name])  # the best on top
    styles = ((REMOVED, "X"), (KEPT, "o"), (GREEN, "D"))
    figure, axis, words = outcome_dots(outcomes, names, styles, "{:.1%}" if percent else "{:.2f}", reference)
    for height, name in enumerate(names):
        axis.plot([table[name] for table in outcomes.values()], [height] * len(outcomes), color="lightgrey", zorder=1)
    axis.set_xlabel(what)
    return figure.described(f"Dots for {len(names)} metrics, {what}. {words}")


def plot_ridges(
    ridges: Numbers, errors: Mapping[str, tuple[Numbers, Numbers]], condition: Numbers, removed: float
) -> Picture:
    """What the ridge does: errors[calibration] = (on the calibration text, on another), and the median condition."""
    titles = [f"{removed:.0%} of the neurons removed, re-tuned", "The ridge also tames the condition"]
    ylabels, xlabel = ["error left (% of ‖Y‖²)", "median condition κ"], "ridge λ (of each input's own energy)"
    figure, (left, right) = panels(1, 2, (10.0, 3.8), xscale="log", title=titles, xlabel=xlabel, ylabel=ylabels)
    words = [f"Two line charts over ridges from {ridges[0]:g} to {ridges[-1]:g}."]
    for (label, (seen, unseen)), colour in zip(errors.items(), (REMOVED, KEPT, GREEN), strict=False):
        left.plot(ridges, [100 * e for e in seen], "o-", color=colour, label=f"{label}, calibration text")
        left.plot(ridges, [100 * e for e in unseen], "X--", color=colour, label=f"{label}, unseen text")
        best = int(np.argmin(unseen))
        left.scatter(ridges[best], 100 * unseen[best], s=160, facecolors="none", edgecolors="black")
        ends = f"With {label} the error goes from {seen[0]:.1%} to {seen[-1]:.1%} on the calibration text"
        lowest = f"is lowest at {unseen[best]:.1%} with a ridge of {ridges[best]:g}, and ends at {unseen[-1]:.1%}"
        words.append(f"{ends}; on unseen text it starts at {unseen[0]:.1%}, {lowest}.")
    left.set_ylim(0, 1.45 * left.get_ylim()[1])  # room for the legend
    left.legend(fontsize=8, loc="upper center", ncols=len(errors))
    right.plot(ridges, condition, "o-", color=GREEN)
    log_y(right)
    words.append(f"The median condition falls from {condition[0]:.2f} to {condition[-1]:.2f}.")
    return figure.described(" ".join(words))


def plot_token_energy(norms: ArrayLike, plain: ArrayLike, weighted: ArrayLike, title: str) -> Picture:
    """Which tokens rule the statistics: all (S, L); norms of the stream, and each token's share of tr C two ways."""
    norms, *energies = (np.asarray(values) for values in (norms, plain, weighted))
    sequences, length = norms.shape
    shares = [np.sort(energy.flatten())[::-1].cumsum() / energy.sum() for energy in energies]
    titles, ylabels = [title, "Who rules the Gram matrix?"], ["‖h_t‖ behind the layer", "share of tr C (%)"]
    xlabels = ["position in the sequence (first = 1)", "tokens, loudest first"]
    figure, (left, right) = panels(1, 2, (10.0, 3.6), xscale="log", title=titles, xlabel=xlabels, ylabel=ylabels)
    left.plot(np.arange(1, length + 1), norms.T, color=KEPT, alpha=0.35, lw=1)
    left.set_yscale("log")
    styles = ((REMOVED, "-", "as they are"), (KEPT, "--", "divided by ‖h_t‖"))
    for share, (colour, line, name) in zip(shares, styles, strict=True):
        right.plot(np.arange(1, norms.size + 1), 100 * share, line, color=colour, label=name)
    right.set_ylim(0, 103)
    right.legend(fontsize=8)
    first, others = np.median(norms[:, 0]), np.median(norms[:, 1:])
    as_they_are, divided = (share[sequences - 1] for share in shares)
    return figure.described(
        f"Left: norm of the residual stream by position; the first token's is {first:.3g}, the median of the others "
        f"{others:.3g}. Right: of {norms.size:,} tokens, the {sequences} loudest hold {as_they_are:.1%} of the Gram "
        f"matrix's trace as they are, and {divided:.1%} when divided by their norms."
    )
