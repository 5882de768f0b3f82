"""Put stored measurements, and what each family can, into README.md and docs/: `python benchmarks/readme.py`

README.md gets one line for each method, docs/measured.md the tables. The first two: benchmarks/kinds.json, calibrated
on what ships, the loss on every kind of text and the answers in the tasks, for each of two models; the dense model's
answers are in benchmarks/zero_shot.json. The next: benchmarks/headline.json, a row for each call of headline.py or
others.py, for each model those with most calibration sequences. The last: benchmarks/peers/rows.csv, which
`comp-lib compare` wrote, the largest grid, with the amount of text for which it has most rows. docs/heal.md gets the
rows of benchmarks/after.json. A test asks whether the files say so.
"""

from __future__ import annotations

import json
import sys
from math import exp
from pathlib import Path
from statistics import fmean

import pandas as pd

from comp_lib.calibration.general import MIXTURES
from comp_lib.calibration.text import KINDS as EACH_KIND
from comp_lib.compare.grid import ROWS, read_rows
from comp_lib.compare.summary import comparison, finished
from comp_lib.families import FAMILIES
from comp_lib.models.load import EMBEDDED
from comp_lib.settings import PRESETS

ROOT = Path(__file__).parents[1]
KINDS = ROOT / "benchmarks" / "kinds.json"
HEADLINE, PEERS = ROOT / "benchmarks" / "headline.json", ROOT / "benchmarks" / "peers"
TASKS = ROOT / "benchmarks" / "zero_shot.json"
AFTER = ROOT / "benchmarks" / "after.json"
SECOND = "gemma3-270m"
SETUP = ("calibration", "sequences", "length", "windows")
MULTIPLES = "widths are multiples of {0} (`--multiple {0}`)"
UNSEEN = "wikitext2-valid.txt"  # of which nothing calibrates
OWN_WIDTHS = ("flap", "llm-pruner", "llm-pruner-mixed", "shortgpt")  # whatever the settings say
FAMILIES_START, FAMILIES_END = "<!-- families, by benchmarks/readme.py -->", "<!-- end of the families -->"
SHORT_START, SHORT_END = "<!-- the short table, by benchmarks/readme.py -->", "<!-- end of the short table -->"
HEALING_START, HEALING_END = (
    "<!-- what healing brings, by benchmarks/readme.py -->",
    "<!-- end of what healing brings -->",
)
START, END = "<!-- tables written by benchmarks/readme.py -->", "<!-- end of the tables -->"


def every_row(model: str) -> list[dict]:
    """The rows of that model by kind of text, with no search, and no layers that a person chose."""
    rows = [row for row in json.loads(KINDS.read_text("utf-8")) if row["model"] == model and "search" not in row]
    return [row for row in rows if row["settings"]["layers"] == "auto" or preset(row["settings"]) == "paper"]


def plain_rows(model: str) -> list[dict]:
    """Those of `every_row` that saw a mixture that ships."""
    return [row for row in every_row(model) if row["calibration"] in MIXTURES]


def usual_rows(model: str) -> list[dict]:
    """Those of `plain_rows` that saw the text which most of them saw."""
    rows = plain_rows(model)
    setups = [tuple(row[name] for name in SETUP) for row in rows]
    usual = max(setups, key=setups.count)  # the first of those that occur most often
    return [row for row, setup in zip(rows, setups, strict=True) if setup == usual]


def by_method(
    model: str = EMBEDDED, ratio: float = 0.2, rows: list[dict] | None = None
) -> dict[tuple[str, str], list[dict]]:
    """(method, widths) -> its rows of that model at that ratio, one for each seed; least first. rows: not the usual."""
    rows = [row for row in rows or usual_rows(model) if row["settings"]["ratio"] == ratio]
    found: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        found.setdefault((row["settings"]["method"], widths(row["settings"])), []).append(row)
    return dict(sorted(found.items(), key=lambda item: fmean(row["mean"] for row in item[1])))


