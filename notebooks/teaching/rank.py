"""Rank the plans that students hand in: `python notebooks/teaching/rank.py FOLDER [--model smollm2-135m]`

FOLDER holds a file NAME.json for each student, as the capstone (exercises 05) saves it. A plan takes part if
it is for this model, removes 20% of the decoder within half a percent, and loads in stock transformers. Each
such plan is carried out on the same calibration text, with the same refit, and judged on other text, kind by
kind. The table is sorted by the mean extra loss over the kinds; neighbours share a place where no difference
was found, but the ends of a long tie may differ. Plans that do not take part are listed below the table, with
the reason.

What was measured is stored as NAME.result.json, and measured again only if the plan changes. This script
believes a result that lies beside a plan, so collect the plans alone. A plan of SmolLM2 takes one to two
minutes.
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

from comp_lib.calibration.windows import calibration_tokens
from comp_lib.checkpoints.load import load_with_room
from comp_lib.checkpoints.wheels import INCLUDED_MODEL
from comp_lib.decoder.shape import Shape, widths_in_words
from comp_lib.decoder.types import Model
from comp_lib.evaluation.by_kind import judge
from comp_lib.evaluation.confidence import confidence_intervals
from comp_lib.evaluation.loss import Evaluation
from comp_lib.evaluation.windows import windows_of
from comp_lib.hybrid_granularity.plan import Plan
from comp_lib.pruning.checks import check_plan
from comp_lib.pruning.comp import prune
from comp_lib.pruning.settings import PRESETS, Settings
from comp_lib.utils.errors import InputError
from comp_lib.utils.hashes import hash_of_value

SHARE = 0.2  # of the decoder's parameters that a plan removes
SHARE_TOLERANCE = 0.005
TEXT: dict[str, Any] = {"source": "shipped", "sequences": 32, "length": 128}  # of calibration
WINDOWS = 4  # of each kind of text that judges
LENGTH = 128  # tokens in each of these windows
SETTINGS = Settings(**PRESETS["stock"])

Result = dict[str, Any]  # "key"; "extra": kind -> extra loss in each window, nats; "seconds" of pruning


def check(plan: Plan, model: Model) -> None:
    """Raises InputError for a plan that cannot be ranked among those for `model`."""
    check_plan(plan, model, SETTINGS.completed())
    shape = Shape.of(model)
    pruned_shape = shape.with_widths(plan.neurons, plan.kv_groups, plan.layers)
    removed = 1 - pruned_shape.decoder_parameters / shape.decoder_parameters
    if abs(removed - SHARE) > SHARE_TOLERANCE:
        raise InputError(
            expected=f"{SHARE:.1%} of the decoder to be removed, within {SHARE_TOLERANCE:.1%}",
            got=f"{removed:.1%}",
            hint="change the widths",
        )
    if not pruned_shape.fits_stock_config:
        heads = f"heads that divide {shape.hidden_size}"
        raise InputError(
            expected=f"one width for all layers, and {heads}, so that stock transformers load it",
            got=f"{widths_in_words(plan.neurons)} neurons and {widths_in_words(plan.kv_groups)} KV groups",
            hint="use one width",
        )


def in_words(plan: Plan) -> str:
    """What stays of the model."""
    neurons = f"{widths_in_words(plan.neurons)} neurons"
    kept = f"{len(plan.layers)} layers of {neurons} and {widths_in_words(plan.kv_groups)} KV groups"
    return f"{kept}, chosen by the plan" if plan.kept_neurons else kept


@functools.cache
def texts(model: Model, tokenizer: Any) -> tuple[Tensor, dict[str, Tensor], dict[str, Evaluation]]:
    """Calibration tokens; kind of text -> windows that judge; kind -> the dense model's result on them."""
    ids = calibration_tokens(tokenizer=tokenizer, **TEXT)
    windows_by_text = windows_of("kinds", tokenizer, LENGTH, WINDOWS)
    return ids, windows_by_text, judge(model, windows_by_text).texts


