"""`comp-lib plan`: what would go, for a budget in time, and why; nothing is pruned for keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ..errors import InputError
from .console import Device, Dtype, Model, check_length, out, progress_bars, refusals


def plan(
    model: Model,
    budget: Annotated[str, typer.Option(help="latency=0.75 of the time of a token, or prefill=0.75.")],
    file: Annotated[Path | None, typer.Option("--out", help="File (.json) for the plan.")] = None,
    trials: Annotated[int, typer.Option(help="Candidates that are tried; 0: the one that drops fewest layers.")] = 4,
    layer_metric: Annotated[str, typer.Option(help="block-influence, loss or greedy.")] = "loss",
    calibration: Annotated[str, typer.Option(help="Text name, file, or self.")] = "calibration",
    sequences: Annotated[int, typer.Option(help="Calibration sequences.")] = 16,
    length: Annotated[int, typer.Option(help="Tokens in each.")] = 256,
    multiple: Annotated[int, typer.Option(help="Widths are multiples of this.")] = 64,
    seed: Annotated[int, typer.Option()] = 0,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """Plan for a share of MODEL's time on this machine: how many layers, how wide, by a few trials."""
    with refusals():
        from ..calibration.tokens import calibration_tokens
        from ..models.load import load_model
        from ..on_device.latency import parse_budget
        from ..on_device.time_budget import timed_plan
        from ..settings import Settings
        from ..shape import Shape

        kind, share = parse_budget(budget)
        settings = Settings(layer_metric=layer_metric, multiple=multiple, seed=seed, device=device)
        settings.check()
        if file is not None and not file.absolute().parent.is_dir():
            raise InputError(f"expected a file in a folder that is there, got {file}: make the folder first")
        loaded, tokenizer = load_model(model, dtype=dtype)
        check_length(loaded, length)
        ids = calibration_tokens(calibration, tokenizer, model=loaded, sequences=sequences, length=length, seed=seed)
        with progress_bars() as progress:
            chosen, rows, cost = timed_plan(
                loaded, ids, settings, kind, share, trials=trials, name=model, progress=progress
            )
        shape = Shape.of(loaded)
        whole = cost.milliseconds(shape.neurons, shape.kv_groups)
        out.print(
            f"{kind}: {whole:.1f} ms, of which {cost.fixed:.1f} whatever the plan, {cost.layer:.3f} for each layer, "
            f"{cost.group:.4f} for each KV group, {1e3 * cost.neuron:.3f} for 1,000 neurons (misfit {cost.misfit:.0%})"
        )
        table = Table("layers", "neurons", "removed", f"time of {kind}", "loss when tried", "chosen")
        for row in rows:
            loss = "" if row.loss is None else f"{row.loss:.3f}"
            mark = "yes" if row.plan is chosen else ""
            widths = f"{row.plan.neurons[0]:,}"
            table.add_row(str(len(row.plan.layers)), widths, f"{row.plan.removed:.1%}", f"{row.share:.2f}", loss, mark)
        out.print(table)
        if file is not None:
            chosen.save(file)
            out.print(f"saved: {file}", soft_wrap=True)
