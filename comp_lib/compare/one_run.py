"""One cell of a comparison, measured in a process of its own: `python -m comp_lib.cell`.

A fresh process knows its own peak memory, and one that is killed or crashes hurts no other. The job comes as a line
of JSON on stdin and the result leaves as JSON on stdout; whatever libraries print goes to stderr. When stdin closes,
whoever asked is gone, and the process ends too (`launch` is the other side). The job says what the model and the texts
must hold, since on another machine the same name may mean something else.

Quality is the increase of the loss over the dense model, taken window by window, since texts are not equally hard:

    d_i = loss_pruned(window i) - loss_dense(window i),     increase = mean_i d_i,

with a 95% interval from the paired bootstrap (see `confidence`).
"""

from __future__ import annotations

import json
import os
import platform
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import psutil
import torch
import transformers
from torch import Tensor, nn

from .. import __version__
from ..calibration.stream import batches
from ..calibration.text import load_text
from ..calibration.tokens import SELF, calibration_tokens, sources
from ..errors import InputError
from ..evaluation.generation import measure_speed, ratio
from ..evaluation.loss import compare, evaluation_tokens
from ..families import family_of
from ..models.load import load_model
from ..prune import prune
from ..settings import Settings
from ..system import hashes

PROMPT, NEW_TOKENS, ROUNDS = 32, 16, 3  # of the decode speed


@dataclass(frozen=True)
class Cell:
    """One run: all that decides its outcome."""

    model: str
    dtype: str
    settings: Settings
    calibration: str  # name or path of a text, or "self"
    sequences: int
    length: int  # tokens in each
    evaluation: str
    windows: int
    window: int  # tokens in each


@dataclass(frozen=True)
class Job:
    """A cell as it travels to the process that measures it."""

    cell: Cell
    contents: dict[str, str]  # see `contents`
    check: bool = False  # only whether this machine has all that it takes
    version: str = __version__  # of the library that asks

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        fields = json.loads(text)
        cell = fields["cell"]
        return cls(**fields | {"cell": Cell(**cell | {"settings": Settings(**cell["settings"])})})

    def run(self) -> dict[str, float | int | str]:
        """What was measured; nothing when only to check. Raises InputError when this machine lacks something."""
        if self.version != __version__:
            raise InputError(
                f"expected comp-lib {self.version}, as on the machine that asks, got {__version__} on "
                f"{socket.gethostname()}: install the same version"
            )
        if not self.check:
            return measure(self.cell, self.contents)
        check_contents(self.cell, load_model(self.cell.model, self.cell.dtype)[0], self.contents)
        return {}


def contents(cell: Cell, model: nn.Module) -> dict[str, str]:
    """What stands behind the cell's three names here: hashes of the tensors of `model` and of both texts."""
    parts = (SELF if part == SELF else load_text(part) for part in sources(cell.calibration))
    texts = {"calibration": "\0".join(parts), "evaluation": load_text(cell.evaluation)}
    return {"model": hashes.of_model(model)} | {what: hashes.of_text(text) for what, text in texts.items()}


def check_contents(cell: Cell, model: nn.Module, expected: dict[str, str]) -> None:
    """Raises InputError where a name means another thing on this machine than on the one that asks."""
    found = contents(cell, model)
    for what, value in expected.items():
        if found[what] != value:
            raise InputError(
                f"expected the same {what} {getattr(cell, what)!r} on {socket.gethostname()} as on the machine that "
                "asks, got another content: copy it there, to the same path"
            )


def measure(cell: Cell, expected: dict[str, str]) -> dict[str, float | int | str]:
    """Prune and judge. Peak memory is that of this process above what it holds now: call it once, in a fresh one.

    Raises InputError when model and texts are not the `expected` contents.
    """
    imports = psutil.Process().memory_info().rss
    model, tokenizer = load_model(cell.model, cell.dtype)
    windows = evaluation_tokens(tokenizer, load_text(cell.evaluation), cell.window, cell.windows)
    ids = calibration_tokens(
        cell.calibration,
        tokenizer,
        model=model,
        sequences=cell.sequences,
        length=cell.length,
        seed=cell.settings.seed,
        evaluated=cell.evaluation,
    )
    before = decoder_parameters(model)
    started = time.perf_counter()
    small = prune(model, ids, cell.settings, name=cell.model, inplace=True).model
    seconds = time.perf_counter() - started
    peak = peak_bytes() - imports
    del model
    dense, _ = load_model(cell.model, cell.dtype)
    check_contents(cell, dense, expected)  # reads all of the model, so not before the peak is known
    unit = dense_pass(dense, ids)
    dense_speed, speed = measure_speed([dense, small], windows[:1, :PROMPT], NEW_TOKENS, ROUNDS)
    return {
        "removed": 1 - decoder_parameters(small) / before,
        "parameters": sum(parameter.numel() for parameter in small.parameters()),
        **quality(small, dense, windows),
        "seconds": seconds,
        "passes": seconds / unit,
        "peak_megabytes": peak / 2**20,
        "decode_ms": 1000 / median(speed.decode),
        "dense_decode_ms": 1000 / median(dense_speed.decode),
        "decode_ratio": ratio(dense_speed.decode, speed.decode)[0],  # of the times, so upside down
        "threads": torch.get_num_threads(),
        "versions": f"comp-lib {__version__}, torch {torch.__version__}, transformers {transformers.__version__}, "
        f"Python {platform.python_version()}",
    }


def quality(small: nn.Module, dense: nn.Module, windows: Tensor) -> dict[str, float]:
    """Losses, their difference with its interval, KL and top-1 agreement over `windows` (S, L)."""
    found = compare(small, dense, windows)
    low, high = found.intervals()["increase"]
    return {
        "dense_loss": found.dense_loss,
        "loss": found.loss,
        "increase": found.loss - found.dense_loss,
        "increase_low": low,
        "increase_high": high,
        "kl": found.kl,
        "top1_agreement": found.top1_agreement,
    }


def decoder_parameters(model: nn.Module) -> int:
    """Counted from the tensors, whatever a method made of the layers."""
    return sum(parameter.numel() for parameter in family_of(model).layers(model).parameters())


@torch.inference_mode()
def dense_pass(model: nn.Module, ids: Tensor) -> float:
    """Seconds of one forward pass over `ids` (S, L), logits included, after a first touch that reads the weights."""
    model(input_ids=ids[:1], use_cache=False)
    started = time.perf_counter()
    for rows in batches(*ids.shape):
        model(input_ids=ids[rows], use_cache=False)
    return time.perf_counter() - started


def peak_bytes() -> int:
    """Most resident memory that this process ever had.

    On Linux not `ru_maxrss`: that survives exec, and so starts at the size of the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    memory = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):  # Windows, which has no module `resource`
        return memory.peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def main() -> None:
    result = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    job = Job.from_json(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    json.dump(job.run(), result)
    result.close()


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