def kinds(model: str) -> str:
    """Increase of the loss on each kind of text, and the mean, for each method that saw a mixture that ships."""
    found = by_method(model)
    first = next(iter(found.values()))[0]
    names, seeds = list(first["increases"]), sorted({len(rows) for rows in found.values()})
    several = f"means of {' or '.join(map(str, seeds))} seeds, with the smallest and the largest"
    spread = "one seed" if seeds == [1] else several
    lines = [
        f"A fifth of {model}'s decoder goes; {first['sequences']} x {first['length']} tokens of "
        f"`{first['calibration']}` calibrate, the same for all;\n{MULTIPLES.format(first['settings']['multiple'])}. "
        f"Increase of the loss in nats per token on {first['windows']} x 512 tokens of each kind\nof text, and on text "
        f"of which nothing calibrates; {spread}.",
        "",
        f"| method | widths | mean | {' | '.join(name.removesuffix('.txt') for name in names)} |",
        f"|---|---|{'---:|' * (len(names) + 1)}",
    ]
    means = {}
    for (method, width), rows in found.items():
        increases = " | ".join(f"{fmean(row['increases'][name][0] for row in rows):.2f}" for name in names)
        values = [row["mean"] for row in rows]
        means[method, width] = fmean(values)
        span = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
        lines.append(f"| {method} | {width} | {fmean(values):.3f}{span} | {increases} |")
    peer = min((name for name in means if name[0] != "comp"), key=means.__getitem__)
    ours = ", ".join(f"{means[name] / means[peer]:.2f} ({name[1]})" for name in means if name[0] == "comp")
    lines.append(f"\nOf the increase of the best peer, {peer[0]}, COMP's mean is {ours}.")
    return "\n".join(lines)


def by_ratio(model: str) -> str:
    """The mean over the kinds for each method, by how much goes, and what part of the best peer's that of COMP is."""
    ratios = sorted({row["settings"]["ratio"] for row in usual_rows(model)})
    found = {
        ratio: {name: fmean(row["mean"] for row in rows) for name, rows in by_method(model, ratio).items()}
        for ratio in ratios
    }
    peers = {ratio: [mean for name, mean in means.items() if name[0] != "comp"] for ratio, means in found.items()}
    lines = [
        f"{model} by how much of its decoder goes, the same text: mean over the kinds; in brackets, COMP's part "
        "of the\nbest peer's increase.",
        "",
        f"| method | widths | {' | '.join(f'{ratio:.0%}' for ratio in ratios)} |",
        f"|---|---|{'---:|' * len(ratios)}",
    ]
    for name in dict.fromkeys(name for means in found.values() for name in means):
        cells = []
        for ratio in ratios:
            mean = found[ratio].get(name)
            part = f" ({mean / min(peers[ratio]):.2f})" if mean and name[0] == "comp" and peers[ratio] else ""
            cells.append("not measured" if mean is None else f"{mean:.3f}{part}")
        lines.append(f"| {' | '.join((*name, *cells))} |")
    return "\n".join(lines)


def more_text(model: str, ratio: float = 0.2) -> dict[tuple[str, str], list[dict]]:
    """`by_method` of the rows that saw more of the usual text than most."""
    usual = usual_rows(model)[0]
    alike = [row for row in plain_rows(model) if all(row[name] == usual[name] for name in SETUP if name != "sequences")]
    most = max(row["sequences"] for row in alike)
    rows = [row for row in alike if row["sequences"] == most > usual["sequences"]]
    return by_method(model, ratio, rows) if rows else {}


