"""`comp-lib evaluate`: how good a model is, on a text or in tasks."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from ..errors import InputError
from .console import Device, Dtype, Model, check_length, out, progress_bars, refusals


def evaluate(
    model: Model,
    text: Annotated[str, typer.Option(help="Text name or file.")] = "evaluation",
    length: Annotated[int, typer.Option(help="Tokens in each window (papers: 2048).")] = 512,
    sequences: Annotated[int | None, typer.Option(help="Windows to measure (default: all).")] = None,
    against: Annotated[str | None, typer.Option(help="Dense model, for KL divergence and top-1 agreement.")] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Instead of a text: offline, literature, or lm-eval's names, with commas.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """Perplexity of MODEL on a text, with 95% intervals, or its accuracy in tasks."""
    with refusals():
        if tasks is not None:
            if against is not None:
                raise InputError("expected --against with a text, got it with --tasks; evaluate each model by itself")
            _tasks(model, tasks, as_json, dtype, device)
            return
        from ..calibration.text import load_text
        from ..evaluation.loss import compare, evaluation_tokens, perplexity
        from ..models.load import load_model

        prose = load_text(text)
        loaded, tokenizer = load_model(model, dtype=dtype, device=device)
        check_length(loaded, length)
        windows = evaluation_tokens(tokenizer, prose, length=length, sequences=sequences)
        with progress_bars() as progress:
            if against is None:
                result = perplexity(loaded, windows, progress=progress)
            else:
                dense, _ = load_model(against, dtype=dtype, device=device)
                result = compare(loaded, dense, windows, progress=progress)
        values = {"model": model, "text": text, "length": length, **asdict(result), "increase": result.increase}
        values = {name: value for name, value in values.items() if value not in (None, ())}
        intervals = result.intervals()
        if as_json:
            typer.echo(json.dumps(values | {"intervals": intervals}))
            return
        table = Table("measure", "value", "95% interval")
        for name, value in values.items():
            if not isinstance(value, tuple):  # the sequences' own values are for --json
                table.add_row(name, _number(value), " to ".join(map(_number, intervals.get(name, ()))))
        out.print(table)


def _tasks(model: str, tasks: str, as_json: bool, dtype: str, device: str) -> None:
    from ..evaluation.zero_shot import task_names, zero_shot
    from ..models.load import load_model

    names = task_names(tasks)
    scores = zero_shot(*load_model(model, dtype=dtype, device=device), names)
    if as_json:
        typer.echo(json.dumps({"model": model, "tasks": tasks, "scores": [asdict(score) for score in scores]}))
        return
    table = Table("task", "acc", "stderr", "acc_norm", "stderr", "items", "version", title=model)
    above = ""  # the group that the next tasks belong to
    for score in scores:
        numbers = (score.acc, score.acc_stderr, score.acc_norm, score.acc_norm_stderr)
        style = "bold" if score.group else None
        if score.group:
            above = score.task
        name = score.task.replace(f"{above}_", "  ", 1) if above else score.task  # short enough for 80 columns
        table.add_row(name, *map(_number, numbers), str(score.items), score.version, style=style)
    out.print(table)


def _number(value: float | int | str | None) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)
