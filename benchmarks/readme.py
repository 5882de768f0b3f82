"""Put stored measurements into README.md, RESULTS.md and docs/heal.md: `python benchmarks/readme.py`

README.md gets a line for each model. RESULTS.md gets tables for each model, from kinds.json, and one each of
the tasks, of time and memory (headline.json) and of files (quantised.json). docs/heal.md gets the rows of
after.json. A test asks whether the files say so.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Callable, Collection, Iterator
from functools import partial
from math import exp, prod
from pathlib import Path
from statistics import fmean

import first_hour
import numpy as np
from after import healing
from common import HERE, ROOT, between, markdown, preset, read_json
from serving import serving

from comp_lib.calibration.mixtures import MIXTURES
from comp_lib.checkpoints.load import open_model
from comp_lib.checkpoints.wheels import INCLUDED_MODEL
from comp_lib.evaluation.confidence import confidence_interval, confidence_intervals
from comp_lib.evaluation.zero_shot import SETS
from comp_lib.pruning.settings import USUAL_PRESET

SECOND = "gemma3-270m"
MODELS = (INCLUDED_MODEL, SECOND, "qwen-coder-0.5b", "qwen-coder-1.5b")
WITH_MORE_TEXT = ("best", "tailored")  # presets whose rows with more text than usual are shown
SETUP = ("calibration", "sequences", "length", "windows")
UNSEEN = "wikitext2-valid.txt"  # of which nothing calibrates
NAMES = {  # of README.md's bars
    ("comp", "tailored"): "COMP",
    ("llm-pruner", ""): "LLM-Pruner",
    ("flap", ""): "FLAP",
}
COLUMNS = {  # of README.md's table
    ("comp", "tailored"): "COMP, the default",
    ("comp", "stock"): "COMP `stock`",
    ("comp", "best"): "COMP `best`",
    ("llm-pruner", ""): "LLM-Pruner",
    ("flap", ""): "FLAP",
    ("llm-pruner", "our refit"): "LLM-Pruner, our refit",
}
BASELINES = {
    "llm-pruner": "LLM-Pruner",
    "flap": "FLAP",
    "wanda-sp": "Wanda-sp",
    "slimgpt": "SlimGPT's widths",
    "energy": "Energy",
}
OURS = " with our refit"
DEFAULT = f"COMP `{USUAL_PRESET}`"
METHODS_IN_TABLE = 14  # at most
LINE = 120  # columns of a line of prose
FEEDINGS = {  # column -> variant of starvation.json
    "as it is": "price, refit",
    "choice fed": "price of all, refit",
    "refit fed": "price, refit of all",
    "both fed": "price of all, refit of all",
    "by energy": "energy, refit",
    "no refit": "price, no refit",
}
RowsByMethod = dict[tuple[str, str], list[dict]]
"""(method, preset) -> its rows, one for each seed."""
RowsByRatio = dict[str, dict[float, list[dict]]]
"""Label of a method -> ratio -> its rows, one for each seed."""


def every_row(model: str) -> list[dict]:
    """The rows of that model by kind of text, with no search, and no layers that a person chose."""
    rows = [row for row in read_json(HERE / "kinds.json") if row["model"] == model and "search" not in row]
    return [
        row for row in rows if row["settings"]["drop_layers"] == "auto" or preset(row["settings"]) == "paper"
    ]


def usual_rows(model: str) -> list[dict]:
    """Those of `every_row` that saw the mixture that ships, and so much of it, as most of them did."""
    rows = [row for row in every_row(model) if row["calibration"] in MIXTURES]
    setups = [tuple(row[name] for name in SETUP) for row in rows]
    usual = max(setups, key=setups.count, default=())  # the first of those that occur most often
    return [row for row, setup in zip(rows, setups, strict=True) if setup == usual]


def by_method(model: str = INCLUDED_MODEL, ratio: float = 0.2) -> RowsByMethod:
    """The usual rows of that model at that ratio, the least loss first."""
    groups: RowsByMethod = {}
    for row in usual_rows(model):
        if row["settings"]["ratio"] == ratio:
            groups.setdefault((row["settings"]["method"], preset(row["settings"])), []).append(row)
    return dict(sorted(groups.items(), key=lambda item: mean_of(item[1])))


def mean_of(rows: list[dict]) -> float:
    return fmean(row["mean"] for row in rows)


def half_width(rows: list[dict]) -> float:
    """Half of the 95% interval of the mean; the mean of it over seeds, which judge on the same windows."""
    return fmean((row["interval"][1] - row["interval"][0]) / 2 for row in rows)


def prose(text: str) -> str:
    """`text` in lines of at most LINE columns, which break between words."""
    return textwrap.fill(text, LINE, break_long_words=False, break_on_hyphens=False)


def short() -> str:
    """What COMP and baselines lose at a fifth gone, a line for each model."""
    table = []
    for model in MODELS:
        groups = by_method(model)
        if groups:
            cells = [f"{mean_of(groups[name]):.2f}" if name in groups else "-" for name in COLUMNS]
            table.append([model, *cells])
    loss = mean_of(by_method()["comp", USUAL_PRESET])
    introduction = (
        "Loss added where a fifth of the decoder goes, in nats per token; "
        f"{loss:.2f} nats multiply the perplexity by {exp(loss):.1f}."
    )
    return f"{introduction}\n\n{markdown(['', *COLUMNS.values()], table)}"


def before_and_after() -> str:
    """Size and perplexity of the included model and of what COMP and LLM-Pruner leave, a fifth gone."""
    _, files, _ = open_model(INCLUDED_MODEL)
    shapes = files.shapes
    parameters = sum(map(prod, shapes.values()))
    in_decoder = sum(prod(shape) for name, shape in shapes.items() if ".layers." in name)
    table = [["as it comes", f"{2 * parameters / 1e6:.0f} MB", "x 1"]]
    groups = by_method()
    labels = {("comp", USUAL_PRESET): "by COMP, the default", ("llm-pruner", ""): "by LLM-Pruner"}
    for name, label in labels.items():
        rows = groups[name]
        left = parameters - fmean(row["removed"] for row in rows) * in_decoder
        low, high = (exp(mean_of(rows) + sign * half_width(rows)) for sign in (-1, 1))
        factor = f"x {exp(mean_of(rows)):.2f} ({low:.2f} to {high:.2f})"
        table.append([label, f"{2 * left / 1e6:.0f} MB", factor])
    head = [f"{INCLUDED_MODEL}, a fifth of its decoder removed", "weights in bfloat16", "perplexity"]
    return markdown(head, table)


def label_of(settings: dict) -> str:
    """A method in words, with what is not as usual."""
    kind = preset(settings)
    if settings["method"] != "comp":
        name = BASELINES.get(settings["method"], settings["method"])
        return name + OURS if kind else name
    name, *details = kind.split(", ")
    label = "COMP with LLM-Pruner's widths" if name == "spared" else f"COMP `{name}`"
    return label + ", other target" if details else label


def losses(model: str) -> str:
    """What each method loses by how much goes, and COMP and the best baseline on each kind of text."""
    usual = [row for row in usual_rows(model) if "ridge" not in preset(row["settings"])]
    if not usual:
        return "No rows are stored yet."
    reference = usual[0]
    groups: RowsByRatio = {}
    for row in usual:
        add_row(groups, label_of(row["settings"]), row)
    for row in every_row(model):
        same_text = row["calibration"] == reference["calibration"]
        longer = row["sequences"] > reference["sequences"]
        if preset(row["settings"]) in WITH_MORE_TEXT and same_text and longer:
            add_row(groups, f"{label_of(row['settings'])}, {row['sequences']} sequences", row)
    ratios = sorted({row["settings"]["ratio"] for row in usual})
    main_ratio = 0.2 if 0.2 in ratios else ratios[0]
    at_main_ratio = {label: rows[main_ratio] for label, rows in groups.items() if main_ratio in rows}
    order = sorted(at_main_ratio, key=lambda label: mean_of(at_main_ratio[label]))
    table = []
    for label in order[:METHODS_IN_TABLE]:
        rows = at_main_ratio[label]
        cells = [loss(groups[label].get(ratio, [])) for ratio in ratios]
        table.append([label, str(len(rows)), *cells, unseen_loss(rows)])
    head = [
        "",
        f"seeds at {main_ratio:.0%}",
        *(f"{ratio:.0%}" for ratio in ratios),
        f"WikiText, {main_ratio:.0%}",
    ]
    introduction = (
        f"{reference['sequences']} x {reference['length']} tokens of `{reference['calibration']}` calibrate, "
        f"{reference['windows']} windows of each kind judge."
    )
    kinds = by_kind({label: at_main_ratio[label] for label in order})
    paragraphs = [introduction, markdown(head, table), prose(overlaps(groups)), prose(kinds)]
    return "\n\n".join(filter(None, paragraphs))


def add_row(groups: RowsByRatio, label: str, row: dict) -> None:
    groups.setdefault(label, {}).setdefault(row["settings"]["ratio"], []).append(row)


def loss(rows: list[dict]) -> str:
    """Mean over the kinds with its interval."""
    if not rows:
        return "-"
    return f"{mean_of(rows):.3f} ± {half_width(rows):.3f}"


def unseen_loss(rows: list[dict]) -> str:
    """Mean over the rows that were judged on UNSEEN."""
    increases = [row["increases"][UNSEEN][0] for row in rows if UNSEEN in row["increases"]]
    return f"{fmean(increases):.2f}" if increases else "-"


def baselines_of(labels: Collection[str]) -> list[str]:
    return [label for label in labels if not label.startswith("COMP")]


def overlaps(groups: RowsByRatio) -> str:
    """The baselines whose interval reaches that of the default, by how much goes."""
    baselines = baselines_of(groups)
    parts = []
    for ratio, rows in sorted(groups.get(DEFAULT, {}).items()):
        alike = [name for name in baselines if ratio in groups[name] and overlap(rows, groups[name][ratio])]
        if alike:
            parts.append(f"{listed(alike)} at {ratio:.0%}")
    if parts:
        return f"Intervals do not separate `{USUAL_PRESET}` from {'; '.join(parts)}."
    return f"Intervals separate `{USUAL_PRESET}` from all baselines." if baselines else ""


def overlap(rows: list[dict], rival_rows: list[dict]) -> bool:
    """Whether the intervals of two methods meet."""
    return abs(mean_of(rows) - mean_of(rival_rows)) <= half_width(rows) + half_width(rival_rows)


def listed(labels: list[str]) -> str:
    """The baselines as they are, then those with our refit."""
    plain = [label for label in labels if not label.endswith(OURS)]
    refitted = [label.removesuffix(OURS) for label in labels if label.endswith(OURS)]
    parts = []
    if plain:
        parts.append(", ".join(plain))
    if refitted:
        parts.append(f"{', '.join(refitted)} ({OURS.strip()})")
    return "; ".join(parts)


def by_kind(rows: dict[str, list[dict]]) -> str:
    """The default and the best baseline without our refit by kind of text; `rows` by label, in order."""
    plain = [label for label in baselines_of(rows) if not label.endswith(OURS)]
    labels = [label for label in (DEFAULT, *plain[:1]) if label in rows]
    if not labels:
        return ""
    parts = []
    for kind in rows[labels[0]][0]["increases"]:
        if kind != UNSEEN:
            means = [fmean(row["increases"][kind][0] for row in rows[label]) for label in labels]
            parts.append(f"{kind} {', '.join(f'{mean:.2f}' for mean in means)}")
    return f"{' and '.join(labels)} by kind: {'; '.join(parts)}."


def starving() -> str:
    """Mean error of a layer, in percent of its output, by the text that the choice and the refit saw."""
    stored = read_json(HERE / "starvation.json")
    table = []
    for model in dict.fromkeys(row["model"] for row in stored):
        rows = [row for row in stored if row["model"] == model]
        for amount in sorted({row["tokens_per_neuron"] for row in rows}):
            layers = [row["errors"] for row in rows if row["tokens_per_neuron"] == amount]
            percent = [100 * fmean(fmean(errors[name]) for errors in layers) for name in FEEDINGS.values()]
            table.append([model, str(amount), *(f"{value:.1f}" for value in percent)])
    return markdown(["", "tokens a neuron", *FEEDINGS], table)


def tasks() -> str:
    """Accuracy in the four offline tasks, and cross-entropy, by model and how much goes."""
    dense = {row["model"]: row for row in read_json(HERE / "zero_shot.json")}
    columns: dict[str, dict[str, tuple[float, float]]] = {}
    errors = []
    for model in MODELS:
        for row in every_row(model):
            if "tasks" not in row:
                continue
            title = f"{model}, {row['settings']['ratio']:.0%}"
            column = columns.setdefault(title, {"dense": marks(dense[model])})
            label = label_of(row["settings"])
            scores = marks(row["tasks"])
            column[label] = max(scores, column.get(label, scores))
            squares = [error**2 for error in row["tasks"]["stderr"].values()]
            errors.append(sum(squares) ** 0.5 / len(SETS["offline"]))
    labels = {label for column in columns.values() for label in column}
    table = []
    for label in sorted(labels, key=lambda label: (label != "dense", not label.startswith("COMP"), label)):
        cells = []
        for column in columns.values():
            cells.append("{:.3f}, {:.2f}".format(*column[label]) if label in column else "-")
        table.append([label, *cells])
    return f"Standard errors are at most {max(errors):.3f}.\n\n{markdown(['', *columns], table)}"


def marks(answers: dict) -> tuple[float, float]:
    """Mean over the tasks: of the accuracy, and of the cross-entropy over the choices in nats."""
    return fmean(answers["accuracy"].values()), fmean(answers["choice_loss"].values())


def cost() -> str:
    """Time and memory with the longest calibration text of each model, and the loss on other prose."""
    stored = read_json(HERE / "headline.json")
    models = list(dict.fromkeys(row["model"] for row in stored))
    cells: dict[str, list[str]] = {}
    on_other_prose: dict[str, float] = {}
    for column, model in enumerate(models):
        rows = [row for row in stored if row["model"] == model]
        sequences = max(row["sequences"] for row in rows)
        longest = [row for row in rows if row["sequences"] == sequences]
        for row in sorted(longest, key=lambda row: row["passes"]):
            label = label_of(row["settings"])
            line = cells.setdefault(label, ["-"] * len(models))
            line[column] = f"{row['passes']:.1f}; {row['peak_megabytes']:,.0f}"
            if model == INCLUDED_MODEL:
                on_other_prose[label] = row["increases"]["evaluation"]
    table = markdown(["", *models], [[label, *line] for label, line in cells.items()])
    losses_there = "; ".join(f"{label} {increase:.2f}" for label, increase in on_other_prose.items())
    return f"{table}\n\n" + prose(f"Loss of {INCLUDED_MODEL} on other prose: {losses_there}.")


def candidates() -> str:
    """What each candidate for the default widths loses, and its distance from `estimated` in pairs."""
    rows = read_json(HERE / "widths.json")
    by_candidate: dict[str, dict[str, dict]] = {}
    for row in rows:
        by_candidate.setdefault(row["candidate"], {})[row["model"]] = row
    models = [model for model in MODELS if model in by_candidate["estimated"]]
    table = [
        [
            f"`{candidate}`",
            *(compared(row_of.get(model), by_candidate["estimated"][model]) for model in models),
        ]
        for candidate, row_of in by_candidate.items()
    ]
    times = [by_candidate["estimated"][model]["planning_passes"] for model in models]
    passes = ["not timed" if time is None else f"{time:.2f}" for time in times]
    table.append(["dense passes to estimate", *passes])
    return markdown(["", *models], table)


def compared(row: dict | None, estimated: dict) -> str:
    """The loss of a row, and its distance from the row `estimated` of the same model and windows."""
    if row is None:
        return "-"
    increases = np.array(row["increases"])
    loss_added = f"{increases.mean():.3f}"
    if row is estimated:
        return loss_added
    distances = (increases - np.array(estimated["increases"])).reshape(8, -1)  # of each kind of text
    low, high = confidence_intervals(*(of_kind[None] for of_kind in distances))[0]
    return f"{loss_added}; {distances.mean():+.3f} ± {(high - low) / 2:.3f}"


def stored_in(name: str) -> Path:
    """The file with the rows of that model's files."""
    return HERE / ("quantised.json" if name == INCLUDED_MODEL else f"quantised-{name}.json")


