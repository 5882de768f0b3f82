"""What the rows of a comparison say: a table in Markdown, and figures.

Rows are those of `compare.run`. A method is called by its name and its recovery. Of several seeds the mean is given,
with the smallest and the largest: with three of them, that says more than a standard deviation.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from ..plots.base import png
from ..system.atomic import write_atomically
from ..system.outputs import check_output
from .figures import label, plot_increase, plot_latency, plot_memory, plot_sequences

TABLE, SIZES = "table.md", "sequences.png"
PLOTS = {"increase.png": plot_increase, "latency.png": plot_latency, "memory.png": plot_memory}
START = b"<!-- written by comp-lib compare -->\n"  # of a table that is ours
MEASURES = {  # column: heading, what a number looks like
    "increase": ("Increase of the loss over the dense model (nats per token)", "{:.3f}"),
    "kl": ("KL divergence from the dense model (nats per token)", "{:.3f}"),
    "top1_agreement": ("Same first choice as the dense model (share of tokens)", "{:.3f}"),
    "decode_ratio": ("Time to decode one token (dense model = 1)", "{:.2f}"),
    "peak_megabytes": ("Peak memory of pruning above imports (MiB)", "{:.0f}"),
    "passes": ("Time of pruning (dense forward passes over the calibration text)", "{:.2f}"),
    "removed": ("Really removed (share of the decoder's parameters)", "{:.4f}"),
}
HIGHER = ("top1_agreement",)  # is better; of `removed`, neither
UNJUDGED = ("removed",)


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
        parts += by_kind(part)
        parts += [f"## {heading}\n\n{comparison(part, measure)}" for measure, (heading, _) in MEASURES.items()]
    lines = []
    for row in rows[rows.status == "failed"].itertuples():
        size = f"ratio {row.ratio:g}, seed {row.seed}, {row.sequences} sequences"
        lines.append(f"- {label(row.method, row.recovery)}, {size}: {row.message}")
    if lines:
        parts.append("## Failed, to be tried again by the same command\n\n" + "\n".join(lines))
    if len(done):
        parts.append("Made with " + "; ".join(sorted(done.versions.unique())) + ".")
    return "\n\n".join(parts) + "\n"


def by_kind(rows: pd.DataFrame) -> list[str]:
    """For each ratio a Markdown table of the increase on each kind of text, mean over the seeds, the best in bold."""
    judged, parts = rows[rows.kinds.notna()], []
    for ratio, part in judged.groupby("ratio"):
        found = pd.DataFrame([{name: value[0] for name, value in json.loads(each).items()} for each in part.kinds])
        labelled = found.assign(label=part.label.to_numpy()).groupby("label", sort=False)
        means, counts, seeds = labelled.mean(), labelled.size(), rows.seed.nunique()
        best = means == means[counts == counts.max()].min()
        best[counts < counts.max()] = False  # fewer seeds are no match
        words = means.map("{:.3f}".format).where(~best, means.map("**{:.3f}**".format))
        words.index = [f"{name} [{n} of {seeds} seeds]" if n < seeds else name for name, n in counts.items()]
        words.index.name = "label"
        heading = f"## Increase of the loss by kind of text, {ratio:.0%} removed (nats per token)"
        parts.append(f"{heading}\n\n{_by_method(words)}")
    return parts


def comparison(rows: pd.DataFrame, measure: str) -> str:
    """Methods x ratios of one of MEASURES, as a Markdown table, from finished rows of one calibration size."""
    form, seeds = MEASURES[measure][1].format, rows.seed.nunique()
    cells = rows.groupby(["label", "ratio"], sort=False)[measure].agg(["mean", "min", "max", "count"]).reset_index()
    most = cells["count"] == cells.groupby("ratio")["count"].transform("max")  # fewer seeds are no match
    best = cells["mean"].where(most).groupby(cells.ratio).transform("max" if measure in HIGHER else "min")
    cells["words"] = cells["mean"].map(form)
    cells["words"] = cells.words.where(
        (cells["mean"] != best) | ~most | (measure in UNJUDGED), "**" + cells.words + "**"
    )
    span = " (" + cells["min"].map(form) + " to " + cells["max"].map(form) + ")"
    cells["words"] += span.where(cells["count"] > 1, "")
    missing = cells["count"].map(f" [{{:.0f}} of {seeds} seeds]".format)
    cells["words"] += missing.where(cells["count"] < seeds, "")
    table = cells.pivot(index="label", columns="ratio", values="words").loc[rows.label.unique()].fillna("-")
    return _by_method(table.rename(columns="{:.0%}".format))


def _by_method(words: pd.DataFrame) -> str:
    """Cells of text as a Markdown table; the index names the methods."""
    lines = [["method", *words], *words.reset_index().to_numpy().tolist()]
    head, *body = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, "|---|" + "---:|" * words.shape[1], *body])


def write_summary(rows: pd.DataFrame, folder: str | Path) -> list[Path]:
    """Write table.md and the figures into `folder`; returns their paths. Without a finished row, only the table."""
    folder, done = Path(folder), finished(rows)
    files = {TABLE: START + markdown(rows).encode()}
    if len(done):
        largest = done[done.sequences == done.sequences.max()]
        files |= {name: png(plot(largest)) for name, plot in PLOTS.items()}
        if done.sequences.nunique() > 1:
            files[SIZES] = png(plot_sequences(done))
    for name, content in files.items():
        write_atomically(folder / name, content)
    return [folder / name for name in files]


def check_summary(folder: Path, overwrite: bool) -> None:
    """Raises InputError when one of these files is there already, is not ours, and may not be overwritten."""
    for name in (TABLE, *PLOTS, SIZES) if folder.is_dir() else ():
        check_output(folder / name, overwrite)
