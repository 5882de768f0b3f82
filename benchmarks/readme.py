"""Put stored measurements into README.md and docs/: `python benchmarks/readme.py`

README.md gets a line for each ratio, RESULTS.md their intervals, docs/measured.md the tables: by kind of text, by ratio
and in the tasks from kinds.json, for each of two models; time and memory from headline.json, for each model the rows
with most calibration sequences; and the largest grid of baselines/rows.csv, which `comp-lib compare` wrote, with the
amount of text for which it has most rows. docs/heal.md gets the rows of after.json. A test asks whether the files say
so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from itertools import product
from math import exp
from statistics import fmean

import pandas as pd
from after import healing
from common import HERE, ROOT, between, markdown, preset, read_json

from comp_lib.calibration.tokens import MIXTURES
from comp_lib.compare.grid import ROWS
from comp_lib.compare.summary import comparison, finished
from comp_lib.models.load import EMBEDDED

SECOND = "gemma3-270m"
SETUP = ("calibration", "sequences", "length", "windows")
UNSEEN = "wikitext2-valid.txt"  # of which nothing calibrates
NAMES = {("comp", "stock"): "COMP", ("llm-pruner", ""): "LLM-Pruner", ("flap", ""): "FLAP"}  # of README.md's columns
RATIOS = (0.1, 0.2, 0.3, 0.5)
Found = dict[tuple[str, str], list[dict]]
"""(method, preset) -> its rows, one for each seed."""


def every_row(model: str) -> list[dict]:
    """The rows of that model by kind of text, with no search, and no layers that a person chose."""
    rows = [row for row in read_json(HERE / "kinds.json") if row["model"] == model and "search" not in row]
    return [row for row in rows if row["settings"]["layers"] == "auto" or preset(row["settings"]) == "paper"]


def usual_rows(model: str) -> list[dict]:
    """Those of `every_row` that saw the text, of the mixtures that ship, which most of them saw."""
    rows = [row for row in every_row(model) if row["calibration"] in MIXTURES]
    setups = [tuple(row[name] for name in SETUP) for row in rows]
    usual = max(setups, key=setups.count)  # the first of those that occur most often
    return [row for row, setup in zip(rows, setups, strict=True) if setup == usual]


def by_method(model: str = EMBEDDED, ratio: float = 0.2, rows: list[dict] | None = None) -> Found:
    """The rows of that model at that ratio, least first. rows: not the usual."""
    found: Found = {}
    for row in usual_rows(model) if rows is None else rows:
        if row["settings"]["ratio"] == ratio:
            found.setdefault((row["settings"]["method"], preset(row["settings"])), []).append(row)
    return dict(sorted(found.items(), key=lambda item: _mean(item[1])))


def more_text(model: str) -> Found:
    """`by_method` of the rows that saw more of the usual text than most."""
    usual = usual_rows(model)[0]
    alike = [row for row in every_row(model) if all(row[name] == usual[name] for name in SETUP if name != "sequences")]
    most = max(row["sequences"] for row in alike)
    return by_method(model, rows=[row for row in alike if row["sequences"] == most > usual["sequences"]])


def _mean(rows: list[dict]) -> float:
    return fmean(row["mean"] for row in rows)


def interval(rows: list[dict]) -> tuple[float, float]:
    """95% interval of the mean over the kinds: from those of the single kinds, whose errors are independent.

    Of several seeds the middle of theirs: they judge on the same windows.
    """
    sides: list[list[float]] = [[], []]
    for row in rows:
        kinds = [each for name, each in row["increases"].items() if name != UNSEEN]
        for side, own in enumerate(sides, 1):
            half = sum((each[side] - each[0]) ** 2 for each in kinds) ** 0.5 / len(kinds)
            own.append(row["mean"] + (half if side == 2 else -half))
    return fmean(sides[0]), fmean(sides[1])


def compared(cell: Callable[[list[dict]], str]) -> str:
    """A line for each ratio, and a column for each model and method of NAMES."""
    both = (EMBEDDED, SECOND)
    cells = {ratio: [by_method(model, ratio)[name] for model in both for name in NAMES] for ratio in RATIOS}
    head = ["decoder removed", *(f"{model}: {name}" for model in both for name in NAMES.values())]
    return markdown(head, [[f"{ratio:.0%}", *map(cell, rows)] for ratio, rows in cells.items()])


def short() -> str:
    """What COMP and two baselines lose, by how much goes."""
    loss = _mean(by_method()["comp", "stock"])
    told = f"Loss added, in nats per token; {loss:.2f} nats multiply the perplexity by {exp(loss):.1f}."
    return f"{told}\n\n{compared(lambda rows: f'{_mean(rows):.2f}')}"


def footnotes() -> str:
    """What README.md leaves out: intervals, which of them overlap, seeds, text, and what `best` brings."""
    alike = []
    for model, ratio in product((EMBEDDED, SECOND), RATIOS):
        spans = {name: interval(rows) for name, rows in by_method(model, ratio).items() if name in NAMES}
        low, high = spans.pop(("comp", "stock"))
        overlap = [NAMES[name] for name, (a, b) in spans.items() if a <= high and low <= b]
        alike += [f"{model} at {ratio:.0%}, COMP and {name}" for name in overlap]
    best, second = more_text(EMBEDDED)["comp", "best"], usual_rows(SECOND)[0]
    told = (
        f"COMP is preset `stock`. Preset `best`, with {best[0]['sequences']} sequences, has {_mean(best):.3f} at 20% "
        f"of {EMBEDDED}. All\nmethods saw the same text; of {SECOND}, {second['sequences']} sequences of "
        f"`{second['calibration']}`. At 20% a cell is the mean of the seeds\nthat are stored, elsewhere of one seed. "
        f"Brackets hold the 95% interval over the windows. These overlap: {'; '.join(alike)}."
    )
    return f"{told}\n\n{compared(lambda rows: '{:.3f} ({:.3f} to {:.3f})'.format(_mean(rows), *interval(rows)))}"


def kinds(model: str) -> str:
    """Increase of the loss on each kind of text, and the mean, for each method that saw a mixture that ships."""
    found = by_method(model)
    first = next(iter(found.values()))[0]
    names = list(first["increases"])
    rows = []
    for name, own in found.items():
        values = [row["mean"] for row in own]
        span = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
        increases = [f"{fmean(row['increases'][kind][0] for row in own):.2f}" for kind in names]
        rows.append([*name, f"{fmean(values):.3f}{span}", *increases])
    told = (
        f"A fifth of {model}'s decoder goes; {first['sequences']} x {first['length']} tokens of "
        f"`{first['calibration']}` calibrate, the same for all. Increase of the\nloss in nats per token on "
        f"{first['windows']} x 512 tokens of each kind of text, and on text of which nothing calibrates; where there\n"
        "are several seeds, their mean, smallest and largest."
    )
    return (
        f"{told}\n\n{markdown(['method', 'preset', 'mean', *(name.removesuffix('.txt') for name in names)], rows, 2)}"
    )


def by_ratio(model: str) -> str:
    """The mean over the kinds for each method, by how much goes, and what part of the best baseline's COMP's is."""
    ratios = sorted({row["settings"]["ratio"] for row in usual_rows(model)})
    found = {ratio: {name: _mean(rows) for name, rows in by_method(model, ratio).items()} for ratio in ratios}
    rows = []
    for name in dict.fromkeys(name for means in found.values() for name in means):
        cells = []
        for means in found.values():
            theirs = [mean for other, mean in means.items() if other[0] != "comp"]
            part = f" ({means[name] / min(theirs):.2f})" if name in means and name[0] == "comp" and theirs else ""
            cells.append(f"{means[name]:.3f}{part}" if name in means else "not measured")
        rows.append([*name, *cells])
    told = (
        f"{model} by how much of its decoder goes: mean over the kinds, and what part of the best baseline's COMP's is."
    )
    return f"{told}\n\n{markdown(['method', 'preset', *(f'{ratio:.0%}' for ratio in ratios)], rows, 2)}"


def tasks(model: str, ratio: float) -> str:
    """Accuracy in each offline task, their mean, and the cross-entropy over the choices; best first."""
    (dense,) = (row for row in read_json(HERE / "zero_shot.json") if (row["method"], row["model"]) == ("dense", model))
    found = [(("dense", "", ""), dense)]
    for row in every_row(model):
        if "tasks" in row and row["settings"]["ratio"] == ratio:
            words = row["settings"]["method"], preset(row["settings"]), f"{row['sequences']} of `{row['calibration']}`"
            found.append((words, row["tasks"]))
    found[1:] = sorted(found[1:], key=lambda item: -fmean(item[1]["accuracy"].values()))
    names, rows = list(dense["accuracy"]), []
    for words, answers in found:
        accuracy, errors = answers["accuracy"], answers["stderr"]
        cells = [f"{accuracy[name]:.3f} ({errors[name]:.3f})" for name in names]
        error = sum(each**2 for each in errors.values()) ** 0.5 / len(names)
        cells += [f"{fmean(accuracy.values()):.3f} ({error:.3f})", f"{fmean(answers['choice_loss'].values()):.2f}"]
        rows.append([*words, *cells])
    head = ["method", "preset", "calibrated on", *(name.removeprefix("comp_") for name in names)]
    told = (
        f"{model}, {ratio:.0%} gone, in the offline tasks: accuracy with its standard error, and the mean "
        "cross-entropy over the\nchoices in nats."
    )
    return f"{told}\n\n{markdown([*head, 'mean', 'cross-entropy'], rows, 3)}"


def headline(model: str) -> str:
    """Increase of the loss on each text, time and memory of each method, by the increase on the first text."""
    rows = [row for row in read_json(HERE / "headline.json") if row["model"] == model]
    rows = [row for row in rows if row["sequences"] == max(row["sequences"] for row in rows)]
    first = rows[0]
    texts = sorted(first["increases"], key=lambda text: not text.startswith(first["calibration"]))
    kinds = ["text of the same kind" if text.startswith(first["calibration"]) else "other text" for text in texts]
    lines = []
    for row in sorted(rows, key=lambda row: row["increases"][texts[0]]):
        increases = [f"{row['increases'][text]:.3f}" for text in texts]
        words = row["settings"]["method"], preset(row["settings"])
        lines.append([*words, *increases, f"{row['passes']:.1f}", f"{row['peak_megabytes']:.0f}"])
    told = (
        f"A fifth of {model}'s decoder goes; {first['sequences']} x {first['length']} tokens of "
        f"{first['calibration']} calibrate. Increase of the\nloss over the dense model in nats per token, on "
        f"{first['windows']} x 512 tokens; time in dense forward passes over the calibration\ntokens; peak memory "
        "above the imports."
    )
    return f"{told}\n\n{markdown(['method', 'preset', *kinds, 'passes', 'MiB'], lines, 2)}"


def baselines() -> str:
    """The largest grid, for the amount of text with most rows: the increase for each method and ratio."""
    rows = finished(pd.read_csv(HERE / "baselines" / ROWS))  # with the column `grid` of the code that wrote it
    rows = rows[rows.grid == rows.grid.mode()[0]]
    rows = rows[rows.sequences == rows.sequences.mode()[0]]
    first = rows.iloc[0]
    return (
        f"On the project's own texts: {first.sequences} x {first.length} tokens of `{first.calibration}` calibrate, "
        f"{first.windows} x {first.window} of\n`{first.evaluation}` judge; increase of the loss when that part goes, "
        f"in bold the\nsmallest mean, whether or not intervals overlap.\n\n{comparison(rows, 'increase')}"
    )


def tables() -> str:
    parts = []
    for model in (EMBEDDED, SECOND):
        scored = sorted({row["settings"]["ratio"] for row in every_row(model) if "tasks" in row})
        parts += [kinds(model), by_ratio(model), *(tasks(model, ratio) for ratio in scored), headline(model)]
    picture = "![Mean loss above the dense model by how much of the decoder goes, a panel for each model](ratios.png)"
    return "\n\n".join([*parts, picture, baselines()])


PAGES = {  # each with its marks, and what stands between them
    "README.md": ("the short table", short),
    "benchmarks/RESULTS.md": ("what README.md's table leaves out", footnotes),
    "docs/measured.md": ("the tables", tables),
    "docs/heal.md": ("what healing brings", healing),
}


def page(name: str) -> str:
    """The page as it should be."""
    what, text = PAGES[name]
    start, end = f"<!-- {what}, by benchmarks/readme.py -->", f"<!-- end of {what} -->"
    return between((ROOT / name).read_text("utf-8"), start, end, text())


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    for name in PAGES:
        (ROOT / name).write_text(page(name), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
