"""One run of a comparison, measured in a process of its own, which runs this module: a fresh one knows its own peak.

Quality is the increase of the loss over the dense model, with a 95% interval (`evaluation.confidence`). It is taken
window by window, since texts are not equally hard:

    d_i = loss_pruned(window i) - loss_dense(window i),     increase = mean_i d_i
"""

from __future__ import annotations

import json
import os
import platform
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

import psutil
import torch
import transformers
from torch import Tensor

from .. import __version__
from ..calibration.tokens import calibration_tokens
from ..errors import InputError
from ..evaluation.by_kind import judge, windows_of
from ..evaluation.confidence import UNKNOWN
from ..evaluation.generation import ratio
from ..families import family_of
from ..families.protocol import Model
from ..models.load import load_model
from ..on_device import speed
from ..prune import prune
from ..settings import Settings
from ..system.machine import peak_bytes

SPEED: dict[str, Any] = {"prompt": 32, "new_tokens": 16, "rounds": 3}


@dataclass(frozen=True)
class Common:
    """What all runs of a grid share, but for the settings that vary."""

    model: str
    _: KW_ONLY
    dtype: str = "float32"
    settings: Settings = Settings()
    calibration: str = "calibration"  # name or path of a text, or "self"
    length: int = 256  # tokens in each sequence of it
    evaluation: str = "evaluation"  # name or path of a text, or "kinds" for the mean over all kinds
    windows: int = 12
    window: int = 512  # tokens in each


@dataclass(frozen=True)
class Run(Common):
    """All that decides the outcome of one run."""

    sequences: int  # of calibration text


def measure(run: Run) -> dict[str, Any]:
    """Prune and judge. Peak memory is that of this process above what it holds now: call it once, in a fresh one."""
    imports = psutil.Process().memory_info().rss
    model, tokenizer = load_model(run.model, run.dtype)
    windows = windows_of(run.evaluation, tokenizer, run.window, run.windows)
    size: dict[str, Any] = {"sequences": run.sequences, "length": run.length, "seed": run.settings.seed}
    ids = calibration_tokens(run.calibration, tokenizer, model=model, **size, evaluated=run.evaluation)
    before = decoder_parameters(model)
    started = time.perf_counter()
    small = prune(model, ids, run.settings, name=run.model, inplace=True).model
    seconds, peak = time.perf_counter() - started, peak_bytes() - imports
    del model
    dense, _ = load_model(run.model, run.dtype)
    rates = speed.measure({"dense": dense, "small": small}, **SPEED)
    libraries = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return quality(small, dense, windows) | {
        "removed": 1 - decoder_parameters(small) / before,
        "parameters": sum(map(Tensor.numel, small.parameters())),
        "seconds": seconds,
        "peak_megabytes": peak / 2**20,
        "decode_ratio": ratio(rates[0].decode, rates[1].decode)[0],  # of the times, so upside down
        "threads": torch.get_num_threads(),
        "versions": f"comp-lib {__version__}, {libraries}, Python {platform.python_version()}",
    }


def quality(small: Model, dense: Model, windows: Mapping[str, Tensor]) -> dict[str, float]:
    """Losses, their difference with its interval, KL and top-1 agreement, as means over the texts' windows (S, L)."""
    judged = judge(small, windows, dense)
    low, high = judged.intervals()["increase"] or UNKNOWN
    return judged.mean | {"increase_low": low, "increase_high": high}


def decoder_parameters(model: Model) -> int:
    """Counted from the tensors, whatever a method made of the layers."""
    return sum(parameter.numel() for parameter in family_of(model).layers(model).parameters())


def main() -> None:
    """Read a `Run` as JSON, write what was measured as the last line. Ends when whoever started it has ended."""
    parent = os.getppid()

    def end_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    request = json.load(sys.stdin)
    try:
        answer = measure(Run(**request | {"settings": Settings(**request["settings"])}))
    except InputError as error:
        sys.exit(f"InputError: {error}")
    sys.stdout.write(f"\n{json.dumps(answer)}\n")
