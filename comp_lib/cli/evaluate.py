"""`comp-lib evaluate`: how good a model is, on a text or in tasks."""

import json
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from rich.table import Table
from typer import Option, echo

from ..errors import InputError
from .console import ProgressBars, check_length, out
from .options import Device, Dtype, Json, Model, command

TASKS_HELP = "Instead of a text: offline, literature, or lm-eval's names, with commas."


@dataclass(frozen=True)
class EvaluateOptions:
    text: Annotated[str, Option(help="Text name or file.")] = "evaluation"
    length: Annotated[int, Option(help="Tokens in each window (papers: 2048).")] = 512
    sequences: Annotated[int | None, Option(help="Windows to measure (default: all).")] = None
    against: Annotated[str | None, Option(help="Dense model, for KL divergence and top-1 agreement.")] = None
    tasks: Annotated[str | None, Option(help=TASKS_HELP)] = None
    as_json: Json = False
    dtype: Dtype = "float32"
    device: Device = "cpu"


@command
def evaluate(model: Model, options: EvaluateOptions) -> None:
    """Perplexity of MODEL on a text, with 95% intervals, or its accuracy in tasks."""
    if options.tasks is not None:
        return _in_tasks(model, options.tasks, options)
    from ..calibration.text import load_text
    from ..evaluation.loss import compare, evaluation_tokens, perplexity
    from ..models.load import load_model

    prose = load_text(options.text)
    loaded, tokenizer = load_model(model, options.dtype, options.device)
    check_length(loaded, options.length)
    windows = evaluation_tokens(tokenizer, prose, options.length, options.sequences)
    with ProgressBars() as bars:
        if options.against is None:
            result = perplexity(loaded, windows, progress=bars)
        else:
            dense, _ = load_model(options.against, options.dtype, options.device)
            result = compare(loaded, dense, windows, progress=bars)
    asked: dict[str, Any] = {"model": model, "text": options.text, "length": options.length}
    values = asked | asdict(result) | {"increase": result.increase}
    values = {name: value for name, value in values.items() if value not in (None, ())}
    intervals = result.intervals()
    if options.as_json:
        echo(json.dumps(values | {"intervals": intervals}))
        return
    table = Table("measure", "value", "95% interval")
    for name, value in values.items():
        if not isinstance(value, tuple):  # the sequences' own values are for --json
            table.add_row(name, _cell(value), " to ".join(map(_cell, intervals.get(name, ()))))
    out.print(table)


def _in_tasks(model: str, tasks: str, options: EvaluateOptions) -> None:
    from ..evaluation.zero_shot import task_names, zero_shot
    from ..models.load import load_model

    if options.against is not None:
        raise InputError("expected --against with a text, got it with --tasks; evaluate each model by itself")
    names = task_names(tasks)
    scores = zero_shot(*load_model(model, options.dtype, options.device), names)
    if options.as_json:
        echo(json.dumps({"model": model, "tasks": tasks, "scores": [asdict(score) for score in scores]}))
        return
    table = Table("task", "acc", "stderr", "acc_norm", "stderr", "items", "version", title=model)
    group = ""  # that the next tasks belong to
    for score in scores:
        group = score.task if score.group else group
        name = score.task.replace(f"{group}_", "  ", 1) if group else score.task  # short enough for 80 columns
        numbers = map(_cell, (score.acc, score.acc_stderr, score.acc_norm, score.acc_norm_stderr))
        table.add_row(name, *numbers, str(score.items), score.version, style="bold" if score.group else None)
    out.print(table)


def _cell(value: float | int | str | None) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)
