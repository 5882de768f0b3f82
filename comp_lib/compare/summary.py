"""What the rows of a comparison say: a table in Markdown, and a picture.

Rows are those of `compare.run`. A method is called by its name and its recovery. Of several seeds the mean is given,
with the smallest and the largest: with three of them, that says more than a standard deviation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from ..plots.base import png
from ..system.atomic import write_atomically
from ..system.outputs import check_output
from .grid import ROWS
from .picture import plot_increase

TABLE, PICTURE = "table.md", "increase.png"
MEASURES = {  # column: heading, what a number looks like, which is best
    "increase": ("Increase of the loss over the dense model (nats per token)", ".3f", "min"),
    "kl": ("KL divergence from the dense model (nats per token)", ".3f", "min"),
    "top1_agreement": ("Same first choice as the dense model (share of tokens)", ".3f", "max"),
    "decode_ratio": ("Time to decode one token (dense model = 1)", ".2f", "min"),
    "peak_megabytes": ("Peak memory of pruning above imports (MiB)", ".0f", "min"),
    "seconds": ("Time of pruning (seconds)", ".1f", "min"),
    "removed": ("Really removed (share of the decoder's parameters)", ".4f", None),
}


def label(method: str, recovery: str) -> str:
    """What a method is called in tables and figures."""
    return method if recovery == "none" else f"{method} + {recovery}"


def finished(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that have a result, with a column `label` that names method and recovery."""
    rows = rows[rows.status == "ok"].copy()
    rows["label"] = [label(method, recovery) for method, recovery in zip(rows.method, rows.recovery, strict=True)]
    return rows


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
        parts += [f"## {heading}\n\n{comparison(part, measure)}" for measure, (heading, *_) in MEASURES.items()]
    lines = []
    for row in rows[rows.status == "failed"].itertuples():
        size = f"ratio {row.ratio:g}, seed {row.seed}, {row.sequences} sequences"
        lines.append(f"- {label(row.method, row.recovery)}, {size}: {row.message}")
    if lines:
        parts.append("## Failed, to be tried again by the same command\n\n" + "\n".join(lines))
    if len(done):
        parts.append("Made with " + "; ".join(sorted(done.versions.unique())) + ".")
    return "\n\n".join(parts) + "\n"


def comparison(rows: pd.DataFrame, measure: str) -> str:
    """Methods x ratios of one of MEASURES, as a Markdown table, from finished rows of one calibration size."""
    _, form, judge = MEASURES[measure]
    seeds, cells = rows.seed.nunique(), rows.groupby(["label", "ratio"], sort=False)[measure]
    cells = cells.agg(mean="mean", low="min", high="max", seeds="count").reset_index()
    most = cells.seeds == cells.groupby("ratio").seeds.transform("max")  # fewer seeds are no match
    cells["best"] = cells["mean"].where(most).groupby(cells.ratio).transform(judge) if judge else None

    def words(cell: Any) -> str:
        text = f"**{cell.mean:{form}}**" if cell.mean == cell.best and cell.most else f"{cell.mean:{form}}"
        text += f" ({cell.low:{form}} to {cell.high:{form}})" if cell.seeds > 1 else ""
        return text + (f" [{cell.seeds} of {seeds} seeds]" if cell.seeds < seeds else "")

    cells["words"] = [words(cell) for cell in cells.assign(most=most).itertuples()]
    table = cells.pivot(index="label", columns="ratio", values="words").loc[rows.label.unique()].fillna("-")
    lines = [["method", *(f"{ratio:.0%}" for ratio in table)], *table.reset_index().to_numpy().tolist()]
    head, *body = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, "|---|" + "---:|" * table.shape[1], *body])


def write_summary(rows: pd.DataFrame, folder: str | Path) -> list[Path]:
    """Write table.md and increase.png into `folder`; returns their paths. Without a finished row, only the table."""
    folder, done = Path(folder).expanduser(), finished(rows)
    files = {TABLE: markdown(rows).encode()}
    if len(done):
        files[PICTURE] = png(plot_increase(done[done.sequences == done.sequences.max()]))
    for name, content in files.items():
        write_atomically(folder / name, content)
    return [folder / name for name in files]


def check_summary(folder: Path, overwrite: bool) -> None:
    """Raises InputError when one of these files is there, not beside rows, and may not be overwritten."""
    for name in (TABLE, PICTURE) if folder.is_dir() and not (folder / ROWS).exists() else ():
        check_output(folder / name, overwrite)
