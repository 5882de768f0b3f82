"""Pruning with a card: seconds beside the least that it could take, and memory on the device and in the process.

    python benchmarks/gpu.py [--device cuda] [--layers 4] [--sequences 32] [--length 256] [--work build]

For the real model, SmolLM2-135M, and for LLaMA-2-7B's shape with --layers layers of random weights (written into --work
and removed, as scale.py does it): one dense pass over the calibration tokens with the whole model on the device; then
`prune` in memory, which has one layer at a time there, or `prune_to` from files to files; each in a process of its own,
in float32, by a fifth. The least is that of `comp_lib.scale.limit` with the rates of products that the device itself
reaches; what travels between it and this machine is not in it. Of a run in memory it has no reading and writing.

Seconds of fewer layers are scaled up in what is printed, and only there: those within layers by the number of layers,
as are the dense pass and the least; the rest stays. Rows are kept in benchmarks/gpu.json, one for each card and run.

A card works behind the program's back, so seconds by phase would say where somebody waited: only their sum is kept.
Without a CUDA device this ends with one line and exit code 2. Apple's "mps" has no float64 and is refused as well.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from headline import dense_pass, keep
from scale import SIZES, make, parent
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from comp_lib.errors import InputError
from comp_lib.models.load import EMBEDDED, load_model
from comp_lib.prune import prune
from comp_lib.report import Report
from comp_lib.scale.limit import Machine, Run, least_seconds, product_rates
from comp_lib.scale.model_on_disk import Streamed
from comp_lib.scale.prune_to import Saving, prune_to
from comp_lib.settings import Settings
from comp_lib.shape import Shape
from comp_lib.system.machine import available_device, finish, peak_bytes

FILE = Path(__file__).with_suffix(".json")
MEASURED = (  # the rest of a row says what was asked, and of which card
    "removed",
    "dense_seconds",
    "seconds",
    "seconds_in_layers",
    "least",
    "rates",
    "device_megabytes",
    "left_on_device_megabytes",
    "peak_megabytes",
    "imports_megabytes",
)
IN_MEMORY = ("attention", "MLP", "Gram", "selection", "solve")  # phases of a run without files
REAL, SHAPE = "135m", "7b"


@dataclass(frozen=True)
class Job:
    """One run, in a process of its own."""

    device: str
    how: str  # "memory" or "files"
    folder: str | None  # of a checkpoint with random weights; None: the real model
    out: str  # folder for what is written
    sequences: int
    length: int
    multiple: int = 64

    @property
    def settings(self) -> Settings:
        return Settings(ratio=0.2, multiple=self.multiple, device=self.device)


@dataclass(frozen=True)
class Done:
    """What a run took, and would have taken at least."""

    shape: Shape  # of the parent
    report: Report
    seconds: float
    least: float
    removed: float  # of the decoder
    most: int  # bytes on the device at once; of a run of files with what measured its limit


def check(device: str) -> None:
    """Raises InputError unless `device` names a CUDA device that is here."""
    if not torch.cuda.is_available():
        got = f"none with torch {torch.__version__}"
        raise InputError(f"expected a CUDA device, got {got}: run this where torch.cuda.is_available() is true")
    if not device.startswith("cuda"):
        raise InputError(f"expected a CUDA device, got {device!r}: benchmarks/scale.py measures the CPU")
    available_device(device, double=True)


def device_bytes(device: str, most: bool = False) -> int:
    """What tensors take on `device` now, or took at most since `ready`. 0 for the CPU."""
    if torch.device(device).type != "cuda":
        return 0
    return int((torch.cuda.max_memory_allocated if most else torch.cuda.memory_allocated)(device))


def ready(device: str) -> None:
    """The most on `device` is counted from here: its libraries are loaded, and what they keep is there."""
    if torch.device(device).type == "cuda":
        for dtype in (torch.float32, torch.float64):
            square = torch.eye(64, dtype=dtype, device=device)
            torch.linalg.solve_triangular(torch.linalg.cholesky_ex(square)[0], square, upper=False)
            finish(str((square @ square).device))
        heads = torch.ones(1, 2, 64, 64, device=device)
        nn.functional.scaled_dot_product_attention(heads, heads, heads, is_causal=True)
        finish(device)
        del square, heads
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def loaded(folder: str | None) -> nn.Module:
    """The model on the CPU, in float32."""
    if folder is None:
        model: nn.Module = load_model(EMBEDDED)[0]
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32", attn_implementation="sdpa").eval()
    return model


def in_memory(job: Job, ids: Tensor) -> Done:
    """`prune`, and beside it the least that the device takes for its products."""
    model, settings = loaded(job.folder), job.settings
    shape, started = Shape.of(model), time.perf_counter()
    done = prune(model, ids, settings, inplace=True)
    finish(job.device)
    seconds, most = time.perf_counter() - started, device_bytes(job.device, most=True)
    run = Run(shape, done.plan, settings, len(ids), ids.shape[1], stored=0, saved=0)
    least = least_seconds(run, Machine(*product_rates(shape, job.device), read=1.0, written=1.0))
    return Done(shape, done.report, seconds, sum(least[name] for name in IN_MEMORY), done.plan.removed, most)


def from_files(job: Job, model: Streamed, tokenizer: Any, ids: Tensor) -> Done:
    """`prune_to`, whose report has the least."""
    started = time.perf_counter()
    written = prune_to(job.out, model, tokenizer, ids, job.settings, saving=Saving(dtype=torch.bfloat16))
    seconds = time.perf_counter() - started
    least = sum(written.report.least.values())
    most = device_bytes(job.device, most=True)
    return Done(written.before, written.report, seconds, least, written.plan.removed, most)


def measured(job: Job) -> dict[str, Any]:
    """What a row says of a run: seconds, the least, megabytes. Once in a process, whose peak is taken.

    The dense pass is behind the run, so its memory counts nowhere. Raises InputError for a device that is not here.
    """
    job.settings.check()
    folder, config, tokenizer, ids = parent(job.folder, (job.sequences, job.length))
    imports = psutil.Process().memory_info().rss
    ready(job.device)
    before = device_bytes(job.device)
    files = job.how == "files"
    done = from_files(job, Streamed(folder, config), tokenizer, ids) if files else in_memory(job, ids)
    gc.collect()
    left, peak = device_bytes(job.device), peak_bytes()
    rates = product_rates(done.shape, job.device)
    dense = dense_pass(loaded(job.folder).to(job.device), ids.to(job.device))
    return {
        "parameters": done.shape.total,
        "layers": done.shape.layers,
        "tokens": ids.numel(),
        "removed": done.removed,
        "dense_seconds": dense,
        "seconds": done.seconds,
        "seconds_in_layers": sum(layer.seconds for layer in done.report.layers),
        "least": done.least,
        "rates": {"float32": rates[0], "float64": rates[1]},
        "device_megabytes": done.most / 2**20,
        "left_on_device_megabytes": (left - before) / 2**20,
        "peak_megabytes": peak / 2**20,
        "imports_megabytes": imports / 2**20,
        "threads": torch.get_num_threads(),
    }


def table(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each row, its seconds as measured and scaled up to all layers of the shape."""
    lines = [
        f"{'shape':7}{'run':8}{'layers':>8}{'tokens':>8}{'dense s':>9}{'run s':>9}{'least s':>9}{'ratio':>7}"
        f"{'device MB':>11}{'process MB':>12}"
    ]
    for row in rows:
        whole = SIZES[SHAPE].layers if row["shape"] == SHAPE else row["layers"]
        lines.append(line(row, row["layers"], f"{row['device_megabytes']:>11,.0f}{row['peak_megabytes']:>12,.0f}"))
        if whole != row["layers"]:
            lines.append(line(scaled(row, whole), whole, "   scaled up from the line above, not measured"))
    return lines


