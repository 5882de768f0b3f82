"""`comp-lib benchmark`: how fast models run here, dense against pruned, beside the arithmetic limit."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.table import Table

from ..errors import InputError
from .console import Dtype, out, progress_bars, refusals


def benchmark(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="As for the other commands; the first is the baseline.")
    ],
    runtime: Annotated[
        str, typer.Option(help="transformers, llama.cpp (folders are exported), or auto: llama.cpp for .gguf files.")
    ] = "auto",
    kind: Annotated[str, typer.Option("--type", help="Of exports: f32, f16, q8_0, q4_1 or q4_0.")] = "q8_0",
    rounds: Annotated[int, typer.Option(help="All models take turns in each.")] = 5,
    prompt: Annotated[int, typer.Option(help="Tokens that are read.")] = 128,
    tokens: Annotated[int, typer.Option(help="Tokens that are written after the first.")] = 32,
    threads: Annotated[int | None, typer.Option(help="Cores that compute (default: as torch has it).")] = None,
    dtype: Dtype = "float32",
    as_json: Annotated[Path | None, typer.Option("--json", help="File for all that was measured.")] = None,
    figure: Annotated[Path | None, typer.Option(help="File (.png) for a picture.")] = None,
) -> None:
    """Prefill, decode, first token, memory and file size of each MODEL, and what speed-up was possible at most."""
    with refusals():
        import torch

        from ..on_device.benchmark import benchmark as run
        from ..on_device.benchmark import prepare, to_json
        from ..plots.on_device import plot_speedup

        for file in (as_json, figure):
            if file is not None and not file.absolute().parent.is_dir():
                raise InputError(f"expected a file in a folder that is there, got {file}: make the folder first")
        threads = torch.get_num_threads() if threads is None else threads
        with tempfile.TemporaryDirectory() as folder, progress_bars() as progress:
            jobs = prepare(
                models,
                runtime,
                kind,
                Path(folder),
                dtype=dtype,
                threads=threads,
                prompt=prompt,
                new_tokens=tokens,
                progress=progress,
            )
            measured = run(jobs, rounds, progress)
        out.print(table(measured))
        if as_json is not None:
            as_json.write_text(json.dumps(to_json(measured, jobs[0][1]), indent=1) + "\n", encoding="utf-8")
        if figure is not None:
            plot_speedup(measured).savefig(figure)


def table(measured) -> Table:
    """A column for each model; ratios are to the first."""
    from ..on_device.benchmark import gain

    found = Table("", *(each.name for each in measured))
    ratios = [gain(measured[0], each) for each in measured]
    rows = {
        "runtime": [each.runtime for each in measured],
        "file, MB": ["" if each.file_bytes is None else f"{each.file_bytes / 1e6:,.1f}" for each in measured],
        "memory, MB": [f"{each.memory / 1e6:,.1f}" for each in measured],
        "first token, ms": [_spread([1e3 * value for value in each.first]) for each in measured],
        "prefill, tokens/s": [_spread(each.prefill) for each in measured],
        "decode, tokens/s": [_spread(each.decode) for each in measured],
        "prefill, ratio": [_ratio(each.prefill) for each in ratios],
        "decode, ratio": [_ratio(each.speedup) for each in ratios],
        "at most": [f"{each.limit:.2f}" for each in ratios],
        "of the gain reached": [f"{each.share:.0%}" if each.limit > 1 else "" for each in ratios],
    }
    for name, cells in rows.items():
        found.add_row(name, *cells)
    found.caption = "medians (smallest to largest); at most: bytes read for a token, of the first by its own"
    return found


def _spread(values) -> str:
    return f"{median(values):,.1f} ({min(values):,.1f} to {max(values):,.1f})"


def _ratio(values: tuple[float, float, float]) -> str:
    middle, low, high = values
    return f"{middle:.2f}" if low == high else f"{middle:.2f} ({low:.2f} to {high:.2f})"
