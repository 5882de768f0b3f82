"""`comp-lib benchmark`: how fast models run here, dense against pruned, beside the arithmetic limit."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.table import Table

from .console import Dtype, out, progress_bars, refusals
from .errors import InputError


def benchmark(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="As for the other commands; the first is the baseline.")
    ],
    runtime: Annotated[
        str, typer.Option(help="transformers, llama.cpp (folders are exported), or auto: llama.cpp for .gguf files.")
    ] = "auto",
    kind: Annotated[str, typer.Option("--type", help="For export to llama.cpp: f32, f16, q8_0, q4_0 or q4_1.")] = "q8_0",
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

        from .benchmark import benchmark as run
        from .benchmark import prepare, to_json
        from .plots.on_device import plot_speedup

        for file in (as_json, figure):
            if file is not None and not file.absolute().parent.is_dir():
                raise InputError(f"expected a file in a folder that is there, got {file}: make the folder first")
        threads = torch.get_num_threads() if threads is None else threads
        with tempfile.TemporaryDirectory() as folder, progress_bars() as progress:
            jobs = prepare(
                models, runtime, kind, Path(folder), dtype=dtype, threads=threads, prompt=prompt, new_tokens=tokens,
                progress=progress,
            )  # fmt: skip
            measured = run(jobs, rounds, progress)
        out.print(table(measured))
        if as_json is not None:
            as_json.write_text(json.dumps(to_json(measured, jobs[0][1]), indent=1) + "\n", encoding="utf-8")
        if figure is not None:
            plot_speedup(measured).savefig(figure)


def table(measured) -> Table:
    """One row for each model; ratios are to the first."""
    from .benchmark import gain

    found = Table("", "runtime", "file\nMB", "memory\nMB", "first token\nms", "prefill\ntokens/s", "decode\ntokens/s",
                  "decode\nspeed-up", "limit", "of the gain\nreached")  # fmt: skip
    for each in measured:
        ratios = gain(measured[0], each)
        first = each is measured[0]
        found.add_row(
            each.name, each.runtime, "" if each.file_bytes is None else f"{each.file_bytes / 1e6:,.0f}",
            f"{each.memory / 1e6:,.0f}", f"{1e3 * median(each.first):,.0f}", _spread(each.prefill),
            _spread(each.decode), *(["1", "1", ""] if first else [
                f"{ratios.speedup[0]:.2f} ({ratios.speedup[1]:.2f} to {ratios.speedup[2]:.2f})", f"{ratios.limit:.2f}",
                f"{ratios.share:.0%}" if ratios.limit > 1 else ""]),
        )  # fmt: skip
    found.caption = "medians over the rounds (smallest to largest); limit: bytes read for a token, of the first by its own"
    return found


def _spread(values: tuple[float, ...]) -> str:
    return f"{median(values):,.1f} ({min(values):,.1f} to {max(values):,.1f})"