def line(row: dict[str, Any], layers: int, end: str) -> str:
    ratio = row["seconds"] / row["least"]
    seconds = "".join(f"{row[name]:>9.2f}" for name in ("dense_seconds", "seconds", "least"))
    return f"{row['shape']:7}{row['how']:8}{layers:>8}{row['tokens']:>8,}{seconds}{ratio:>7.2f}{end}"


def scaled(row: dict[str, Any], layers: int) -> dict[str, Any]:
    """The seconds that so many layers would take: those in layers in proportion, as the dense pass and the least."""
    times, inside = layers / row["layers"], row["seconds_in_layers"]
    seconds = row["seconds"] - inside + inside * times
    return row | {"seconds": seconds, "least": row["least"] * times, "dense_seconds": row["dense_seconds"] * times}


def run(job: Job) -> dict[str, Any]:
    """`measured`, in a process of its own. What it says goes to stderr."""
    child = [sys.executable, __file__, "--child", json.dumps(vars(job))]
    found: dict[str, Any] = json.loads(subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, or cuda:1")
    parser.add_argument("--layers", type=int, default=4, help="of the 7B shape, which has 32")
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--work", type=Path, default=Path("build"), help="where a checkpoint is made and removed")
    parser.add_argument("--out", type=Path, default=FILE)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measured(Job(**json.loads(arguments.child)))))
        return
    try:
        check(arguments.device)
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    card = {"card": torch.cuda.get_device_name(arguments.device), "torch": torch.__version__}
    arguments.work.mkdir(parents=True, exist_ok=True)
    work, rows = Path(tempfile.mkdtemp(prefix="gpu-", dir=arguments.work.resolve())), []
    try:
        make(work / SHAPE, replace(SIZES[SHAPE], layers=arguments.layers))
        for shape in (REAL, SHAPE):
            for how in ("memory", "files"):
                folder = str(work / SHAPE) if shape == SHAPE else None
                out = str(work / f"{shape}-{how}")
                found = run(Job(arguments.device, how, folder, out, arguments.sequences, arguments.length))
                rows.append({"shape": shape, "how": how, **card, **found})
                keep(rows[-1], arguments.out, MEASURED)
    finally:
        shutil.rmtree(work)
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
