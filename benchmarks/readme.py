"""Put stored measurements into README.md, RESULTS.md and docs/heal.md: `python benchmarks/readme.py`

README.md gets a line for each model. RESULTS.md gets tables for each model, from kinds.json, and one each of the
tasks, of time and memory (headline.json) and of files (quantised.json). docs/heal.md gets the rows of after.json. A
test asks whether the files say so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from math import exp
from pathlib import Path
from statistics import fmean

import numpy as np
from after import healing
from common import HERE, ROOT, between, markdown, preset, read_json

from comp_lib.calibration.tokens import MIXTURES
from comp_lib.evaluation.confidence import confidence_interval
from comp_lib.evaluation.zero_shot import SETS
from comp_lib.models.load import EMBEDDED

SECOND = "gemma3-270m"
MODELS = (EMBEDDED, SECOND, "qwen-coder-0.5b", "qwen-coder-1.5b")
SETUP = ("calibration", "sequences", "length", "windows")
UNSEEN = "wikitext2-valid.txt"  # of which nothing calibrates
NAMES = {
    ("comp", "stock"): "COMP",
    ("llm-pruner", ""): "LLM-Pruner",
    ("flap", ""): "FLAP",
}  # of README.md's bars
COLUMNS = {  # of README.md's table
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
MOST = 14  # methods in a table
FED = {  # column -> variant of starvation.json
    "as it is": "price, refit",
    "choice fed": "price of all, refit",
    "refit fed": "price, refit of all",
    "both fed": "price of all, refit of all",
    "by energy": "energy, refit",
    "no refit": "price, no refit",
}
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
    usual = max(setups, key=setups.count, default=())  # the first of those that occur most often
    return [row for row, setup in zip(rows, setups, strict=True) if setup == usual]


def by_method(model: str = EMBEDDED, ratio: float = 0.2) -> Found:
    """The usual rows of that model at that ratio, least first."""
    found: Found = {}
    for row in usual_rows(model):
        if row["settings"]["ratio"] == ratio:
            found.setdefault((row["settings"]["method"], preset(row["settings"])), []).append(row)
    return dict(sorted(found.items(), key=lambda item: mean_of(item[1])))


def mean_of(rows: list[dict]) -> float:
    return fmean(row["mean"] for row in rows)


def half_width(rows: list[dict]) -> float:
    """Half of the 95% interval of the mean; of several seeds the middle of theirs: they judge on the same windows."""
    return fmean((row["interval"][1] - row["interval"][0]) / 2 for row in rows)


def short() -> str:
    """What COMP and baselines lose at a fifth gone, a line for each model."""
    table = []
    for model in MODELS:
        if found := by_method(model):
            own = [found.get(name) for name in COLUMNS]
            table.append([model, *(f"{mean_of(rows):.2f}" if rows else "-" for rows in own)])
    loss = mean_of(by_method()["comp", "stock"])
    told = "Loss added where a fifth of the decoder goes, in nats per token; "
    told += f"{loss:.2f} nats multiply the perplexity by {exp(loss):.1f}."
    return f"{told}\n\n{markdown(['', *COLUMNS.values()], table)}"


def called(settings: dict) -> str:
    """A method in words, with what is not as usual."""
    kind = preset(settings)
    if settings["method"] != "comp":
        return BASELINES.get(settings["method"], settings["method"]) + OURS * bool(kind)
    name, *others = kind.split(", ")
    words = "COMP with LLM-Pruner's widths" if name == "spared" else f"COMP `{name}`"
    return words + ", other target" * bool(others)


def losses(model: str) -> str:
    """What each method loses by how much goes, and COMP and the best baseline on each kind of text."""
    usual = [row for row in usual_rows(model) if "ridge" not in preset(row["settings"])]
    if not usual:
        return "No rows are stored yet."
    first = usual[0]
    more = [
        row
        for row in every_row(model)
        if preset(row["settings"]) == "best"
        and row["calibration"] == first["calibration"]
        and row["sequences"] > first["sequences"]
    ]
    found: dict[str, dict[float, list[dict]]] = {}
    for row in usual + more:
        name = called(row["settings"]) + f", {row['sequences']} sequences" * (row in more)
        found.setdefault(name, {}).setdefault(row["settings"]["ratio"], []).append(row)
    ratios = sorted({row["settings"]["ratio"] for row in usual})
    usually = 0.2 if 0.2 in ratios else ratios[0]
    order = sorted(
        (name for name in found if usually in found[name]), key=lambda name: mean_of(found[name][usually])
    )
    table = []
    for name in order[:MOST]:
        rows = found[name][usually]
        cells = [loss(found[name].get(ratio, [])) for ratio in ratios]
        unseen = [row["increases"][UNSEEN][0] for row in rows if UNSEEN in row["increases"]]
        table.append([name, str(len(rows)), *cells, f"{fmean(unseen):.2f}" if unseen else "-"])
    head = ["", f"seeds at {usually:.0%}", *(f"{ratio:.0%}" for ratio in ratios), f"WikiText, {usually:.0%}"]
    told = (
        f"{first['sequences']} x {first['length']} tokens of `{first['calibration']}` calibrate, "
        f"{first['windows']} windows of each kind judge."
    )
    ends = overlaps(found), by_kind({name: found[name][usually] for name in order})
    return "\n\n".join(filter(None, (told, markdown(head, table), *ends)))


def loss(rows: list[dict]) -> str:
    """Mean over the kinds with its interval."""
    if not rows:
        return "-"
    return f"{mean_of(rows):.3f} ± {half_width(rows):.3f}"


def overlaps(found: dict[str, dict[float, list[dict]]]) -> str:
    """The baselines whose interval reaches that of `stock`, by how much goes."""
    parts, baselines = [], [name for name in found if not name.startswith("COMP")]
    for ratio, rows in sorted(found.get("COMP `stock`", {}).items()):
        others = {name: found[name][ratio] for name in baselines if ratio in found[name]}
        reach = {name: half_width(rows) + half_width(own) for name, own in others.items()}
        alike = [name for name, own in others.items() if abs(mean_of(rows) - mean_of(own)) <= reach[name]]
        plain = ", ".join(name for name in alike if not name.endswith(OURS))
        refitted = ", ".join(name.removesuffix(OURS) for name in alike if name.endswith(OURS))
        words = "; ".join(filter(None, (plain, f"{refitted} ({OURS.strip()})" * bool(refitted))))
        parts += [f"{words} at {ratio:.0%}"] * bool(alike)
    if not parts:
        return "Intervals separate `stock` from all baselines." * bool(baselines)
    return f"Intervals do not separate `stock` from {'; '.join(parts)}."


def by_kind(found: dict[str, list[dict]]) -> str:
    """`stock` and the best baseline without our refit on each kind of text; found: least loss first."""
    baselines = [name for name in found if not name.startswith("COMP") and not name.endswith(OURS)]
    names = [name for name in ("COMP `stock`", *baselines[:1]) if name in found]
    kinds = [kind for kind in found[names[0]][0]["increases"] if kind != UNSEEN] if names else []
    cells = (
        [f"{fmean(row['increases'][kind][0] for row in found[name]):.2f}" for name in names] for kind in kinds
    )
    each = (f"{kind} {', '.join(own)}" for kind, own in zip(kinds, cells, strict=True))
    return f"{' and '.join(names)} by kind: {'; '.join(each)}."


def starving() -> str:
    """Error of a layer by what the choice and the refit have seen, in percent of its output, mean over layers."""
    stored, table = read_json(HERE / "starvation.json"), []
    for model in dict.fromkeys(row["model"] for row in stored):
        rows = [row for row in stored if row["model"] == model]
        for amount in sorted({row["tokens_per_neuron"] for row in rows}):
            same = [row["errors"] for row in rows if row["tokens_per_neuron"] == amount]
            means = {name: 100 * fmean(fmean(errors[name]) for errors in same) for name in FED.values()}
            table.append([model, str(amount), *(f"{value:.1f}" for value in means.values())])
    return markdown(["", "tokens a neuron", *FED], table)


def tasks() -> str:
    """Accuracy in the four offline tasks, and cross-entropy, by model and how much goes."""
    dense = {row["model"]: row for row in read_json(HERE / "zero_shot.json")}
    columns: dict[str, dict[str, tuple[float, float]]] = {}
    errors = []
    for model in MODELS:
        for row in (row for row in every_row(model) if "tasks" in row):
            column = columns.setdefault(
                f"{model}, {row['settings']['ratio']:.0%}", {"dense": marks(dense[model])}
            )
            name, own = called(row["settings"]), marks(row["tasks"])
            column[name] = max(own, column.get(name, own))
            errors.append(
                sum(each**2 for each in row["tasks"]["stderr"].values()) ** 0.5 / len(SETS["offline"])
            )
    found = {name for column in columns.values() for name in column}
    names = sorted(found, key=lambda name: (name != "dense", not name.startswith("COMP"), name))
    cells = {name: [column.get(name) for column in columns.values()] for name in names}
    rows = [
        [name, *("{:.3f}, {:.2f}".format(*each) if each else "-" for each in own)]
        for name, own in cells.items()
    ]
    return f"Standard errors are at most {max(errors):.3f}.\n\n{markdown(['', *columns], rows)}"


def marks(answers: dict) -> tuple[float, float]:
    """Mean over the tasks: of the accuracy, and of the cross-entropy over the choices in nats."""
    return fmean(answers["accuracy"].values()), fmean(answers["choice_loss"].values())


def cost() -> str:
    """Time and memory where most text calibrates, and the loss on another kind of text."""
    stored = read_json(HERE / "headline.json")
    models = dict.fromkeys(row["model"] for row in stored)
    cells: dict[str, list[str]] = {}
    others = {}
    for number, model in enumerate(models):
        rows = [row for row in stored if row["model"] == model]
        most = max(row["sequences"] for row in rows)
        for row in sorted((row for row in rows if row["sequences"] == most), key=lambda row: row["passes"]):
            own = cells.setdefault(called(row["settings"]), ["-"] * len(models))
            own[number] = f"{row['passes']:.1f}; {row['peak_megabytes']:,.0f}"
            others[model, called(row["settings"])] = row["increases"]["evaluation"]
    told = "; ".join(f"{name} {lost:.2f}" for (model, name), lost in others.items() if model == EMBEDDED)
    table = markdown(["", *models], [[name, *own] for name, own in cells.items()])
    return f"{table}\n\nLoss of {EMBEDDED} on other prose: {told}."


def stored_in(name: str) -> Path:
    """The file with the rows of that model's files."""
    return HERE / ("quantised.json" if name == EMBEDDED else f"quantised-{name}.json")


