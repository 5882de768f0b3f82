"""Candidates for the widths of the default preset, each carried out by COMP on the same text.

    python benchmarks/widths.py --model gemma3-270m --windows 4 uniform spared estimated measured

    uniform      one width for all layers
    spared       LLM-Pruner's widths: the first layers and the last ones stay whole
    estimated    by the harm that a short measurement finds (importance/estimated_harm.py)
    measured     by the harm that a long one finds (importance/measured_harm.py)
    llm-pruner   for comparison: LLM-Pruner as its makers have it, without a fine-tuning

A fifth of the decoder goes. What stays is refitted to the layer's own output. `shipped` calibrates, with
sequences of 256 tokens, and windows of 512 tokens of all kinds judge. The losses above the dense model's are
kept window by window in benchmarks/widths.json, so that candidates can be compared in pairs.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import models
import numpy as np
import torch
from common import dense_pass, keep_row, parser_of
from kinds import spared_plan

from comp_lib.calibration.windows import calibration_tokens
from comp_lib.decoder.types import Model
from comp_lib.evaluation.loss import measure_loss
from comp_lib.evaluation.windows import windows_of
from comp_lib.hybrid_granularity.plan import Plan
from comp_lib.pruning.comp import prune
from comp_lib.pruning.planning import make_plan
from comp_lib.pruning.settings import Settings

FILE = Path(__file__).with_suffix(".json")
MEASURED = ("removed", "neurons", "increases", "planning_passes")  # the other fields say what was asked for
CANDIDATES = ("uniform", "spared", "estimated", "measured", "llm-pruner")
RATIO = 0.2
LENGTH = 256  # tokens of a calibration sequence
WINDOW = 512  # tokens of a window that judges


def settings_for(candidate: str) -> Settings:
    """What the candidate is planned by; what it is carried out by has the same recovery."""
    if candidate == "llm-pruner":
        return Settings(ratio=RATIO, method="llm-pruner", recovery="none")
    if candidate == "estimated":
        return Settings(ratio=RATIO, widths="estimated", aim="self")
    if candidate == "measured":
        return Settings(ratio=RATIO, widths="measured", aim="self")
    return Settings(ratio=RATIO, widths="uniform", aim="self")


def plan_of(candidate: str, dense: Model, ids: torch.Tensor) -> Plan:
    """How much the candidate leaves of each layer."""
    settings = settings_for(candidate)
    if candidate == "spared":
        return spared_plan(dense, settings)
    return make_plan(dense, ids, settings)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("candidates", nargs="+", choices=CANDIDATES)
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--windows", type=int, default=2, help="of each kind of text")
    arguments = parser.parse_args()
    dense, tokenizer = models.load(arguments.model)
    ids = calibration_tokens("shipped", tokenizer, sequences=arguments.sequences, length=LENGTH)
    windows = torch.cat([*windows_of("kinds", tokenizer, WINDOW, arguments.windows).values()])
    seconds_of_a_pass = dense_pass(dense, ids)
    dense_losses = measure_loss(dense, windows).losses
    for candidate in arguments.candidates:
        started = time.perf_counter()
        plan = plan_of(candidate, dense, ids)
        planning_passes = (time.perf_counter() - started) / seconds_of_a_pass
        pruned = prune(dense, ids, settings_for(candidate), plan=plan)
        increases = np.subtract(measure_loss(pruned.model, windows).losses, dense_losses)
        row = {
            "model": arguments.model,
            "sequences": arguments.sequences,
            "windows": arguments.windows,
            "candidate": candidate,
            "removed": pruned.plan.removed,
            "neurons": pruned.plan.neurons,
            "increases": [round(increase, 4) for increase in increases.tolist()],
            "planning_passes": round(planning_passes, 3),
        }
        print(
            f"{candidate}: {increases.mean():.4f} nats more, planned in {planning_passes:.2f} passes",
            flush=True,
        )
        keep_row(FILE, row, MEASURED)
        del pruned  # before the next one is made


if __name__ == "__main__":
    sys.exit(main())
