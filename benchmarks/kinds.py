"""What a pruned model loses on every kind of text: prose, encyclopedia, code, dialogue, reference and more.

    python benchmarks/kinds.py --calibration general --sequences 128 --set '{"method": "flap"}' --text FILE
    python benchmarks/kinds.py --figure build/kinds.png

The calibration is a mixture of this project's kinds ("all", "prose+code", "code" ...), or a text, or "self".
The evaluation texts of all kinds judge, and FILE on top where there is one, of which nothing calibrates. Each
call prints its rows, losses above the dense model's with their 95% intervals, and keeps them in
benchmarks/kinds.json; with --tasks also what the pruned model answers in the four offline tasks. The other
call draws README.md's bars of what is kept.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import models
import numpy as np
from common import decoder_parameters, keep_row, options, settings_of
from readme import MODELS, NAMES, RowsByMethod, by_method, half_width, mean_of, overlap
from torch import Tensor
from zero_shot import TYPES, answers

from comp_lib.calibration.texts import KINDS, load_text
from comp_lib.calibration.windows import calibration_tokens
from comp_lib.decoder.shape import Shape
from comp_lib.decoder.types import Model
from comp_lib.evaluation.by_kind import judge
from comp_lib.evaluation.confidence import confidence_intervals
from comp_lib.evaluation.windows import evaluation_tokens, windows_of
from comp_lib.hybrid_granularity.plan import Plan
from comp_lib.pruning.checks import check_settings_for
from comp_lib.pruning.comp import prune
from comp_lib.pruning.methods import method_of
from comp_lib.pruning.planners.llm_pruner import widths
from comp_lib.pruning.planning import complete_settings, make_plan
from comp_lib.pruning.settings import Settings
from comp_lib.reports.plots.base import BLUE, GREY, ORANGE, figure_with_axes, png
from comp_lib.utils.files import write_atomically

FILE = Path(__file__).with_suffix(".json")
SPARED = "spared"  # widths that spare what LLM-Pruner spares, the first layers and the last ones
WINDOW = 512  # tokens of a window, unless a row says otherwise
COLOURS = (BLUE, ORANGE, GREY)  # of the bars of NAMES
MEASURED = ("removed", "neurons", "increases", "mean", "interval", "kl", "tasks")  # "kl": in older rows


def mixture(text: str) -> str:
    """The calibration source that "all" or "prose+code" stand for."""
    parts = KINDS if text == "all" else text.split("+")
    return "+".join(f"calibration:{part}" if part in KINDS else part for part in parts)


@dataclass
class Plans:
    """The plans of baselines that plan by themselves, such as by gradients: one serves many settings."""

    dense: Model
    ids: Tensor
    cache: dict[tuple, Plan] = field(default_factory=dict)

    def plan_for(self, settings: Settings) -> Plan | None:
        if not method_of(settings.method).names_what_stays:
            return None
        key = (settings.method, settings.ratio, settings.recovery == "bias")
        if key not in self.cache:
            self.cache[key] = make_plan(self.dense, self.ids, settings)
        return self.cache[key]


def spared_plan(dense: Model, settings: Settings) -> Plan:
    """LLM-Pruner's widths, without the removal of KV groups."""
    shape = Shape.of(dense)
    settings = settings.completed()
    neurons, _ = widths(shape, replace(settings, kv_groups=max(shape.kv_groups)))
    return replace(settings.plan_request(shape), multiple=1).plan_with(neurons)


def request_of(arguments: argparse.Namespace, settings: Settings, spared: bool) -> dict[str, Any]:
    """The fields of a row that say what was asked for."""
    values = json.loads(json.dumps(vars(settings)))
    if spared:
        values["widths"] = SPARED
    row = {
        "model": arguments.model,
        "calibration": arguments.calibration,
        "sequences": arguments.sequences,
        "length": arguments.length,
        "windows": arguments.windows,
    }
    if arguments.window != WINDOW:
        row["window"] = arguments.window
    return row | {"seed": arguments.seed, "settings": values}


