"""The ablations of notebook 05: what each part of COMP is worth, on the real model.

    python benchmarks/ablation.py [--out benchmarks/ablation.jsonl] [--rows 1000]

One line of JSON for each run, written as it ends; a second call skips what is there. Calibration and evaluation are
the project's own two texts. `increase` is the extra loss over the dense model, nats per token.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from comp_lib.calibration.text import load_text
from comp_lib.calibration.tokens import calibration_tokens
from comp_lib.evaluation.loss import evaluation_tokens, perplexity
from comp_lib.models.load import EMBEDDED, load_model
from comp_lib.prune import prune
from comp_lib.settings import Settings

SEQUENCES, LENGTH = 16, 256
WINDOWS, WINDOW = 12, 512
PAPER = {"recovery": "mask", "layers": 2, "layer_metric": "block-influence", "widths": "per-layer"}
GRID: list[tuple[str, dict]] = [
    ("COMP", {}),
    ("recovery: mask", {"recovery": "mask"}),
    ("recovery: none", {"recovery": "none"}),
    ("metric: Wanda-sp", {"method": "wanda-sp"}),
    ("metric: random", {"method": "random"}),
    ("metric: magnitude", {"method": "magnitude"}),
    ("Wanda-sp, no recovery", {"method": "wanda-sp", "recovery": "none"}),
    ("layers only", {"layers": 6}),
    ("2 layers + neurons", {"layers": 2}),
    ("COMP", {"ratio": 0.1}),
    ("COMP", {"ratio": 0.3}),
    ("COMP", {"ratio": 0.5}),
    ("Wanda-sp, no recovery", {"method": "wanda-sp", "recovery": "none", "ratio": 0.1}),
    ("Wanda-sp, no recovery", {"method": "wanda-sp", "recovery": "none", "ratio": 0.3}),
    ("Wanda-sp, no recovery", {"method": "wanda-sp", "recovery": "none", "ratio": 0.5}),
    ("COMP", {"seed": 1}),
    ("COMP", {"seed": 2}),
    ("Wanda-sp, no recovery", {"method": "wanda-sp", "recovery": "none", "seed": 1}),
    ("Wanda-sp, no recovery", {"method": "wanda-sp", "recovery": "none", "seed": 2}),
    ("ridge: 0.1 in every layer", {"ridge": 0.1}),
    ("target: dense", {"aim": "dense"}),
    ("2 layers by block influence", {"layers": 2, "layer_metric": "block-influence"}),
    ("2 of 3 KV groups + neurons", {"kv_groups": 2}),
    ("metric: energy", {"method": "energy"}),
    ("metric: activation", {"method": "activation"}),
    ("the paper's plan and mask", PAPER),
]


def row(model, dense_loss: float, tokenizer, windows: torch.Tensor, name: str, changes: dict) -> dict:
    """One run of the grid."""
    settings = Settings(**{"ratio": 0.2, "multiple": 32, **changes})
    ids = calibration_tokens(
        "calibration", tokenizer, sequences=SEQUENCES, length=LENGTH, seed=settings.seed, evaluated="evaluation"
    )
    start = time.perf_counter()
    pruned = prune(model, ids, settings)
    seconds = time.perf_counter() - start
    loss = perplexity(pruned.model, windows).loss
    return {
        "name": name,
        "changes": changes,
        "removed": pruned.plan.removed,
        "layers": len(pruned.plan.layers),
        "neurons": [min(pruned.plan.neurons), max(pruned.plan.neurons)],
        "increase": loss - dense_loss,
        "seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "ablation.jsonl")
    parser.add_argument("--rows", type=int, default=len(GRID), help="new rows at most")
    arguments = parser.parse_args()
    lines = arguments.out.read_text(encoding="utf-8").splitlines() if arguments.out.exists() else []
    done = [json.loads(line) for line in lines]
    left = [(n, c) for n, c in GRID if not any(d["name"] == n and d["changes"] == c for d in done)][: arguments.rows]
    if not left:
        return
    model, tokenizer = load_model(EMBEDDED)
    windows = evaluation_tokens(tokenizer, load_text("evaluation"), length=WINDOW, sequences=WINDOWS)
    dense_loss = perplexity(model, windows).loss
    for name, changes in left:
        result = row(model, dense_loss, tokenizer, windows, name, changes)
        with arguments.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        print(f"{name:32} {json.dumps(changes):60} {result['removed']:.1%} {result['increase']:.4f} nats", flush=True)


if __name__ == "__main__":
    sys.exit(main())
