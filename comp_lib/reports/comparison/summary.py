"""A comparison as a table in Markdown, and as a picture.

Rows are those of `grid.run`. A method is called by its name and its recovery. For several seeds the
mean is given, with the smallest and the largest value: with three seeds, that says more than a standard
deviation. In the picture a large mark is that mean, and a small mark is one seed. Whiskers are the 95%
interval over the evaluation windows. For several seeds, the ends of a whisker are the means of the ends of
their intervals.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ...utils.files import write_atomically
from ..plots.base import LEGEND_BESIDE, LOSS_LABEL, Picture, figure_with_axes, log_y, png, style

LOG_LOSS_LABEL = LOSS_LABEL.replace("token)", "token, log scale)")


class Measure(NamedTuple):
    """How a column of the rows is shown."""

    heading: str  # heading of its table
    number_format: str  # format of its numbers
    best: str | None  # "min" or "max": the best value; None: no value is better


# column -> how its table shows it
TABLES = {
    "increase": Measure("Increase of the loss over the dense model (nats per token)", ".3f", "min"),
    "kl": Measure("KL divergence from the dense model (nats per token)", ".3f", "min"),
    "top1_agreement": Measure("Same first choice as the dense model (share of tokens)", ".3f", "max"),
    "decode_ratio": Measure("Time to decode one token (dense model = 1)", ".2f", "min"),
    "peak_megabytes": Measure("Peak memory of pruning above imports (MiB)", ".0f", "min"),
    "seconds": Measure("Time of pruning (seconds)", ".1f", "min"),
    "removed": Measure("Really removed (share of the decoder's parameters)", ".4f", None),
}


def rows_with_status(rows: pd.DataFrame, status: str = "ok") -> pd.DataFrame:
    """The rows that have this status, with a column `label` that names method and recovery."""
    rows = rows[rows.status == status]
    recoveries = (" + " + rows.recovery).mask(rows.recovery == "none", "")
    return rows.assign(label=rows.method + recoveries)


def markdown(rows: pd.DataFrame) -> str:
    """Tables of methods x ratios, one for each number of calibration sequences and each measure."""
    finished = rows_with_status(rows)
    paragraphs = []
    for sequences, group in finished.groupby("sequences"):
        first = group.iloc[0]
        paragraphs.append(
            f"# {first.model}, {sequences} x {first.length} tokens of {first.calibration}\n\n"
            f"Judged on {first.window_count} x {first.window_length} tokens of {first.judged_on}, where the "
            f"dense model's loss is {first.dense_loss:.3f} nats per token. "
            "Mean over seeds (smallest to largest); best mean in bold."
        )
        for column, measure in TABLES.items():
            paragraphs.append(f"## {measure.heading}\n\n{comparison_table(group, column)}")
    failures = []
    for row in rows_with_status(rows, "failed").itertuples():
        run = f"ratio {row.ratio:g}, seed {row.seed}, {row.sequences} sequences"
        failures.append(f"- {row.label}, {run}: {row.message}")
    if failures:
        paragraphs.append("## Failed, to be tried again by the same command\n\n" + "\n".join(failures))
    if len(finished):
        paragraphs.append("Made with " + "; ".join(sorted(finished.versions.unique())) + ".")
    return "\n\n".join(paragraphs) + "\n"


def comparison_table(rows: pd.DataFrame, column: str) -> str:
    """A Markdown table of one of TABLES, methods x ratios, from finished rows of one calibration size."""
    measure = TABLES[column]
    seeds = rows.seed.nunique()
    table = pd.DataFrame("-", index=rows.label.unique(), columns=sorted(rows.ratio.unique()))
    for ratio, rows_of_ratio in rows.groupby("ratio"):
        values_by_label = rows_of_ratio.groupby("label")[column]
        means = {label: float(values.mean()) for label, values in values_by_label}
        best = None if measure.best is None else pd.Series(means).agg(measure.best)
        for label, values in values_by_label:
            is_best = means[label] == best
            table.loc[label, ratio] = _cell(values, measure.number_format, seeds, is_best=is_best)
    head = ["method", *(f"{ratio:.0%}" for ratio in table)]
    body = table.reset_index().to_numpy().tolist()
    head_line, *body_lines = (f"| {' | '.join(cells)} |" for cells in (head, *body))
    return "\n".join([head_line, "|---|" + "---:|" * table.shape[1], *body_lines])


def _cell(values: pd.Series, number_format: str, seeds: int, *, is_best: bool) -> str:
    """The mean of a method's values, one for each seed, in bold where it is the best, with their range."""
    cell = f"{values.mean():{number_format}}"
    if is_best:
        cell = f"**{cell}**"
    if len(values) > 1:
        cell += f" ({values.min():{number_format}} to {values.max():{number_format}})"
    if len(values) < seeds:
        cell += f" [{len(values)} of {seeds} seeds]"
    return cell


def plot_increase(rows: pd.DataFrame) -> Picture:
    """Loss increase against the part really removed, a line for each method, with whiskers and seeds."""
    logarithmic = rows.increase.min() > 0
    ylabel = LOG_LOSS_LABEL if logarithmic else LOSS_LABEL
    figure, axes = figure_with_axes(
        (8.0, 4.4), xlabel="removed (% of the decoder's parameters)", ylabel=ylabel
    )
    items = []
    for index, (label, rows_of_label) in enumerate(rows.groupby("label", sort=False)):
        groups = rows_of_label.groupby("ratio")
        marks = style(index)
        x = 100 * groups.removed.mean()
        y = groups.increase.mean()
        whiskers = [y - groups.increase_low.mean(), groups.increase_high.mean() - y]
        axes.errorbar(x, y, whiskers, label=label, capsize=2, linewidth=1, **marks)
        for position, (_, values_of_seeds) in zip(x, groups.increase, strict=True):
            if len(values_of_seeds) > 1:
                positions = [position] * len(values_of_seeds)
                axes.plot(positions, values_of_seeds, ".", color=marks["color"], alpha=0.6)
        items.append(
            f"{label} from {y.iloc[0]:.2f} nats at {x.iloc[0]:.0f}% to {y.iloc[-1]:.2f} at {x.iloc[-1]:.0f}%"
        )
    if logarithmic:
        log_y(axes)
    axes.legend(**LEGEND_BESIDE)
    seeds = rows.seed.nunique()
    means = f" (means over {seeds} seeds)" if seeds > 1 else ""
    return figure.with_alt_text(f"Lines of the loss increase against the part removed{means}: ", items)


def write_summary(rows: pd.DataFrame, folder: Path) -> None:
    """Write table.md and increase.png into `folder`; without a finished row, only the table."""
    write_atomically(folder / "table.md", markdown(rows).encode())
    finished = rows_with_status(rows)
    if len(finished):
        largest = finished[finished.sequences == finished.sequences.max()]
        write_atomically(folder / "increase.png", png(plot_increase(largest)))
