"""The ablations of notebook 05: what each part of COMP is worth, on the real model.

    python benchmarks/ablation.py [--model gemma3-270m] [--out benchmarks/ablation.jsonl] [--seconds 3600]

One line of JSON for each run, written as it ends; a second call skips what is there. Calibration and evaluation are
the project's own two texts; a row's seed draws the calibration windows. `increases` are the extra losses over the dense
model on each evaluation window, nats per token, `increase` is their mean; `error` is the mean over the layers of what
each MLP lost of its output's energy on the calibration text. Of another model than the included one: one seed, and
the parts that it has, into a file of its own.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from common import HERE, evaluation_windows, parser_of

from comp_lib.calibration.tokens import calibration_tokens
from comp_lib.evaluation.loss import Evaluation, perplexity
from comp_lib.families.protocol import Model
from comp_lib.models.load import EMBEDDED, load_model
from comp_lib.prune import prune
from comp_lib.settings import Settings
from comp_lib.shape import Shape

SEQUENCES, LENGTH = 16, 256
SEEDS = (0, 1, 2)
PAPER = {"recovery": "mask", "layers": 2, "layer_metric": "block-influence", "widths": "per-layer"}
WANDA = {"method": "wanda-sp", "recovery": "none"}
# Without a refit the metric of COMP is another one (`Settings.neuron_metric`); "same price" keeps that of the refit.
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
    "aim: dense": {"aim": "dense"},
    "layers only": {"layers": 6},
    "2 layers + neurons": {"layers": 2},
    "2 layers by block influence": {"layers": 2, "layer_metric": "block-influence"},
    "2 of 3 KV groups + neurons": {"kv_groups": 2},
    "the paper's plan and mask": PAPER,
}
RATIOS = [
    (name, {**changes, "ratio": ratio})
    for ratio in (0.1, 0.3, 0.5)
    for name, changes in (("COMP", {}), ("Wanda-sp, no recovery", WANDA))
]
GRID: list[tuple[str, dict[str, Any], int]] = [
    *((name, changes, seed) for seed in SEEDS for name, changes in PARTS.items()),
    *((name, changes, SEEDS[0]) for name, changes in RATIOS),
]


def grid(model: Model, name: str) -> list[tuple[str, dict[str, Any], int]]:
    """GRID; of another model than the included one what it has of it, under one seed.

    That is: as many KV groups as are kept and one more, whole layers in proportion to its own.
    """
    if name == EMBEDDED:
        return GRID
    shape, found = Shape.of(model), []
    for part, changes, seed in GRID:
        if changes.get("kv_groups", 0) < shape.kv_groups[0]:
            if count := changes.get("layers", 0):
                fewer = round(count / 30 * shape.layers)
                part, changes = (
                    part.replace(f"{count} layers", f"{fewer} of the layers"),
                    {**changes, "layers": fewer},
                )
            found.append((part, changes, seed))
    return [each for each in found if each[2] == SEEDS[0]]


def row(
    model, dense: Evaluation, tokenizer, windows: torch.Tensor, name: str, changes: dict, seed: int
) -> dict:
    """One run of the grid; `dense` is the unpruned model on the same windows."""
    settings = Settings(**{"ratio": 0.2, "multiple": 32, "seed": seed, **changes})
    ids = calibration_tokens(
        "calibration", tokenizer, sequences=SEQUENCES, length=LENGTH, seed=seed, evaluated="evaluation"
    )
    start = time.perf_counter()
    pruned = prune(model, ids, settings)
    seconds = time.perf_counter() - start
    losses = perplexity(pruned.model, windows).losses
    increases = [loss - whole for loss, whole in zip(losses, dense.losses, strict=True)]
    return {
        "name": name,
        "changes": changes,
        "seed": seed,
        "removed": pruned.plan.removed,
        "layers": len(pruned.plan.layers),
        "neurons": [min(pruned.plan.neurons), max(pruned.plan.neurons)],
        "error": fmean(layer.error for layer in pruned.report.layers),
        "increase": fmean(increases),
        "increases": [round(increase, 5) for increase in increases],
        "seconds": round(seconds, 1),
    }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument(
        "--out", type=Path, help="default: benchmarks/ablation.jsonl, of another model ablation-MODEL"
    )
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no row after so long")
    arguments = parser.parse_args()
    name = "ablation" if arguments.model == EMBEDDED else f"ablation-{arguments.model}"
    out = arguments.out or HERE / f"{name}.jsonl"
    lines = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
    done = [(each["name"], each["changes"], each["seed"]) for each in map(json.loads, lines)]
    started = time.perf_counter()
    model, tokenizer = load_model(arguments.model)
    left = [each for each in grid(model, arguments.model) if each not in done]
    if not left:
        return
    windows = evaluation_windows(tokenizer)
    dense = perplexity(model, windows)
    for name, changes, seed in left:
        if time.perf_counter() - started > arguments.seconds:
            return
        result = row(model, dense, tokenizer, windows, name, changes, seed)
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        print(f"{name:28} seed {seed} {json.dumps(changes):60} {result['increase']:.4f} nats", flush=True)


if __name__ == "__main__":
    sys.exit(main())