def files() -> str:
    """Size of the weights and loss of pruned and quantised models, with paired 95% intervals; least first."""
    models = {name: found for name in MODELS if (found := read_json(stored_in(name)))}
    cells: dict[str, list[str]] = {}
    for number, found in enumerate(models.values()):
        rows = [row | {"losses": np.array(row["losses"])} for row in found]
        (dense,) = (row["losses"] for row in rows if row["type"] == "f32")
        own_files = (
            row for row in rows if row["type"] not in ("shipped", "f32") and row["ratio"] in (0.0, 0.2)
        )
        for row in sorted(own_files, key=lambda row: row["bytes"]):
            gap = row["losses"] - dense
            low, high = confidence_interval(gap)
            pruned = f"{row['ratio']:.0%} pruned, " * bool(row["ratio"])
            own = cells.setdefault(f"{pruned}{row['type']}", ["-"] * len(models))
            own[number] = f"{row['bytes'] / 1e6:,.0f}; {gap.mean():.3f} ± {(high - low) / 2:.3f}"
    return markdown(["", *models], [[name, *own] for name, own in cells.items()])


PAGES: dict[str, dict[str, Callable[[], str]]] = {  # page -> its marks, and what stands between them
    "README.md": {"the short table": short},
    "benchmarks/RESULTS.md": {model: partial(losses, model) for model in MODELS}
    | {"what starves": starving, "the tasks": tasks, "time and memory": cost, "the files": files},
    "docs/heal.md": {"what healing brings": healing},
}


def page(name: str) -> str:
    """The page as it should be."""
    text = (ROOT / name).read_text("utf-8")
    for what, made in PAGES[name].items():
        text = between(text, f"<!-- {what}, by benchmarks/readme.py -->", f"<!-- end of {what} -->", made())
    return text


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    for name in PAGES:
        (ROOT / name).write_text(page(name), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