def by_text(model: str) -> str:
    """What more calibration text does for each method, where that was measured: mean over the kinds, by ratio."""
    lines = list[str]()
    for ratio in sorted({row["settings"]["ratio"] for row in plain_rows(model)}):
        usual, more = by_method(model, ratio), more_text(model, ratio)
        if more and not lines:
            few, many = (next(iter(found.values()))[0]["sequences"] for found in (usual, more))
            lines = [
                f"{model} by how much text calibrates, {few} or {many} sequences: mean over the kinds, with the number "
                f"of seeds\nbehind it, and {UNSEEN.removesuffix('.txt')}.",
                "",
                f"| gone | method | widths | kinds, {few} | kinds, {many} | unseen text, {few} | unseen text, {many} |",
                "|---:|---|---|---:|---:|---:|---:|",
            ]
        for name, found in more.items():
            both = (usual.get(name, []), found)
            kinds_cells = [f"{_mean([row['mean'] for row in rows])} ({len(rows)})" for rows in both]
            unseen = [_mean([row["increases"][UNSEEN][0] for row in rows]) for rows in both]
            lines.append(f"| {' | '.join((f'{ratio:.0%}', *name, *kinds_cells, *unseen))} |")
    return "\n".join([*lines, "\n"]) if lines else ""


def one_kind(model: str) -> str:
    """What methods lose that one kind of text calibrated, a fifth gone, and what part of that COMP's loss is."""
    rows = [row for row in every_row(model) if row["calibration"] in EACH_KIND]
    if not rows:
        return ""
    found = by_method(model, rows=rows)
    mixed = {name[1]: own for name, own in by_method(model).items() if name[0] == "comp"}
    ours = {
        name: fmean(row["mean"] for row in own)
        for name, own in mixed.items()
        if own[0]["settings"]["aim"] == "dense"  # as the presets of quality
    }
    lines = [
        f"{model}, a fifth gone, calibrated on one kind of text: mean over the kinds, and what part of it COMP loses, "
        "which\nis calibrated as above.",
        "",
        f"| method | calibrated on | kinds | {' | '.join(f'comp, {width}' for width in ours)} |",
        f"|---|---|---:|{'---:|' * len(ours)}",
    ]
    for (method, _), own in found.items():
        mean = fmean(row["mean"] for row in own)
        cells = [method, _text_of(own[0]), f"{mean:.3f}", *(f"{value / mean:.2f}" for value in ours.values())]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "\n"])


def _text_of(row: dict) -> str:
    return f"{row['sequences']} of `{row['calibration']}`"


def tasks(model: str) -> str:
    """Accuracy in each offline task, their mean, and the cross-entropy over the choices, for each ratio; best first."""
    ratios = sorted({row["settings"]["ratio"] for row in every_row(model) if "tasks" in row})
    return "\n\n".join(_tasks(model, ratio) for ratio in ratios)


def _tasks(model: str, ratio: float) -> str:
    stored = json.loads(TASKS.read_text("utf-8"))
    (dense,) = (row for row in stored if row["method"] == "dense" and row["model"] == model)
    rows = [row for row in every_row(model) if "tasks" in row and row["settings"]["ratio"] == ratio]
    found = [(row["settings"]["method"], widths(row["settings"]), _text_of(row), row["tasks"]) for row in rows]
    found.sort(key=lambda item: -fmean(item[3]["accuracy"].values()))
    names = list(dense["accuracy"])
    lines = [
        f"{model}, {ratio:.0%} gone, in the offline tasks: accuracy with its standard error, and the mean "
        "cross-entropy over the\nchoices in nats.",
        "",
        "| method | widths | calibrated on | "
        f"{' | '.join(name.removeprefix('comp_') for name in names)} | mean | cross-entropy |",
        f"|---|---|---|{'---:|' * (len(names) + 2)}",
    ]
    for method, width, text, answers in (("dense", "", "", dense), *found):
        accuracy, stderr = answers["accuracy"], answers["stderr"]
        cells = [f"{accuracy[name]:.3f} ({stderr[name]:.3f})" for name in names]
        mean, error = fmean(accuracy.values()), sum(each**2 for each in stderr.values()) ** 0.5 / len(names)
        cells += [f"{mean:.3f} ({error:.3f})", f"{fmean(answers['choice_loss'].values()):.2f}"]
        lines.append(f"| {' | '.join((method, width, text, *cells))} |")
    return "\n".join(lines)


