"""Pictures of what neurons are worth: energy against condition, metrics against measurements (see `base`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .base import COLOURS, figure_with_axes, plain_ticks

KEPT, REMOVED, PICKED = COLOURS[0], COLOURS[3], "black"


def plot_projections(grams: Mapping[str, Sequence[Sequence[float]]]) -> Figure:
    """Two contributions as arrows, one panel for each 2 x 2 Gram matrix: what the second cannot stand in for is s_1."""
    figure, axes = figure_with_axes(1, len(grams), (3.6 * len(grams), 3.4), squeeze=False)
    words = []
    for axis, (label, gram) in zip(axes[0], grams.items(), strict=True):
        (g11, g12), (_, g22) = np.asarray(gram, dtype=float)
        # the second arrow lies on the x axis; only lengths and the angle count, and G knows them
        second = np.array([g22**0.5, 0.0])
        along = g12 / g22**0.5
        first = np.array([along, max(g11 - along**2, 0.0) ** 0.5])
        cost, angle = first[1] ** 2, np.degrees(np.arctan2(first[1], along))
        for arrow, colour, name in ((second, KEPT, "a₂ stays"), (first, REMOVED, "a₁ goes")):
            axis.annotate("", arrow, (0, 0), arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2.5})
            axis.plot([], [], color=colour, lw=2.5, label=name)
        axis.plot([along, along], [0, first[1]], "--", color="black", lw=1.5, label="what is lost")
        reach = 1.15 * max(second[0], *np.abs(first))
        axis.set(xlim=(min(0.0, along) - 0.1 * reach, reach), ylim=(-0.3 * reach, reach), aspect="equal")
        kappa = (g11 / cost) ** 0.5 if cost else float("inf")
        axis.set_title(f"{label}\nκ₁ = {kappa:.2f},  s₁ = {cost:.2f}", fontsize=10)
        axis.set_xlabel("along a₂ (units of y)")
        words.append(f"{label}: {angle:.0f} degrees apart, condition {kappa:.2f}, cost {cost:.2f} of {g11:.2f}")
    axes[0][0].set_ylabel("across a₂ (units of y)")
    axes[0][0].legend(fontsize=8, loc="upper right")
    figure.alt_text = (
        "Two arrows for two contributions; the dashed line from the tip of the first down to the second is what is "
        f"lost when the first goes and the second is re-tuned. {'; '.join(words)}."
    )
    return figure


def plot_cosines(grams: Mapping[str, np.ndarray], neurons: Sequence[int]) -> Figure:
    """Cosines M_ij / sqrt(M_ii M_jj) of the same neurons (at most 40), a panel for each matrix grams[what] (n, n)."""
    figure, axes = figure_with_axes(1, len(grams), (4.3 * len(grams) + 1.2, 4.6), squeeze=False)
    words = []
    for place, (axis, (what, gram)) in enumerate(zip(axes[0], grams.items(), strict=True)):
        part = np.asarray(gram)[np.ix_(neurons, neurons)]
        size = np.sqrt(part.diagonal())
        cosines = part / np.outer(size, size)
        last = place == len(grams) - 1
        sns.heatmap(
            cosines,
            vmin=-1,
            vmax=1,
            cmap="RdBu_r",
            square=True,
            ax=axis,
            xticklabels=False,
            yticklabels=[str(n) for n in neurons] if place == 0 else False,
            cbar=last,
            cbar_kws={"label": "cosine", "shrink": 0.8} if last else None,
        )
        axis.tick_params(axis="y", labelsize=7, labelrotation=0)
        axis.set(title=what, xlabel="neuron (same order)", ylabel="neuron" if place == 0 else "")
        off = np.abs(cosines - np.eye(len(cosines)))
        i, j = np.unravel_index(off.argmax(), off.shape)
        typical = np.median(off[np.triu_indices(len(off), 1)])
        words.append(
            f"{what}: the closest pair is {neurons[i]} and {neurons[j]} with a cosine of {cosines[i, j]:.2f}, the "
            f"typical size is {typical:.2f}"
        )
    figure.alt_text = f"Heat maps of the cosines between {len(neurons)} neurons. {'; '.join(words)}."
    return figure


def _scatter(axis, energy: np.ndarray, condition: np.ndarray, removed: np.ndarray, most: int = 8) -> None:
    """Energy against condition with lines of equal cost; energy (n,) relative, removed (n,) of bool."""
    for chosen, colour, marker, label in ((~removed, KEPT, "o", "kept"), (removed, REMOVED, "x", "removed")):
        axis.scatter(
            energy[chosen],
            condition[chosen],
            s=11,
            c=[colour],
            marker=marker,
            linewidths=0.8 if marker == "x" else 0.0,
            label=f"{label} ({int(chosen.sum()):,})",
        )
    axis.set(xscale="log", yscale="log")
    left, right = energy.min() * 0.7, energy.max() * 1.4
    low, high = min(0.97, condition.min() * 0.95), condition.max() * 1.1
    grid = np.geomspace(left, right, 50)
    costs = energy / condition**2
    for power in range(int(np.ceil(np.log10(costs.min()))), int(np.floor(np.log10(costs.max()))) + 1):
        # energy / condition² = constant: straight lines on these axes
        axis.plot(grid, np.sqrt(grid / 10.0**power), ":", color="grey", lw=1)
        edge = 10.0**power * high**2  # where the line leaves at the top, or the height at which it leaves on the right
        spot = (edge, high) if left < edge < right else (right, np.sqrt(right / 10.0**power))
        if low < spot[1] <= high and left < spot[0] <= right:
            axis.annotate(
                f"{100 * 10.0**power:g}%",
                spot,
                xytext=(-3, -3),
                textcoords="offset points",
                fontsize=7,
                color="dimgrey",
                ha="right",
                va="top",
            )
    axis.set(xlim=(left, right), ylim=(low, high))
    plain_ticks(axis.xaxis, (left, right), percent=True, most=most)
    plain_ticks(axis.yaxis, (low, high))


def plot_energy_condition(
    energy: np.ndarray, condition: np.ndarray, removed: np.ndarray, title: str, picked: int | None = None
) -> Figure:
    """Every neuron of a layer: energy (n,), as a share of ||Y||², against condition (n,); removed (n,) of bool."""
    energy, condition, removed = np.asarray(energy), np.asarray(condition), np.asarray(removed)
    figure, axis = figure_with_axes(1, 1, (8.0, 4.8))
    _scatter(axis, energy, condition, removed)
    if picked is not None:
        axis.scatter(
            energy[picked],
            condition[picked],
            s=160,
            facecolors="none",
            edgecolors=PICKED,
            linewidths=2,
            label=f"neuron {picked}",
        )
    axis.plot([], [], ":", color="grey", label="equal cost s = energy / κ²")
    axis.set(title=title, xlabel="energy of the contribution (% of ‖Y‖²)", ylabel="condition κ (1: none can stand in)")
    figure.legend(fontsize=8, loc="outside lower center", ncols=4)  # points can be anywhere
    costs = energy / condition**2
    figure.alt_text = (
        f"{title}. Scatter of {len(energy):,} neurons: energy from {energy.min():.2g} to {energy.max():.2g} of the "
        f"output's, condition from {condition.min():.2f} to {condition.max():.2f}, median {np.median(condition):.2f}. "
        f"{int(removed.sum()):,} neurons are marked as removed; their costs add up to {costs[removed].sum():.3g}, "
        f"those of the kept ones to {costs[~removed].sum():.3g}."
    )
    if picked is not None:
        figure.alt_text += f" Neuron {picked} has energy {energy[picked]:.2g} and condition {condition[picked]:.2f}."
    return figure


def plot_choices(
    energy: np.ndarray, condition: np.ndarray, removed: Mapping[str, np.ndarray], errors: Mapping[str, float]
) -> Figure:
    """The same neurons once for each way to choose: removed[name] (n,) of bool, errors[name] relative, re-tuned."""
    energy, condition = np.asarray(energy), np.asarray(condition)
    figure, axes = figure_with_axes(1, len(removed), (3.7 * len(removed), 3.6), sharex=True, sharey=True, squeeze=False)
    for axis, (name, gone) in zip(axes[0], removed.items(), strict=True):
        _scatter(axis, energy, condition, np.asarray(gone), most=5)
        axis.set_title(f"by {name}\nerror left {errors[name]:.1%}", fontsize=11)
        axis.set_xlabel("energy (% of ‖Y‖²)")
    axes[0][0].set_ylabel("condition κ")
    figure.legend(*axes[0][0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=2)
    listed = "; ".join(f"by {name}, error {errors[name]:.1%}" for name in removed)
    figure.alt_text = (
        f"Scatter plots of energy against condition, the same {len(energy):,} neurons in each; "
        f"{int(np.asarray(next(iter(removed.values()))).sum()):,} are removed {listed}. Energy removes what is on the "
        "left, condition what is on top, the cost what lies above a slanted line."
    )
    return figure


def plot_against_measured(
    scores: Mapping[str, np.ndarray], measured: np.ndarray, correlations: Mapping[str, float], what: str
) -> Figure:
    """One panel for each metric: its scores (k,) of some neurons against the measured cost (k,), a share, of each."""
    columns = 5
    rows = -(-len(scores) // columns)
    figure, axes = figure_with_axes(rows, columns, (11.5, 2.4 * rows), sharey=True, squeeze=False)
    for place, (axis, (name, values)) in enumerate(zip(axes.flat, scores.items(), strict=False)):
        values = np.asarray(values)
        axis.scatter(values, measured, s=12, c=[KEPT])
        axis.set_yscale("log")
        if (values > 0).all():
            axis.set_xscale("log")
            plain_ticks(axis.xaxis, axis.get_xlim(), most=4)
        else:  # a share can be negative
            axis.xaxis.set_major_locator(MaxNLocator(3))
        axis.tick_params(labelsize=8)
        axis.set_title(f"{name}: ρ = {correlations[name]:.2f}", fontsize=9)
        if place + columns >= len(scores):
            axis.set_xlabel("score (its own unit)", fontsize=9)
    plain_ticks(axes[0][0].yaxis, axes[0][0].get_ylim(), percent=True, most=5)
    for axis in axes.flat[len(scores) :]:
        axis.set_axis_off()
    for axis in axes[:, 0]:
        axis.set_ylabel(what, fontsize=9)
    ranking = sorted(correlations, key=lambda name: -correlations[name])
    figure.alt_text = (
        f"Scatter plots of {len(measured)} neurons, score against measured cost of removal. Spearman correlations: "
        + ", ".join(f"{name} {correlations[name]:.2f}" for name in ranking)
        + "."
    )
    return figure


def plot_outcomes(
    outcomes: Mapping[str, Mapping[str, float]], what: str, reference: float | None = None, percent: bool = False
) -> Figure:
    """A number for each metric and each recovery: outcomes[recovery][metric], as dots on a logarithmic axis."""
    first = next(iter(outcomes.values()))
    last = list(outcomes.values())[-1]
    names = sorted(first, key=lambda name: -last[name])  # the best on top
    figure, axis = figure_with_axes(1, 1, (8.0, 0.42 * len(names) + 1.4))
    for name in names:
        axis.plot([table[name] for table in outcomes.values()], [name] * len(outcomes), color="lightgrey", zorder=1)
    for (recovery, table), colour, marker in zip(outcomes.items(), (REMOVED, KEPT, COLOURS[2]), "XoD", strict=False):
        axis.scatter([table[name] for name in names], names, c=[colour], marker=marker, s=48, label=recovery, zorder=2)
    if reference is not None:
        axis.axvline(reference, color="black", ls="--", lw=1, label="dense model")
    axis.set_xscale("log")
    plain_ticks(axis.xaxis, axis.get_xlim(), percent)
    axis.set_xlabel(what)
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    shown = "{:.1%}" if percent else "{:.2f}"
    figure.alt_text = f"Dots for {len(names)} metrics, {what}."
    for recovery, table in outcomes.items():
        listed = ", ".join(f"{name} {shown.format(table[name])}" for name in reversed(names))
        figure.alt_text += f" {recovery.capitalize()}: {listed}."
    if reference is not None:
        figure.alt_text += f" The dense model has {shown.format(reference)}."
    return figure


def plot_ridges(
    ridges: Sequence[float],
    errors: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    condition: Sequence[float],
    removed: float,
) -> Figure:
    """What the ridge does: errors[calibration] = (on the calibration text, on another), and the median condition."""
    figure, (left, right) = figure_with_axes(1, 2, (10.0, 3.8))
    figure.alt_text = f"Two line charts over ridges from {ridges[0]:g} to {ridges[-1]:g}."
    for (label, (seen, unseen)), colour in zip(errors.items(), (REMOVED, KEPT, COLOURS[2]), strict=False):
        left.plot(ridges, [100 * e for e in seen], "o-", color=colour, label=f"{label}, calibration text")
        left.plot(ridges, [100 * e for e in unseen], "X--", color=colour, label=f"{label}, unseen text")
        best = int(np.argmin(unseen))
        left.scatter(ridges[best], 100 * unseen[best], s=160, facecolors="none", edgecolors="black")
        figure.alt_text += (
            f" With {label} the error goes from {seen[0]:.1%} to {seen[-1]:.1%} on the calibration text; on unseen "
            f"text it starts at {unseen[0]:.1%}, is lowest at {unseen[best]:.1%} with a ridge of {ridges[best]:g}, and "
            f"ends at {unseen[-1]:.1%}."
        )
    left.set(
        xscale="log",
        xlabel="ridge λ (of each input's own energy)",
        ylabel="error left (% of ‖Y‖²)",
        title=f"{removed:.0%} of the neurons removed, re-tuned",
    )
    left.set_ylim(0, 1.45 * left.get_ylim()[1])  # room for the legend
    left.legend(fontsize=8, loc="upper center", ncols=len(errors))
    right.plot(ridges, condition, "o-", color=COLOURS[2])
    right.set(
        xscale="log",
        yscale="log",
        xlabel="ridge λ (of each input's own energy)",
        ylabel="median condition κ",
        title="The ridge also tames the condition",
    )
    plain_ticks(right.yaxis, right.get_ylim())
    figure.alt_text += f" The median condition falls from {condition[0]:.2f} to {condition[-1]:.2f}."
    return figure


def plot_token_energy(norms: np.ndarray, plain: np.ndarray, weighted: np.ndarray, title: str) -> Figure:
    """Which tokens rule the statistics: all (S, L); norms of the stream, and each token's share of tr C two ways."""
    norms, plain, weighted = (np.asarray(a) for a in (norms, plain, weighted))
    figure, (left, right) = figure_with_axes(1, 2, (10.0, 3.6))
    positions = np.arange(norms.shape[1])
    for row in norms:
        left.plot(positions + 1, row, color=KEPT, alpha=0.35, lw=1)
    left.set(
        xscale="log",
        yscale="log",
        xlabel="position in the sequence (first = 1)",
        ylabel="‖h_t‖ behind the layer",
        title=title,
    )
    tokens = np.arange(1, norms.size + 1)
    styles = ((plain, REMOVED, "-", "as they are"), (weighted, KEPT, "--", "divided by ‖h_t‖"))
    for values, colour, style, name in styles:
        ordered = np.sort(values.flatten())[::-1].cumsum() / values.sum()
        right.plot(tokens, 100 * ordered, style, color=colour, label=name)
    right.set(
        xscale="log",
        xlabel="tokens, loudest first",
        ylabel="share of tr C (%)",
        ylim=(0, 103),
        title="Who rules the Gram matrix?",
    )
    right.legend(fontsize=8)
    few = norms.shape[0]
    top = lambda values: np.sort(values.flatten())[::-1][:few].sum() / values.sum()  # noqa: E731
    figure.alt_text = (
        f"Left: norm of the residual stream by position; the first token's is {np.median(norms[:, 0]):.3g}, the median "
        f"of the others {np.median(norms[:, 1:]):.3g}. Right: of {norms.size:,} tokens, the {few} loudest hold "
        f"{top(plain):.1%} of the Gram matrix's trace as they are, and {top(weighted):.1%} when divided by their norms."
    )
    return figure