def result_of(path: Path, plan: Plan, model_name: str, model: Model, tokenizer: Any) -> Result:
    """The stored result beside the plan in `path` if it is of this plan; else a new measurement."""
    result_path = path.with_suffix(".result.json")
    key = hash_of_value([plan.to_json(), model_name, TEXT, WINDOWS, LENGTH])
    with suppress(OSError, ValueError, KeyError, TypeError):
        result: Result = json.loads(result_path.read_text("utf-8"))
        if result["key"] == key:
            return result
    print(f"measuring {path.stem}", file=sys.stderr)
    ids, windows_by_text, dense = texts(model, tokenizer)
    run = prune(model, ids, SETTINGS, plan=plan)
    pruned = judge(run.model, windows_by_text).texts
    extra = {kind: np.subtract(pruned[kind].losses, dense[kind].losses).tolist() for kind in windows_by_text}
    result = {"key": key, "extra": extra, "seconds": run.report.seconds}
    result_path.write_text(json.dumps(result), "utf-8")
    return result


def differ(first: Result, second: Result) -> bool:
    """Whether the 95% interval of the mean difference, paired by window, leaves out 0."""
    gaps = [np.subtract(first["extra"][kind], second["extra"][kind])[None] for kind in first["extra"]]
    low, high = confidence_intervals(*gaps)[0]
    return bool(low > 0 or high < 0)


def mean_extra_loss(result: Result) -> float:
    """Mean over the kinds of text, each of which counts the same."""
    return float(np.mean([np.mean(losses) for losses in result["extra"].values()]))


def table(ranked: dict[str, tuple[Plan, Result]]) -> str:
    """Markdown with a row for each plan, the least extra loss first.

    Neighbours that do not differ share a place.
    """
    means = {name: mean_extra_loss(result) for name, (_, result) in ranked.items()}
    names = sorted(ranked, key=means.__getitem__)
    kinds = list(ranked[names[0]][1]["extra"])
    columns = ["place", "name", "mean extra loss", *kinds, "seconds to prune", "what stays"]
    lines = [f"| {' | '.join(columns)} |"]
    lines.append("|---:|---|---:|" + "---:|" * (len(kinds) + 1) + "---|")
    rank = 1
    previous: Result | None = None
    for number, name in enumerate(names, 1):
        plan, result = ranked[name]
        if previous is not None and differ(result, previous):
            rank = number
        previous = result
        losses = [f"{np.mean(result['extra'][kind]):.2f}" for kind in kinds]
        row = [f"{rank}", name, f"{means[name]:.3f}", *losses, f"{result['seconds']:.0f}", in_words(plan)]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


NOTES = """
Extra loss: nats per token, {windows} windows of each kind, one run. Neighbours share a place where
no difference was found: the 95% interval of the mean of their paired differences holds 0.
The best of many plans looks better than it is: judge it again on other text."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Rank the plans that students hand in.")
    parser.add_argument("folder", type=Path, help="with a plan NAME.json for each student")
    parser.add_argument("--model", default=INCLUDED_MODEL, help="the model that the plans are for")
    options = parser.parse_args(arguments)
    paths = [path for path in sorted(options.folder.glob("*.json")) if not path.name.endswith(".result.json")]
    ranked: dict[str, tuple[Plan, Result]] = {}
    refused: list[str] = []
    try:
        if not paths:
            raise InputError(
                expected="a folder with plans, NAME.json",
                got=repr(str(options.folder)),
                hint="name another",
            )
        model, tokenizer = load_with_room(options.model, copies=2)
        for path in paths:
            try:
                plan = Plan.load(path)
                check(plan, model)
                result = result_of(path, plan, options.model, model, tokenizer)
                ranked[path.stem] = (plan, result)
            except InputError as error:
                refused.append(f"- {path.stem}: {error}")
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if ranked:
        print(table(ranked))
        print(NOTES.format(windows=WINDOWS))
    if refused:
        print("\nNot ranked:\n", *refused, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
