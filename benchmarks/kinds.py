"""What a pruned model loses on every kind of text: prose, encyclopedia, code, dialogue, reference, questions and more.

    python benchmarks/kinds.py --calibration general --sequences 128 --set '{"method": "flap"}' --text FILE
    python benchmarks/kinds.py --figure build/kinds.png

The calibration is a mixture of this project's kinds ("all", "prose+code", "code" ...), or a text, or "self". The
evaluation texts of all kinds judge, and FILE on top where there is one, of which nothing calibrates. Each call prints
its rows, losses above the dense model's with their 95% intervals, and keeps them in benchmarks/kinds.json; with --tasks
also what the pruned model answers in the four offline tasks. The other draws what is kept: README.md's bars.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import decoder_parameters, keep_row, options, settings_of
from readme import NAMES, by_method, half_width, mean_of
from zero_shot import TYPES, answers

from comp_lib.baselines import PLANNERS
from comp_lib.baselines.llm_pruner import widths
from comp_lib.calibration.texts import KINDS, load_text
from comp_lib.calibration.windows import calibration_tokens, windows_of
from comp_lib.evaluation.by_kind import judge
from comp_lib.evaluation.confidence import confidence_intervals
from comp_lib.evaluation.loss import evaluation_tokens
from comp_lib.models.load import EMBEDDED, load_model
from comp_lib.plan import Plan
from comp_lib.planning import check_request, make_plan
from comp_lib.plots.base import BLUE, GREY, figure_with_axes, png
from comp_lib.prune import prune
from comp_lib.shape import Shape
from comp_lib.system.atomic import write_atomically

FILE = Path(__file__).with_suffix(".json")
SPARED = "spared"  # widths that leave whole what LLM-Pruner leaves whole, the first layers and the last ones
MEASURED = (
    "removed",
    "neurons",
    "increases",
    "mean",
    "interval",
    "kl",
    "tasks",
)  # older rows have the divergence "kl"


def mixture(words: str) -> str:
    """The calibration source that "all" or "prose+code" stand for."""
    parts = KINDS if words == "all" else words.split("+")
    return "+".join(f"calibration:{part}" if part in KINDS else part for part in parts)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--calibration", default="all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--windows", type=int, default=6, help="of each kind")
    parser.add_argument("--window", type=int, default=512, help="tokens in each")
    parser.add_argument("--set", action="append", help="more Settings as JSON; once for each row")
    parser.add_argument(
        "--tasks", choices=TYPES, help="score the offline tasks too, with products of this type"
    )
    parser.add_argument("--figure", type=Path, help="nothing is measured: draw what is kept")
    arguments = parser.parse_args()
    if arguments.figure is not None:
        return figure(arguments.figure)
    words = arguments.set or ["{}"]
    asked = [settings_of(each.replace(SPARED, "uniform"), seed=arguments.seed) for each in words]
    dense, tokenizer = load_model(arguments.model)
    for settings in asked:
        check_request(dense, settings)
    ids = calibration_tokens(
        mixture(arguments.calibration),
        tokenizer,
        model=dense,
        sequences=arguments.sequences,
        length=arguments.length,
        seed=arguments.seed,
    )
    size = {"length": arguments.window, "sequences": arguments.windows}
    windows = windows_of("kinds", tokenizer, **size)
    if arguments.text is not None:
        windows[arguments.text.name] = evaluation_tokens(tokenizer, load_text(arguments.text), **size)
    base = judge(dense, windows).kinds
    plans: dict[tuple, Plan] = {}
    for settings, said in zip(asked, words, strict=True):
        row = {
            "model": arguments.model,
            "calibration": arguments.calibration,
            "sequences": arguments.sequences,
            "length": arguments.length,
            "windows": arguments.windows,
            **({} if arguments.window == 512 else {"window": arguments.window}),
            "seed": arguments.seed,
            "settings": json.loads(json.dumps(vars(settings)))
            | ({"widths": SPARED} if SPARED in said else {}),
        }
        print(json.dumps(row["settings"]), flush=True)
        # a baseline that plans by itself, such as by gradients, does so once for all that may follow its cut
        same = settings.method, settings.ratio, settings.recovery == "bias"
        if settings.method in PLANNERS and same not in plans:
            plans[same] = make_plan(dense, ids, settings)
        plan = plans.get(same)
        free = plan is not None and settings.recovery == "none"  # of any text, by then
        if SPARED in said:
            shape = Shape.of(dense)
            neurons, _ = widths(shape, replace(settings, kv_groups=max(shape.kv_groups)))  # no group goes
            plan = replace(settings.request(shape), multiple=1).plan(neurons)
        done = prune(dense, ids[:1] if free else ids, settings, plan=plan)
        small, row["neurons"] = done.model, done.plan.neurons
        row["removed"] = 1 - decoder_parameters(small) / decoder_parameters(dense)
        judged = judge(small, windows).kinds
        more = {kind: np.subtract(one.losses, base[kind].losses) for kind, one in judged.items()}
        # of too few windows there is no interval: NaN, which a figure leaves out
        row["increases"] = {
            kind: [float(each.mean()), *confidence_intervals(each[None])[0].tolist()]
            for kind, each in more.items()
        }
        row["mean"] = float(np.mean([row["increases"][kind][0] for kind in KINDS]))
        row["interval"] = low, high = confidence_intervals(*(more[kind][None] for kind in KINDS))[0].tolist()
        for kind, (increase, *bounds) in row["increases"].items():
            print(f"{kind:20}{increase:.3f} nats more ({bounds[0]:.3f} to {bounds[1]:.3f})")
        print(f"mean over kinds {row['mean']:.3f} ({low:.3f} to {high:.3f})", flush=True)
        if arguments.tasks:
            row["tasks"] = answers(small, tokenizer, arguments.tasks)
            print(json.dumps(row["tasks"]), flush=True)
        keep_row(FILE, row, MEASURED)
        del done, small, judged  # before the next one is made


def figure(path: Path) -> None:
    """A bar for each of NAMES: the mean over the kinds at a fifth gone, with its 95% interval."""
    found = by_method()
    means, halves = [[value(found[name]) for name in NAMES] for value in (mean_of, half_width)]
    least = means[0] + halves[0] < min(mean - half for mean, half in zip(means[1:], halves[1:], strict=True))
    picture, axes = figure_with_axes(
        (7.0, 2.4), xlabel="loss added (nats per token), mean over eight kinds of text"
    )
    axes.barh([*NAMES.values()], means, xerr=halves, color=[BLUE, GREY, GREY], capsize=4)
    axes.bar_label(axes.containers[-1], [f"{mean:.2f}" for mean in means], padding=6)
    reading = "COMP adds the least loss" if least else "no difference found"
    axes.set_title(f"A fifth of {EMBEDDED}'s decoder removed: {reading}", loc="left")
    axes.set(xlim=(0, 1.15 * max(means)), ylim=(len(means) - 0.4, -0.6))
    axes.grid(visible=False, axis="y")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, png(picture))


if __name__ == "__main__":
    sys.exit(main())