def headline(model: str) -> str:
    """Increase of the loss on each text, time and memory of each method, by the increase on the first text."""
    rows = [row for row in json.loads(HEADLINE.read_text("utf-8")) if row["model"] == model]
    rows = [row for row in rows if row["sequences"] == max(row["sequences"] for row in rows)]
    first = rows[0]
    assert all(row["increases"].keys() == first["increases"].keys() for row in rows)
    texts = sorted(first["increases"], key=lambda text: not text.startswith(first["calibration"]))
    rows.sort(key=lambda row: row["increases"][texts[0]])
    kinds = ["text of the same kind" if text.startswith(first["calibration"]) else "other text" for text in texts]
    lines = [
        f"A fifth of {model}'s decoder goes; {first['sequences']} x {first['length']} tokens of "
        f"{first['calibration']} calibrate. Increase of the\nloss over the dense model in nats per token, on "
        f"{first['windows']} x 512 tokens; time in dense forward passes over the calibration\ntokens; peak memory "
        "above the imports.",
        "",
        f"| method | widths | {' | '.join(kinds)} | passes | MiB |",
        f"|---|---|{'---:|' * (len(kinds) + 2)}",
    ]
    for row in rows:
        increases = " | ".join(f"{row['increases'][text]:.3f}" for text in texts)
        lines.append(
            f"| {row['settings']['method']} | {widths(row['settings'])} | {increases} | {row['passes']:.1f} | "
            f"{row['peak_megabytes']:.0f} |"
        )
    lines += [f"\n{ratios(rows, text, kind)}" for text, kind in zip(texts, kinds, strict=True)]
    return "\n".join(lines)


def widths(settings: dict) -> str:
    if settings["method"] in OWN_WIDTHS:
        return "its own"
    if (name := preset(settings)) is not None:
        return f"{settings['widths']}, preset {name}"
    return settings["widths"] + (", dense target" if settings.get("aim", settings.get("target")) == "dense" else "")


def preset(settings: dict) -> str | None:
    """The preset `fast` or `paper`, where these are its settings."""
    named = ((name, PRESETS[name]) for name in ("fast", "paper") if settings["method"] == "comp")
    return next((name for name, told in named if told.items() <= settings.items()), None)


def ratios(rows: list[dict], text: str, kind: str) -> str:
    """What COMP costs, as a part of LLM-Pruner's and of the best other peer's increase."""
    least: dict[str, float] = {}
    for row in rows:
        name = row["settings"]["method"]
        if name == "comp" and row["settings"]["widths"] == "uniform":
            name = "one width"
        increase = row["increases"][text]
        least[name] = min(increase, least.get(name, increase))
    ours = [least.pop("one width"), least.pop("comp")]
    pruner, other = least.pop("llm-pruner"), min(least, key=least.__getitem__)
    one, best = (f"{increase / pruner:.2f} and {increase / least[other]:.2f}" for increase in ours)
    return f"On {kind}, COMP's increase is {one} of LLM-Pruner's and {other}'s, with its measured widths {best}."


def compared() -> pd.DataFrame:
    """The finished rows of the largest grid, for the amount of text with most of them."""
    rows = finished(read_rows(PEERS / ROWS))
    rows = rows[rows.grid == rows.grid.mode()[0]]
    return rows[rows.sequences == rows.sequences.mode()[0]]


def peers() -> str:
    """What was measured, and the increase of the loss for each method and ratio."""
    rows = compared()
    first = rows.iloc[0]
    return (
        f"On the project's own texts: {first.sequences} x {first.length} tokens of `{first.calibration}` calibrate, "
        f"{first.windows} x {first.window} of\n`{first.evaluation}` judge; increase of the loss when that part goes, "
        f"with the range over calibration seeds where there are several. In bold the\nsmallest mean, whether or not "
        f"intervals overlap.\n\n"
        f"{comparison(rows, 'increase')}"
    )