def add_losses(
    row: dict[str, Any], small: Model, windows_by_text: dict[str, Tensor], dense_kinds: dict
) -> None:
    """Puts into `row` what `small` loses on each kind of text and on their mean, and prints it.

    dense_kinds: the evaluation of the dense model on the same windows, by kind.
    """
    gaps = {
        kind: np.subtract(evaluation.losses, dense_kinds[kind].losses)
        for kind, evaluation in judge(small, windows_by_text).texts.items()
    }
    increases = {}
    for kind, gap in gaps.items():
        # too few windows have no interval: NaN, which a figure leaves out
        low, high = confidence_intervals(gap[None])[0].tolist()
        increases[kind] = [float(gap.mean()), low, high]
        print(f"{kind:20}{gap.mean():.3f} nats more ({low:.3f} to {high:.3f})")
    row["increases"] = increases
    row["mean"] = float(np.mean([increases[kind][0] for kind in KINDS]))
    low, high = confidence_intervals(*(gaps[kind][None] for kind in KINDS))[0].tolist()
    row["interval"] = [low, high]
    print(f"mean over kinds {row['mean']:.3f} ({low:.3f} to {high:.3f})", flush=True)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--calibration", default="all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--windows", type=int, default=6, help="of each kind")
    parser.add_argument("--window", type=int, default=WINDOW, help="tokens in each")
    parser.add_argument("--set", action="append", help="Settings as JSON; once for each row")
    parser.add_argument(
        "--tasks", choices=TYPES, help="score the offline tasks too, with products of this type"
    )
    parser.add_argument("--figure", type=Path, help="nothing is measured: draw what is kept")
    arguments = parser.parse_args()
    if arguments.figure is not None:
        figure(arguments.figure)
    else:
        measure(arguments)


def measure(arguments: argparse.Namespace) -> None:
    """Prunes by each of the settings, judges, and keeps the rows."""
    texts = arguments.set or ["{}"]
    runs = [settings_of(text.replace(SPARED, "uniform"), seed=arguments.seed) for text in texts]
    dense, tokenizer = models.load(arguments.model)
    for settings in runs:
        check_settings_for(dense, complete_settings(dense, settings))
    ids = calibration_tokens(
        mixture(arguments.calibration),
        tokenizer,
        model=dense,
        sequences=arguments.sequences,
        length=arguments.length,
        seed=arguments.seed,
    )
    size = {"window_length": arguments.window, "window_count": arguments.windows}
    windows_by_text = windows_of("kinds", tokenizer, **size)
    if arguments.text is not None:
        windows_by_text[arguments.text.name] = evaluation_tokens(tokenizer, load_text(arguments.text), **size)
    dense_kinds = judge(dense, windows_by_text).texts
    plans = Plans(dense, ids)
    for settings, text in zip(runs, texts, strict=True):
        spared = SPARED in text
        row = request_of(arguments, settings, spared)
        print(json.dumps(row["settings"]), flush=True)
        plan = plans.plan_for(settings)
        # a baseline's plan without a refit reads no more text
        calibrated = plan is None or settings.recovery != "none"
        if spared:
            plan = spared_plan(dense, settings)
        pruned = prune(dense, ids if calibrated else ids[:1], settings, plan=plan)
        row["neurons"] = pruned.plan.neurons
        row["removed"] = 1 - decoder_parameters(pruned.model) / decoder_parameters(dense)
        add_losses(row, pruned.model, windows_by_text, dense_kinds)
        if arguments.tasks:
            row["tasks"] = answers(pruned.model, tokenizer, arguments.tasks)
            print(json.dumps(row["tasks"]), flush=True)
        keep_row(FILE, row, MEASURED)
        del pruned  # before the next one is made


def figure(path: Path) -> None:
    """A bar for each of NAMES on each model: the mean over the kinds at a fifth gone, with its interval."""
    rows_by_model = {model: by_method(model) for model in MODELS}
    picture, axes = figure_with_axes(
        (7.6, 3.2), ylabel="loss added (nats per token),\nmean over eight kinds of text"
    )
    width = 0.8 / len(NAMES)
    for place, (name, label) in enumerate(NAMES.items()):
        measured = {model: rows[name] for model, rows in rows_by_model.items() if name in rows}
        middles = [list(rows_by_model).index(model) + (place - 1) * width for model in measured]
        means = [mean_of(rows) for rows in measured.values()]
        halves = [half_width(rows) for rows in measured.values()]
        axes.bar(middles, means, width, yerr=halves, color=COLOURS[place], capsize=3, label=label)
        axes.bar_label(axes.containers[-1], [f"{mean:.2f}" for mean in means], padding=3, fontsize=8)
    reading = "COMP adds the least loss" if all(map(leads, rows_by_model.values())) else "COMP and others"
    axes.set_title(f"A fifth of the decoder removed: {reading}", loc="left")
    axes.set_xticks(range(len(MODELS)), MODELS)
    axes.margins(y=0.12)
    axes.grid(visible=False, axis="x")
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, png(picture))


def leads(rows: RowsByMethod) -> bool:
    """Whether intervals separate the first of NAMES from the others, below them."""
    if next(iter(NAMES)) not in rows:
        return False
    first, *others = (rows[name] for name in NAMES if name in rows)
    return all(mean_of(first) < mean_of(other) and not overlap(first, other) for other in others)


if __name__ == "__main__":
    sys.exit(main())
