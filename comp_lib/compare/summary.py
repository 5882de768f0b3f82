"""What the rows of a comparison say: a table in Markdown, and a picture.

Rows are those of `compare.run`. A method is called by its name and its recovery. Of several seeds the mean is given,
with the smallest and the largest: with three of them, that says more than a standard deviation. In the picture a large
mark is that mean, a small one a seed; whiskers are the 95% interval over the evaluation windows (of several seeds the
mean of its ends).
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ..plots.base import BESIDE, LOSS, Picture, figure_with_axes, log_y, png, style
from ..system.atomic import write_atomically

LOG_LOSS = LOSS.replace("token)", "token, log scale)")
MEASURES = {  # column: heading, what a number looks like, which is best
    "increase": ("Increase of the loss over the dense model (nats per token)", ".3f", "min"),
    "kl": ("KL divergence from the dense model (nats per token)", ".3f", "min"),
    "top1_agreement": ("Same first choice as the dense model (share of tokens)", ".3f", "max"),
    "decode_ratio": ("Time to decode one token (dense model = 1)", ".2f", "min"),
    "peak_megabytes": ("Peak memory of pruning above imports (MiB)", ".0f", "min"),
    "seconds": ("Time of pruning (seconds)", ".1f", "min"),
    "removed": ("Really removed (share of the decoder's parameters)", ".4f", None),
}


def finished(rows: pd.DataFrame, status: str = "ok") -> pd.DataFrame:
    """The rows that have a result, or another status, with a column `label` that names method and recovery."""
    rows = rows[rows.status == status]
    return rows.assign(label=rows.method + (" + " + rows.recovery).mask(rows.recovery == "none", ""))


def markdown(rows: pd.DataFrame) -> str:
    """One table for each number of calibration sequences and each measure: methods x ratios, the best in bold."""
    done = finished(rows)
    parts = []
    for sequences, part in done.groupby("sequences"):
        first = part.iloc[0]
        parts.append(
            f"# {first.model}, {sequences} x {first.length} tokens of {first.calibration}\n\n"
            f"Judged on {first.windows} x {first.window} tokens of {first.evaluation}, where the dense model's loss is "
            f"{first.dense_loss:.3f} nats per token. Mean over seeds (smallest to largest); best mean in bold."
        )
        parts += [
            f"## {heading}\n\n{comparison(part, measure)}" for measure, (heading, *_) in MEASURES.items()
        ]
    lines = []
    for row in finished(rows, "failed").itertuples():
        size = f"ratio {row.ratio:g}, seed {row.seed}, {row.sequences} sequences"
        lines.append(f"- {row.label}, {size}: {row.message}")
    if lines:
        parts.append("## Failed, to be tried again by the same command\n\n" + "\n".join(lines))
    if len(done):
        parts.append("Made with " + "; ".join(sorted(done.versions.unique())) + ".")
    return "\n\n".join(parts) + "\n"


def comparison(rows: pd.DataFrame, measure: str) -> str:
    """Methods x ratios of one of MEASURES, as a Markdown table, from finished rows of one calibration size."""
    _, form, judge = MEASURES[measure]
    seeds = rows.seed.nunique()
    table = pd.DataFrame("-", index=rows.label.unique(), columns=sorted(rows.ratio.unique()))
    for ratio, of_ratio in rows.groupby("ratio"):
        cells = of_ratio.groupby("label")[measure]
        best = cells.mean().agg(judge) if judge else None
        for label, values in cells:
            words = f"**{values.mean():{form}}**" if values.mean() == best else f"{values.mean():{form}}"
            words += f" ({values.min():{form}} to {values.max():{form}})" if len(values) > 1 else ""
            words += f" [{len(values)} of {seeds} seeds]" if len(values) < seeds else ""
            table.loc[label, ratio] = words
    lines = [["method", *(f"{ratio:.0%}" for ratio in table)], *table.reset_index().to_numpy().tolist()]
    head, *body = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, "|---|" + "---:|" * table.shape[1], *body])


def plot_increase(rows: pd.DataFrame) -> Picture:
    """Loss increase against the part really removed, a line for each method, with whiskers and seeds."""
    logarithmic, seeds = rows.increase.min() > 0, rows.seed.nunique()
    labels = {
        "xlabel": "removed (% of the decoder's parameters)",
        "ylabel": LOG_LOSS if logarithmic else LOSS,
    }
    figure, axes = figure_with_axes((8.0, 4.4), **labels)
    words = []
    for place, (name, own) in enumerate(rows.groupby("label", sort=False)):
        groups, marks = own.groupby("ratio"), style(place)
        x, y = 100 * groups.removed.mean(), groups.increase.mean()
        spans = [y - groups.increase_low.mean(), groups.increase_high.mean() - y]
        axes.errorbar(x, y, spans, label=name, capsize=2, linewidth=1, **marks)
        for middle, (_, of_seeds) in zip(x, groups.increase, strict=True):
            if len(of_seeds) > 1:
                axes.plot([middle] * len(of_seeds), of_seeds, ".", color=marks["color"], alpha=0.6)
        words.append(
            f"{name} from {y.iloc[0]:.2f} nats at {x.iloc[0]:.0f}% to {y.iloc[-1]:.2f} at {x.iloc[-1]:.0f}%"
        )
    if logarithmic:
        log_y(axes)
    axes.legend(**BESIDE)
    means = f" (means over {seeds} seeds)" if seeds > 1 else ""
    return figure.described(f"Lines of the loss increase against the part removed{means}: ", words)


def write_summary(rows: pd.DataFrame, folder: Path) -> None:
    """Write table.md and increase.png into `folder`; without a finished row, only the table."""
    done = finished(rows)
    write_atomically(folder / "table.md", markdown(rows).encode())
    if len(done):
        write_atomically(
            folder / "increase.png", png(plot_increase(done[done.sequences == done.sequences.max()]))
        )
