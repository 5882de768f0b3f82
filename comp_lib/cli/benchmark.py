"""`comp-lib benchmark`: how fast models run here, dense against pruned, beside the arithmetic limit."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

from rich.table import Table
from typer import Argument, Option

from .console import ProgressBars, check_file, out, writing
from .options import Dtype, command

if TYPE_CHECKING:
    from ..on_device.benchmark import Measured

MODELS_HELP = "As for the other commands; the first is the baseline."
RUNTIME_HELP = "transformers, llama.cpp (folders are exported), or auto: llama.cpp for .gguf files."
Models = Annotated[list[str], Argument(metavar="MODEL...", help=MODELS_HELP)]


@dataclass(frozen=True)
class BenchmarkOptions:
    runtime: Annotated[str, Option(help=RUNTIME_HELP)] = "auto"
    kind: Annotated[str, Option("--type", help="Of exports: f32, f16, q8_0, q4_1 or q4_0.")] = "q8_0"
    rounds: Annotated[int, Option(help="All models take turns in each.")] = 5
    prompt: Annotated[int, Option(help="Tokens that are read.")] = 128
    tokens: Annotated[int, Option(help="Tokens that are written after the first.")] = 32
    threads: Annotated[int | None, Option(help="Cores that compute (default: as torch has it).")] = None
    dtype: Dtype = "float32"
    as_json: Annotated[Path | None, Option("--json", help="File for all that was measured.")] = None
    figure: Annotated[Path | None, Option(help="File (.png) for a picture.")] = None


@command
def benchmark(models: Models, options: BenchmarkOptions) -> None:
    """Prefill, decode, first token, memory and file size of each MODEL, and what speed-up was possible at most."""
    import torch

    from ..on_device.benchmark import benchmark as run
    from ..on_device.benchmark import prepare, to_json
    from ..on_device.runtimes import Workload
    from ..plots.on_device import plot_speedup

    check_file(options.as_json)
    check_file(options.figure)
    threads = torch.get_num_threads() if options.threads is None else options.threads
    work = Workload(options.prompt, options.tokens, threads, options.dtype)
    with tempfile.TemporaryDirectory() as folder, ProgressBars() as bars:
        jobs = prepare(models, options.runtime, options.kind, Path(folder), work, bars)
        measured = run(jobs, options.rounds, bars)
    out.print(table(measured))
    if options.as_json is not None:
        with writing(options.as_json):
            text = json.dumps(to_json(measured, jobs[0][1]), indent=1)
            options.as_json.write_text(text + "\n", encoding="utf-8")
    if options.figure is not None:
        with writing(options.figure):
            plot_speedup(measured).savefig(options.figure)


def table(measured: Sequence[Measured]) -> Table:
    """A column for each model; ratios are to the first."""
    from ..on_device.benchmark import gain

    gains = [gain(measured[0], model) for model in measured]
    rows = {
        "runtime": [model.runtime for model in measured],
        "file, MB": ["" if model.file_bytes is None else f"{model.file_bytes / 1e6:,.1f}" for model in measured],
        "memory, MB": [f"{model.memory / 1e6:,.1f}" for model in measured],
        "first token, ms": [_spread([1e3 * seconds for seconds in model.first]) for model in measured],
        "prefill, tokens/s": [_spread(model.prefill) for model in measured],
        "decode, tokens/s": [_spread(model.decode) for model in measured],
        "prefill, ratio": [_ratio(*gained.prefill) for gained in gains],
        "decode, ratio": [_ratio(*gained.speedup) for gained in gains],
        "at most": [f"{gained.limit:.2f}" for gained in gains],
        "of the gain reached": [f"{gained.share:.0%}" if gained.limit > 1 else "" for gained in gains],
    }
    caption = "medians (smallest to largest); at most: bytes read for a token, of the first by its own"
    result = Table("", *(model.name for model in measured), caption=caption)
    for name, cells in rows.items():
        result.add_row(name, *cells)
    return result


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):,.1f} ({min(values):,.1f} to {max(values):,.1f})"


def _ratio(middle: float, low: float, high: float) -> str:
    return f"{middle:.2f}" if low == high else f"{middle:.2f} ({low:.2f} to {high:.2f})"