def families() -> str:
    """What can be done with the models of each family, as the code says it."""
    lines = [
        "| family | `model_type` | KV groups can go | own widths in each layer, steps left out | GGUF |",
        "|---|---|---|---|---|",
    ]
    for family in FAMILIES:
        types = ", ".join(f"`{name}`" for name in family.model_types)
        exported = "yes" if family.gguf_per_layer else "one width"
        facts = (not family.whole_attention, family.per_layer)
        cells = [type(family).__name__, types, *("yes" if fact else "no" for fact in facts), exported]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def between(readme: str, start: str, end: str, text: str) -> str:
    """`readme` with that text between two marks."""
    before, rest = readme.split(start)
    return f"{before}{start}\n{text}\n{end}{rest.split(end)[1]}"


def short() -> str:
    """One line for each method and preset: the mean over the kinds of text, and a text of another kind."""
    first, second = by_method(EMBEDDED), by_method(SECOND)
    names = {
        "measured, dense target": "**COMP**, measured widths",
        "uniform, dense target": "**COMP**, one width",
        "uniform, preset fast": "COMP, preset `fast`",
        "per-layer, preset paper": "COMP, preset `paper`",
    }
    columns = [f"{model}, {text}" for model in (EMBEDDED, SECOND) for text in ("eight kinds", "WikiText")]
    multiple = next(iter(first.values()))[0]["settings"]["multiple"]
    lines = [
        "Loss above the dense model, nats per token, when a fifth of the decoder is gone; the smaller, the better. "
        f"{MULTIPLES.format(multiple).capitalize()}.\nCOMP's first rows are `best` and `stock` with equal text"
        f"{_with_more_text()}; of {SECOND} measured widths exist in memory only and cannot be\nsaved "
        "([families](docs/families.md)). Intervals are in [RESULTS](benchmarks/RESULTS.md#every-kind-of-text); on "
        "WikiText these of COMP and a peer overlap: "
        f"{'; '.join(_alike(first, names) + _alike(second, names))}.{_second_with_more_text()}",
        "",
        f"| | {' | '.join(columns)} |",
        f"|---|{'---:|' * len(columns)}",
    ]
    for name, rows in first.items():
        cells = list[str]()
        for found in (rows, second.get(name, [])):
            cells += [_mean([row["mean"] for row in found]), _mean([row["increases"][UNSEEN][0] for row in found])]
        if name[0] != "comp" or name[1] in names:
            lines.append(f"| {names.get(name[1], name[0])} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _with_more_text() -> str:
    """What the text of the preset `best` does for it, in words."""
    rows = more_text(EMBEDDED).get(("comp", "measured, dense target"))
    return f" (with its own {rows[0]['sequences']} sequences `best` has {_two_losses(rows)})" if rows else ""


def _second_with_more_text() -> str:
    """What the second model loses with more text than most of its rows saw, where that was measured, in words."""
    found = more_text(SECOND)
    ours, theirs = found.get(("comp", "uniform, dense target")), found.get(("llm-pruner", "its own"))
    if not ours or not theirs:
        return ""
    return (
        f" {SECOND}'s rows saw {usual_rows(SECOND)[0]['sequences']} sequences; with {ours[0]['sequences']} one width "
        f"has {_two_losses(ours)}, llm-pruner {_two_losses(theirs)}."
    )


def _two_losses(rows: list[dict]) -> str:
    """The means over the kinds and on the unseen text."""
    return f"{fmean(row['mean'] for row in rows):.3f} and {fmean(row['increases'][UNSEEN][0] for row in rows):.3f}"


def _alike(found: dict[tuple[str, str], list[dict]], names: dict[str, str]) -> list[str]:
    """The rows of COMP that have one of those names, each with the peers whose intervals, of first seeds, overlap."""
    spans = {name: rows[0]["increases"][UNSEEN][1:] for name, rows in found.items()}
    told = []
    for (_, kind), (low, high) in ((name, span) for name, span in spans.items() if name[0] == "comp"):
        peers = [name[0] for name, span in spans.items() if name[0] != "comp" and low <= span[1] and span[0] <= high]
        if peers and kind in names:
            told.append(f"{names[kind].replace('**', '').removeprefix('COMP, ')} and {', '.join(peers)}")
    model = next(iter(found.values()))[0]["model"]
    return [f"of {model} {'; '.join(told)}"] if told else []


def healing() -> str:
    """What each step after pruning brings and costs, for each model: loss, size, memory and time of that step."""
    rows = json.loads(AFTER.read_text("utf-8"))
    parts = []
    for model in dict.fromkeys(row["model"] for row in rows):
        own = {row["name"]: row for row in rows if row["model"] == model}
        imports, kinds = own["parent"]["imports_megabytes"], list(own["COMP"]["increases"])
        head = ["", "mean (95%)", "weights, MB", "memory, MiB", "minutes", "perplexity in llama.cpp", *kinds]
        lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
        lines.append(f"| parent | 0 | {own['parent']['bytes'] / 1e6:.0f} | | | | {' | '.join('0' for _ in kinds)} |")
        for name, row in own.items():
            if name != "parent":
                mean = "{:.3f} ({:.3f} to {:.3f})".format(*row["mean"])
                losses = (f"{round(row['increases'][kind][0], 2) + 0.0:.2f}" for kind in kinds)  # no -0.00
                cost = (
                    f"{row['bytes'] / 1e6:.0f}",
                    f"{row['peak_megabytes'] - imports:,.0f}",
                    f"{row['seconds'] / 60:.1f}",
                )
                asked = row.get("llama_cpp")
                files = f"{exp(asked['loss']):.2f} ({exp(asked['in_transformers']):.2f})" if asked else ""
                lines.append(f"| {' | '.join((name, mean, *cost, files, *losses))} |")
        gone = own["COMP"]["removed"]
        parts.append(
            f"{model}, {gone:.0%} of its decoder gone. Loss above the parent's, nats per token, on each kind of "
            "evaluation text and in the\nmean; weights on disk; of the step itself the highest memory above the "
            "imports alone, and its minutes, on two cores;\nof files for llama.cpp its perplexity on a few "
            "tokens, and in brackets that of transformers with the same weights.\nBy benchmarks/after.py.\n\n"
            + "\n".join(lines)
        )
    return "\n\n".join(parts)


def _mean(values: list[float]) -> str:
    return f"{fmean(values):.3f}" if values else "not measured"


def tables() -> str:
    models = "\n\n".join(
        f"{kinds(model)}\n\n{by_ratio(model)}\n\n{by_text(model)}{one_kind(model)}{tasks(model)}\n\n{headline(model)}"
        for model in (EMBEDDED, SECOND)
    )
    models += (
        "\n\n![Mean loss above the dense model by how much of the decoder goes, a panel for each model](ratios.png)"
    )
    return f"{models}\n\n{peers()}"


PAGES = {  # each with its marks, and what stands between them
    "README.md": (SHORT_START, SHORT_END, short),
    "docs/measured.md": (START, END, tables),
    "docs/heal.md": (HEALING_START, HEALING_END, healing),
    "docs/families.md": (FAMILIES_START, FAMILIES_END, families),
}


def page(name: str) -> str:
    """The page as it should be."""
    start, end, text = PAGES[name]
    return between((ROOT / name).read_text("utf-8"), start, end, text())


def main() -> None:
    for name in PAGES:
        (ROOT / name).write_text(page(name), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
