"""The ablations of notebook 05: what each part of COMP is worth, on the real model.

    python benchmarks/ablation.py [--model gemma3-270m] [--parts "COMP" "metric: energy" ...]
        [--out benchmarks/ablation.jsonl] [--seconds 3600]

With --parts only these of PARTS are measured, with a fifth removed; without it the whole grid is. Each run
becomes one line of JSON, written as it ends; a second call skips the runs that are stored. The project's own
two texts calibrate and evaluate; a row's seed draws the calibration windows. `increases` are the extra losses
over the dense model on each evaluation window, nats per token, and `increase` is their mean. `error` is the
share of its output's energy that an MLP lost on the calibration text, mean over the layers. Another model
than the included one gets one seed, the parts that apply to it, and a file of its own.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import models
import torch
from common import HERE, evaluation_windows, parser_of

from comp_lib.calibration.windows import calibration_tokens
from comp_lib.checkpoints.wheels import INCLUDED_MODEL
from comp_lib.decoder.shape import Shape
from comp_lib.decoder.surgery import shallow_copy, update_config
from comp_lib.decoder.types import Layer, Model
from comp_lib.decoder.walk import walk
from comp_lib.evaluation.loss import Evaluation, measure_loss
from comp_lib.pruning.comp import prune, prune_layers
from comp_lib.pruning.planning import complete_settings, make_plan
from comp_lib.pruning.prune_layer import CarriedState
from comp_lib.pruning.pruned import Pruned
from comp_lib.pruning.report import LayerReport, Report, finished_plan
from comp_lib.pruning.settings import Settings
from comp_lib.pruning.sink import MemorySink

SEQUENCES = 16
LENGTH = 256
SEEDS = (0, 1, 2)
INCLUDED_LAYERS = 30
PAPER = {"recovery": "mask", "drop_layers": 2, "layer_metric": "block-influence", "widths": "per-layer"}
WANDA = {"method": "wanda-sp", "recovery": "none"}
DENSE_STREAM = "dense stream"
"""A variant: each layer is chosen and refitted by what it reads in the dense model."""
# Without a refit COMP uses another metric (see `neuron_metric`); "same price" keeps that of the refit.
PARTS: dict[str, dict[str, Any]] = {
    "COMP": {},
    "metric: energy": {"method": "energy"},
    "metric: activation": {"method": "activation"},
    "metric: Wanda-sp": {"method": "wanda-sp"},
    "metric: random": {"method": "random"},
    "metric: magnitude": {"method": "magnitude"},
    "recovery: none": {"recovery": "none"},
    "recovery: mask": {"recovery": "mask"},
    "recovery: none, same price": {"method": "full-condition", "recovery": "none"},
    "recovery: mask, same price": {"method": "full-condition", "recovery": "mask"},
    "Wanda-sp, no recovery": WANDA,
    "energy, no recovery": {"method": "energy", "recovery": "none"},
    "ridge: 0.1 in every layer": {"ridge": 0.1},
    "widths: estimated": {"widths": "estimated"},
    "aim: dense": {"aim": "dense"},
    DENSE_STREAM: {},
    "layers only": {"drop_layers": 6},
    "2 layers + neurons": {"drop_layers": 2},
    "2 layers by block influence": {"drop_layers": 2, "layer_metric": "block-influence"},
    "2 of 3 KV groups + neurons": {"kv_groups": 2},
    "the paper's plan and mask": PAPER,
}
RATIOS = [
    (name, {**changes, "ratio": ratio})
    for ratio in (0.1, 0.3, 0.5)
    for name, changes in (("COMP", {}), ("Wanda-sp, no recovery", WANDA))
]
Run = tuple[str, dict[str, Any], int]
"""Its name, the settings that it changes, its seed."""
GRID: list[Run] = [
    *((name, changes, seed) for seed in SEEDS for name, changes in PARTS.items()),
    *((name, changes, SEEDS[0]) for name, changes in RATIOS),
]


def grid(model: Model, name: str, parts: Sequence[str] = ()) -> list[Run]:
    """GRID for the included model; for another model the runs that apply to it, under one seed.

    These keep fewer KV groups than the model has, and drop layers in proportion to its number of layers.

    parts: names in PARTS; if there are any, the runs of these alone.
    """
    asked = [run for run in GRID if not parts or (run[0] in parts and "ratio" not in run[1])]
    if name == INCLUDED_MODEL:
        return asked
    shape = Shape.of(model)
    runs = []
    for part, changes, seed in asked:
        if seed != SEEDS[0] or changes.get("kv_groups", 0) >= shape.kv_groups[0]:
            continue
        layers = changes.get("drop_layers", 0)
        if layers:
            scaled = round(layers / INCLUDED_LAYERS * shape.layer_count)
            part = part.replace(f"{layers} layers", f"{scaled} of the layers")
            changes = {**changes, "drop_layers": scaled}
        runs.append((part, changes, seed))
    return runs


class DenseStreamSink(MemorySink):
    """A sink that sends the text through the dense layer, in the place of the pruned one."""

    def __init__(self, small: Model, model: Model, ids: torch.Tensor) -> None:
        super().__init__(small)
        self.dense_visits = walk(model, ids)

    def put(self, index: int, layer: Layer, report: LayerReport | None, carried: CarriedState) -> None:
        super().put(index, layer, report, carried)
        carried.pruned_stream[:] = next(self.dense_visits).after


@torch.no_grad()
def prune_by_dense_stream(model: Model, ids: torch.Tensor, settings: Settings) -> Pruned:
    """Prune each layer of `model` by what it reads of the text ids (S, L) in the dense model."""
    settings = complete_settings(model, settings)
    before = Shape.of(model)
    plan = make_plan(model, ids, settings)
    small = shallow_copy(model)
    reports = prune_layers(model, ids, settings, plan, DenseStreamSink(small, model, ids))
    update_config(small)
    after = Shape.of(small)
    plan = finished_plan(plan, reports, before, after)
    return Pruned(small, plan, Report(settings, ids.numel(), tuple(reports), seconds=0.0), before, after)


def measure(model: Model, dense: Evaluation, tokenizer: Any, windows: torch.Tensor, run: Run) -> dict:
    """The row of one run of the grid; `dense` judged the unpruned model on the same windows (S, L)."""
    name, changes, seed = run
    defaults = {"ratio": 0.2, "recovery": "least-squares", "multiple": 32, "seed": seed}
    defaults |= {"widths": "uniform", "aim": "self"}
    settings = Settings(**{**defaults, **changes})
    ids = calibration_tokens(
        "calibration", tokenizer, sequences=SEQUENCES, length=LENGTH, seed=seed, judged_on="evaluation"
    )
    start = time.perf_counter()
    pruned = (prune_by_dense_stream if name == DENSE_STREAM else prune)(model, ids, settings)
    seconds = time.perf_counter() - start
    losses = measure_loss(pruned.model, windows).losses
    increases = [loss - dense_loss for loss, dense_loss in zip(losses, dense.losses, strict=True)]
    return {
        "name": name,
        "changes": changes,
        "seed": seed,
        "removed": pruned.plan.removed,
        "layers": len(pruned.plan.layers),
        "neurons": [min(pruned.plan.neurons), max(pruned.plan.neurons)],
        "error": fmean(layer.mlp_error for layer in pruned.report.layers),
        "increase": fmean(increases),
        "increases": [round(increase, 5) for increase in increases],
        "seconds": round(seconds, 1),
    }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument(
        "--out", type=Path, help="default: benchmarks/ablation.jsonl, of another model ablation-MODEL"
    )
    parser.add_argument(
        "--parts", nargs="+", default=(), choices=PARTS, metavar="NAME", help="names in PARTS"
    )
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no row after so long")
    arguments = parser.parse_args()
    stem = "ablation" if arguments.model == INCLUDED_MODEL else f"ablation-{arguments.model}"
    out = arguments.out or HERE / f"{stem}.jsonl"
    lines = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
    rows = [json.loads(line) for line in lines]
    finished = [(row["name"], row["changes"], row["seed"]) for row in rows]
    started = time.perf_counter()
    model, tokenizer = models.load(arguments.model)
    missing = [run for run in grid(model, arguments.model, arguments.parts) if run not in finished]
    if not missing:
        return
    windows = evaluation_windows(tokenizer)
    dense = measure_loss(model, windows)
    for run in missing:
        if time.perf_counter() - started > arguments.seconds:
            return
        row = measure(model, dense, tokenizer, windows, run)
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        name, changes, seed = run
        print(f"{name:28} seed {seed} {json.dumps(changes):60} {row['increase']:.4f} nats", flush=True)


if __name__ == "__main__":
    sys.exit(main())
