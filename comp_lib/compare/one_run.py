"""One run of a comparison, measured in a process of its own, which runs this module: a fresh one knows its own peak.

Quality is the increase of the loss over the dense model, with a 95% interval (`evaluation.confidence`). It is taken
window by window, since texts are not equally hard:

    d_i = loss_pruned(window i) - loss_dense(window i),     increase = mean_i d_i
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import psutil
import torch
import transformers

from .. import __version__
from ..calibration.windows import calibration_tokens, windows_of
from ..evaluation.by_kind import judge
from ..evaluation.confidence import UNKNOWN
from ..evaluation.generation import ratio
from ..gguf import speed
from ..models.load import load_model
from ..prune import prune
from ..settings import Settings
from ..system.machine import peak_bytes


def measure(
    model: str,
    settings: Settings,
    *,
    calibration: str,
    sequences: int,
    length: int,
    evaluation: str,
    windows: int,
    window: int,
) -> dict[str, Any]:
    """Prune the model of that name and judge it; see `grid.Grid` for what is told.

    Peak memory is that of this process above what it holds now: call it once, in a fresh one.
    """
    imports = psutil.Process().memory_info().rss
    parent, tokenizer = load_model(model)
    judging = windows_of(evaluation, tokenizer, window, windows)
    size: dict[str, Any] = {"sequences": sequences, "length": length, "seed": settings.seed}
    ids = calibration_tokens(calibration, tokenizer, model=parent, **size, evaluated=evaluation)
    started = time.perf_counter()
    pruned = prune(parent, ids, settings, name=model, inplace=True)
    seconds, peak = time.perf_counter() - started, peak_bytes() - imports
    del parent
    dense, _ = load_model(model)
    small: Any = pruned.model
    rates = speed.measure({"dense": dense, "small": small}, prompt=32, new_tokens=16, rounds=3)
    judged = judge(small, judging, dense)
    low, high = judged.intervals()["increase"] or UNKNOWN
    return judged.mean | {
        "increase_low": low,
        "increase_high": high,
        "removed": pruned.plan.removed,
        "parameters": small.num_parameters(),
        "seconds": seconds,
        "peak_megabytes": peak / 2**20,
        "decode_ratio": ratio(rates[0].decode, rates[1].decode)[0],  # of the times, so upside down
        "versions": f"comp-lib {__version__}, torch {torch.__version__}, transformers {transformers.__version__}",
    }


if __name__ == "__main__":
    told = json.load(sys.stdin)
    answer = measure(**told | {"settings": Settings(**told["settings"])})
    sys.stdout.write(f"\n{json.dumps(answer)}\n")
