"""Rank the plans that students hand in: `python notebooks/teaching/rank.py FOLDER [--model smollm2-135m]`

FOLDER holds a file NAME.json for each student, as the capstone (exercises 05) saves it. A plan takes part if it is for
this model, removes 20% of the decoder within half a percent, and loads in stock transformers. Each such plan is carried
out on the same calibration text, with the same refit, and judged on other text, kind by kind. The table goes by the
mean extra loss over the kinds; neighbours share a place where no difference was found, but the ends of a long tie may
differ. Plans that do not take part are below it, with the reason. What was measured is kept as
NAME.result.json, and measured again only for another plan. So collect plans alone: a result beside one is believed.
A plan of SmolLM2 takes one to two minutes.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from comp_lib.calibration.windows import calibration_tokens, windows_of
from comp_lib.errors import InputError
from comp_lib.evaluation.by_kind import judge
from comp_lib.evaluation.confidence import confidence_intervals
from comp_lib.evaluation.loss import Evaluation
from comp_lib.families.protocol import Model
from comp_lib.models.load import EMBEDDED, load_model
from comp_lib.plan import Plan
from comp_lib.planning import check_plan
from comp_lib.prune import prune
from comp_lib.settings import PRESETS, Settings
from comp_lib.shape import Shape, span
from comp_lib.system.hashes import hash_of_value

SHARE, WITHIN = 0.2, 0.005  # of the decoder's parameters to remove, and how far off a plan may be
TEXT: dict[str, Any] = {"source": "shipped", "sequences": 32, "length": 128}  # of calibration
WINDOWS, LENGTH = 4, 128  # of each kind of text that judges; tokens in each
SETTINGS = Settings(**PRESETS["stock"])

Result = dict[str, Any]  # "key"; "extra": kind -> nats in each window; "seconds" of pruning


def check(plan: Plan, model: Model) -> None:
    """Raises InputError for a plan that cannot be ranked among those for `model`."""
    check_plan(plan, model, SETTINGS)
    shape = Shape.of(model)
    left = shape.with_widths(plan.neurons, plan.kv_groups, plan.layers)
    removed = 1 - left.decoder / shape.decoder
    if abs(removed - SHARE) > WITHIN:
        wanted = f"{SHARE:.1%} of the decoder to be removed, within {WITHIN:.1%}"
        raise InputError(f"expected {wanted}, got {removed:.1%}: change the widths")
    if not left.stock:
        got = f"{span(plan.neurons)} neurons and {span(plan.kv_groups)} KV groups"
        wanted = f"one width for all layers, and heads that divide {shape.hidden}, so that stock transformers load it"
        raise InputError(f"expected {wanted}, got {got}: use one width")


def in_words(plan: Plan) -> str:
    """What stays."""
    words = f"{len(plan.layers)} layers of {span(plan.neurons)} neurons and {span(plan.kv_groups)} KV groups"
    return f"{words}, chosen by the plan" if plan.kept_neurons else words


@functools.cache
def texts(model: Model, tokenizer: Any) -> tuple[Tensor, dict[str, Tensor], dict[str, Evaluation]]:
    """What calibrates, what judges, by kind, and how good the dense model is on it."""
    windows = windows_of("kinds", tokenizer, LENGTH, WINDOWS)
    return calibration_tokens(tokenizer=tokenizer, **TEXT), windows, judge(model, windows).kinds


def result_of(path: Path, plan: Plan, name: str, model: Model, tokenizer: Any) -> Result:
    """The result beside the plan in `path`, if it is of this plan; else the plan is carried out and measured."""
    place, key = (
        path.with_suffix(".result.json"),
        hash_of_value([plan.to_json(), name, TEXT, WINDOWS, LENGTH]),
    )
    with suppress(OSError, ValueError, KeyError, TypeError):
        result: Result = json.loads(place.read_text("utf-8"))
        if result["key"] == key:
            return result
    print(f"measuring {path.stem}", file=sys.stderr)
    ids, windows, dense = texts(model, tokenizer)
    pruned = prune(model, ids, SETTINGS, plan=plan)
    after = judge(pruned.model, windows).kinds
    extra = {kind: np.subtract(after[kind].losses, dense[kind].losses).tolist() for kind in windows}
    result = {"key": key, "extra": extra, "seconds": pruned.report.seconds}
    place.write_text(json.dumps(result), "utf-8")
    return result


def differ(one: Result, other: Result) -> bool:
    """Whether the 95% interval of the mean difference, paired by window, leaves out 0."""
    gaps = [np.subtract(one["extra"][kind], other["extra"][kind])[None] for kind in one["extra"]]
    low, high = confidence_intervals(*gaps)[0]
    return bool(low > 0 or high < 0)


def table(found: dict[str, tuple[Plan, Result]]) -> str:
    """Markdown: a row for each plan, the least extra loss first; neighbours that do not differ share a place."""
    mean = {
        name: float(np.mean([np.mean(values) for values in r["extra"].values()]))
        for name, (_, r) in found.items()
    }
    order = sorted(found, key=mean.__getitem__)
    kinds = list(found[order[0]][1]["extra"])
    lines = [
        "| place | name | mean extra loss |"
        + "".join(f" {kind} |" for kind in kinds)
        + " seconds to prune | what stays |"
    ]
    lines.append("|---:|---|---:|" + "---:|" * (len(kinds) + 1) + "---|")
    place = 1
    for number, name in enumerate(order, 1):
        plan, result = found[name]
        if number > 1 and differ(result, found[order[number - 2]][1]):
            place = number
        each = "".join(f" {np.mean(result['extra'][kind]):.2f} |" for kind in kinds)
        lines.append(
            f"| {place} | {name} | {mean[name]:.3f} |{each} {result['seconds']:.0f} | {in_words(plan)} |"
        )
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Rank the plans that students hand in.")
    parser.add_argument("folder", type=Path, help="with a plan NAME.json for each student")
    parser.add_argument("--model", default=EMBEDDED, help="the model that the plans are for")
    options = parser.parse_args(arguments)
    paths = [path for path in sorted(options.folder.glob("*.json")) if not path.name.endswith(".result.json")]
    found, defects = dict[str, tuple[Plan, Result]](), list[str]()
    try:
        if not paths:
            raise InputError(
                f"expected a folder with plans, NAME.json, got {str(options.folder)!r}: name another"
            )
        model, tokenizer = load_model(options.model, copies=2)
        for path in paths:
            try:
                plan = Plan.load(path)
                check(plan, model)
                found[path.stem] = plan, result_of(path, plan, options.model, model, tokenizer)
            except InputError as error:
                defects.append(f"- {path.stem}: {error}")
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if found:
        print(table(found))
        print(
            f"\nExtra loss: nats per token, {WINDOWS} windows of each kind, one run. Neighbours share a place where"
        )
        print("no difference was found: the 95% interval of the mean of their paired differences holds 0.")
        print("The best of many plans looks better than it is: judge it again on other text.")
    if defects:
        print("\nNot ranked:\n", *defects, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