def files() -> str:
    """Size of the weights and loss of pruned and quantised models, with paired 95% intervals."""
    models = {name: rows for name in MODELS if (rows := read_json(stored_in(name)))}
    cells: dict[str, list[str]] = {}
    for column, rows in enumerate(models.values()):
        (dense,) = (np.array(row["losses"]) for row in rows if row["type"] == "f32")
        for row in sorted(quantised_files(rows), key=lambda row: row["bytes"]):
            gap = np.array(row["losses"]) - dense
            low, high = confidence_interval(gap)
            pruned = f"{row['ratio']:.0%} pruned, " if row["ratio"] else ""
            line = cells.setdefault(f"{pruned}{row['type']}", ["-"] * len(models))
            line[column] = f"{row['bytes'] / 1e6:,.0f}; {gap.mean():.3f} ± {(high - low) / 2:.3f}"
    return markdown(["", *models], [[name, *line] for name, line in cells.items()])


def quantised_files(rows: list[dict]) -> Iterator[dict]:
    """Those that are dense or pruned by a fifth."""
    for row in rows:
        if row["type"] not in ("shipped", "f32") and row["ratio"] in (0.0, 0.2):
            yield row


PAGES: dict[str, dict[str, Callable[[], str]]] = {  # page -> its marks, and what stands between them
    "README.md": {"before and after": before_and_after, "the short table": short},
    "benchmarks/RESULTS.md": {model: partial(losses, model) for model in MODELS}
    | {"what starves": starving, "the tasks": tasks, "time and memory": cost, "the files": files}
    | {"the candidates": candidates, "the runtimes": serving, "the first hour": first_hour.stored_table},
    "docs/heal.md": {"what healing brings": healing},
}


def page(name: str) -> str:
    """The page as it should be."""
    text = (ROOT / name).read_text("utf-8")
    for mark, content in PAGES[name].items():
        start = f"<!-- {mark}, by benchmarks/readme.py -->"
        text = between(text, start, f"<!-- end of {mark} -->", content())
    return text


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    for name in PAGES:
        (ROOT / name).write_text(page(name), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
