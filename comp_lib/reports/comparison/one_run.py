"""One run of a comparison, in a process of its own that runs this module, so that its peak of memory shows.

Quality is the increase of the loss over the parent, with a 95% interval (`evaluation.confidence`). It is
taken window by window, since texts are not equally hard:

    d_i = loss_pruned(window i) - loss_parent(window i),     increase = mean_i d_i
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import psutil
import torch
import transformers

from ... import __version__
from ...calibration.windows import calibration_tokens
from ...checkpoints.load import load_model
from ...evaluation.by_kind import judge
from ...evaluation.confidence import NO_INTERVAL
from ...evaluation.windows import windows_of
from ...pruning.comp import prune
from ...pruning.settings import Settings
from ...utils.machine import peak_bytes
from .. import speed


def measure(
    model: str,
    settings: Settings,
    *,
    calibration: str,
    sequences: int,
    length: int,
    judged_on: str,
    window_count: int,
    window_length: int,
) -> dict[str, Any]:
    """Prune the model of that name and judge it: the columns of its row; see `grid.Grid` for the arguments.

    Peak memory is counted from what this process holds now, so call this once, in a fresh process.
    """
    bytes_of_imports = psutil.Process().memory_info().rss
    parent, tokenizer = load_model(model)
    windows_by_text = windows_of(judged_on, tokenizer, window_length, window_count)
    ids = calibration_tokens(
        calibration,
        tokenizer,
        model=parent,
        sequences=sequences,
        length=length,
        seed=settings.seed,
        judged_on=judged_on,
    )
    start = time.perf_counter()
    pruned = prune(parent, ids, settings, model_name=model, inplace=True)
    seconds = time.perf_counter() - start
    bytes_of_pruning = peak_bytes() - bytes_of_imports
    del parent  # pruning in place has used it up
    fresh_parent, _ = load_model(model)
    small: Any = pruned.model
    rates = speed.measure({"parent": fresh_parent, "small": small}, prompt=32, new_tokens=16, rounds=3)
    # the parent's tokens per second divided by the small model's: below 1 the small model is faster
    decode_ratio, _, _ = speed.median_ratio(rates[0].decode, rates[1].decode)
    judged = judge(small, windows_by_text, fresh_parent)
    low, high = judged.intervals.increase or NO_INTERVAL
    libraries = f"torch {torch.__version__}, transformers {transformers.__version__}"
    quality_columns = judged.mean.values | {"increase_low": low, "increase_high": high}
    size_columns = {"removed": pruned.plan.removed, "parameters": small.num_parameters()}
    machine_columns = {
        "seconds": seconds,
        "peak_megabytes": bytes_of_pruning / 2**20,
        "decode_ratio": decode_ratio,
        "versions": f"comp-lib {__version__}, {libraries}",
    }
    return quality_columns | size_columns | machine_columns


if __name__ == "__main__":
    request = json.load(sys.stdin)
    request["settings"] = Settings(**request["settings"])
    sys.stdout.write(f"\n{json.dumps(measure(**request))}\n")
