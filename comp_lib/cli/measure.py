"""`comp-lib evaluate`: how good a model is, on texts or in tasks. `benchmark`: how fast models run here.

`compare`: peers side by side, on one model and the same text.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

from rich.table import Table
from typer import Argument, Exit, Option, echo

from ..errors import InputError
from ..system.atomic import same, write_atomically
from ..system.outputs import check_output, our_json
from .console import ProgressBars, check_length, check_picture, ends_tidily, err, goes_on, listed, out, show, table
from .options import Aim, Calibration, Device, Dtype, Json, Length, Model, Multiple, Overwrite, Widths, command

if TYPE_CHECKING:
    from ..evaluation.by_kind import ByKind, Row
    from ..evaluation.loss import Evaluation
    from ..on_device.benchmark import Measured

TEXT_HELP = "Text name or file; kinds: each of the eight that ship, and their mean."
TASKS_HELP = "Instead of a text: offline, literature, or lm-eval's names, with commas."
MODELS_HELP = "As for the other commands; the first is the baseline."
RUNTIME_HELP = "transformers, llama.cpp (folders are exported), or auto: llama.cpp for .gguf files."
Folder = Annotated[Path, Option("--out", help="Folder for rows, table and figures.")]
Models = Annotated[list[str], Argument(metavar="MODEL...", help=MODELS_HELP)]


@dataclass(frozen=True)
class EvaluateOptions:
    text: Annotated[str, Option(help=TEXT_HELP)] = "kinds"
    length: Annotated[int, Option(help="Tokens in each window (papers: 2048).")] = 512
    sequences: Annotated[int | None, Option(help="Windows to measure, of each kind (default: all).")] = None
    against: Annotated[str | None, Option(help="Dense model, for KL divergence and top-1 agreement.")] = None
    tasks: Annotated[str | None, Option(help=TASKS_HELP)] = None
    figure: Annotated[Path | None, Option(help="File (.png) for a picture of the kinds.")] = None
    overwrite: Overwrite = False
    as_json: Json = False
    dtype: Dtype = "float32"
    device: Device = "cpu"


@command
def evaluate(model: Model, options: EvaluateOptions) -> None:
    """Loss of MODEL on every kind of text, or on one text, with 95% intervals, or its accuracy in tasks."""
    _check(options)
    if options.tasks is not None:
        return _in_tasks(model, options.tasks, options)
    from ..calibration.text import EVERY_KIND, load_text
    from ..evaluation.by_kind import judge, windows_of
    from ..models.load import load_model

    load_text(options.text)  # refused before the model is loaded
    place = (options.dtype, options.device)
    loaded, tokenizer = load_model(model, *place)
    check_length(loaded, options.length)
    windows = windows_of(options.text, tokenizer, options.length, options.sequences)
    dense = None if options.against is None else load_model(options.against, *place)[0]
    with ProgressBars() as bars:
        judged = judge(loaded, windows, dense, progress=bars)
    asked: dict[str, Any] = {"model": model, "text": options.text, "length": options.length}
    if options.text == EVERY_KIND:
        return _show_kinds(judged, asked, options)
    values = asked | _plain(judged.kinds[options.text])
    numbers = {name: value for name, value in values.items() if not isinstance(value, tuple)}  # the others: for --json
    intervals = judged.kinds[options.text].intervals()
    rows = [(name, _cell(value), " to ".join(map(_cell, intervals.get(name) or ()))) for name, value in numbers.items()]
    show(table(("measure", "value", "95% interval"), rows), values | {"intervals": intervals}, options.as_json)


def _check(options: EvaluateOptions) -> None:
    """Raises InputError for what can be told without the model."""
    from ..calibration.text import EVERY_KIND

    if options.tasks is not None:
        fields = EvaluateOptions.__dataclass_fields__
        for name in ("text", "length", "sequences"):
            if (got := getattr(options, name)) != fields[name].default:
                words = f"{got} with --tasks, which read no text: leave one out"
                raise InputError(f"expected --{name} with a text, got {words}")
    figure = options.figure
    if figure is not None and (options.tasks is not None or options.text != EVERY_KIND):
        got = f"it with {'--tasks' if options.tasks is not None else f'--text {options.text}'}; leave one out"
        raise InputError(f"expected --figure with all kinds of text, got {got}")
    check_picture(figure, options.overwrite)


def _plain(result: Evaluation) -> dict[str, Any]:
    """What was measured, as --json gives it."""
    values = asdict(result) | {"increase": result.increase}
    return {name: value for name, value in values.items() if value not in (None, ())}


def _show_kinds(judged: ByKind, asked: dict[str, Any], options: EvaluateOptions) -> None:
    from ..plots.base import save_picture
    from ..plots.kinds import plot_kinds

    rows = judged.rows()
    *kinds, (mean, intervals) = rows.values()
    values = asked | {"mean": mean | {"intervals": intervals}}
    for (name, result), (_, bounds) in zip(judged.kinds.items(), kinds, strict=True):
        values.setdefault("kinds", {})[name] = _plain(result) | {"intervals": bounds}
    show(kinds_table(rows), values, options.as_json)
    if options.figure is not None:
        save_picture(plot_kinds(rows), options.figure.expanduser())


def kinds_table(rows: Mapping[str, Row]) -> Table:
    """A row for each text, a bold one for their mean, which is the last; see `evaluation.by_kind.ByKind.rows`."""
    columns = {"loss": "loss"}
    if compared := all("increase" in values for values, _ in rows.values()):
        columns = {"dense_loss": "dense", "loss": "pruned", "increase": "increase"}
        columns |= {"kl": "KL", "top1_agreement": "agreement"}
    sure = "increase" if compared else "loss"
    heads = [f"{head} (95% interval)" if name == sure else head for name, head in columns.items()]
    result = Table("text", *heads, title="loss by kind of text, nats per token")
    for place, (text, (values, intervals)) in enumerate(rows.items()):
        cells = {name: f"{values[name]:.3f}" for name in columns}
        if (interval := intervals[sure]) is not None:
            cells[sure] += " ({:.3f} to {:.3f})".format(*interval)
        result.add_row(text, *cells.values(), style="bold" if place == len(rows) - 1 else None)
    return result


def _in_tasks(model: str, tasks: str, options: EvaluateOptions) -> None:
    from ..evaluation.zero_shot import task_names, zero_shot
    from ..models.load import load_model

    if options.against is not None:
        raise InputError("expected --against with a text, got it with --tasks; evaluate each model by itself")
    names = task_names(tasks)
    scores = zero_shot(*load_model(model, options.dtype, options.device), names)
    heads = ("task", "acc", "stderr", "acc_norm", "items", "version")
    result = Table(*heads, title=model)
    group = ""  # that the next tasks belong to
    for score in scores:
        group = score.task if score.group else group
        name = score.task.replace(f"{group}_", "  ", 1) if group else score.task  # short enough for 80 columns
        numbers = map(_cell, (score.acc, score.acc_stderr, score.acc_norm))
        result.add_row(name, *numbers, str(score.items), score.version, style="bold" if score.group else None)
    found = [asdict(score) for score in scores]
    show(result, {"model": model, "tasks": tasks, "scores": found}, options.as_json)


def _cell(value: float | int | str | None) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)


@dataclass(frozen=True)
class BenchmarkOptions:
    runtime: Annotated[str, Option(help=RUNTIME_HELP)] = "auto"
    kind: Annotated[str, Option("--type", help="Of exports, as for export --type.")] = "q8_0"
    rounds: Annotated[int, Option(help="All models take turns in each.")] = 5
    prompt: Annotated[int, Option(help="Tokens that are read.")] = 128
    tokens: Annotated[int, Option(help="Tokens that are written after the first.")] = 32
    threads: Annotated[int | None, Option(help="Cores that compute (default: as torch has it).")] = None
    dtype: Dtype = "float32"
    as_json: Annotated[Path | None, Option("--json", help="File for all that was measured.")] = None
    figure: Annotated[Path | None, Option(help="File (.png) for a picture.")] = None
    overwrite: Overwrite = False


@command
def benchmark(models: Models, options: BenchmarkOptions) -> None:
    """Prefill, decode, first token, memory and file size of each MODEL, and the speed-up by their bytes."""
    import torch

    from ..on_device import benchmark as bench
    from ..on_device.benchmark import Workload
    from ..plots.base import save_picture
    from ..plots.on_device import plot_speedup

    if options.as_json is not None:
        check_output(options.as_json, our_json(bench.FIELDS), options.overwrite)
    check_picture(options.figure, options.overwrite)
    if options.as_json is not None and options.figure is not None and same(options.as_json, options.figure):
        got = f"{options.figure} for both --json and --figure: choose another name for one"
        raise InputError(f"expected two files, got {got}")
    threads = torch.get_num_threads() if options.threads is None else options.threads
    work = Workload(options.prompt, options.tokens, threads, options.dtype)
    with ends_tidily(), tempfile.TemporaryDirectory(prefix="comp-lib-") as folder, ProgressBars() as bars:
        jobs = bench.prepare(models, options.runtime, options.kind, Path(folder), work, bars)
        measured = bench.benchmark(jobs, options.rounds, bars)
    caption = "medians (smallest to largest); by bytes: bytes read for a token, of the first by its own"
    out.print(table(["", *(model.name for model in measured)], _speeds(measured), caption=caption))
    if options.as_json is not None:
        text = json.dumps(bench.to_json(measured, jobs[0][1]), indent=1)
        write_atomically(options.as_json.expanduser(), f"{text}\n".encode())
    if options.figure is not None:
        save_picture(plot_speedup(measured), options.figure.expanduser())


def _speeds(measured: Sequence[Measured]) -> list[list[str]]:
    """A row for each measure, with a name and a cell for each model; ratios are to the first."""
    from ..on_device.benchmark import gain

    gains = [gain(measured[0], model) for model in measured]
    return [
        ["runtime", *(model.runtime for model in measured)],
        ["file, MB", *("" if model.file_bytes is None else f"{model.file_bytes / 1e6:,.1f}" for model in measured)],
        ["memory, MB", *(f"{model.memory / 1e6:,.1f}" for model in measured)],
        ["first token, ms", *(_spread([1e3 * seconds for seconds in model.first]) for model in measured)],
        ["prefill, tokens/s", *(_spread(model.prefill) for model in measured)],
        ["decode, tokens/s", *(_spread(model.decode) for model in measured)],
        ["prefill, ratio", *(_ratio(*gained.prefill) for gained in gains)],
        ["decode, ratio", *(_ratio(*gained.speedup) for gained in gains)],
        ["by bytes", *(f"{gained.limit:.2f}" for gained in gains)],
        ["of the gain reached", *(f"{gained.share:.0%}" if gained.limit > 1 else "" for gained in gains)],
    ]


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):,.1f} ({min(values):,.1f} to {max(values):,.1f})"


def _ratio(middle: float, low: float, high: float) -> str:
    return f"{middle:.2f}" if low == high else f"{middle:.2f} ({low:.2f} to {high:.2f})"


@dataclass(frozen=True)
class CompareOptions:
    ratios: Annotated[str, Option(help="Parts of the parameters to remove, at least.")] = "0.1,0.2,0.3,0.5"
    methods: Annotated[str | None, Option(help="Names as for prune --method (default: all).")] = None
    seeds: Annotated[int, Option(help="How many: 0, 1, ... draw other calibration windows.")] = 3
    sequences: Annotated[str, Option(help="Calibration sequences, one number or several.")] = "32"
    length: Length = 256
    recovery: Annotated[str | None, Option(help="For all methods (default: each method's own).")] = None
    aim: Aim = "self"
    calibration: Calibration = "calibration"
    evaluate_on: Annotated[str | None, Option("--evaluate", help="Text that judges (default: evaluation).")] = None
    text_kinds: Annotated[bool, Option(help="Judge on every kind of text instead, and their mean.")] = False
    windows: Annotated[int, Option(help="Windows of it, or of each kind.")] = 12
    window: Length = 512
    of: Annotated[str, Option(help="What the ratios refer to: decoder or model.")] = "decoder"
    widths: Widths = "uniform"
    multiple: Multiple = 64
    dtype: Dtype = "float32"
    workers: Annotated[int | None, Option(help="Runs at a time on this machine (default: 1).")] = None
    scheduler: Annotated[str | None, Option(help="Of a Dask cluster: tcp://host:8786.")] = None
    overwrite: Overwrite = False


@command
def compare(model: Model, folder: Folder, options: CompareOptions) -> None:
    """Run a grid of methods, ratios and seeds on MODEL. Finished rows stay: the same command goes on after a kill."""
    from ..calibration.text import EVERY_KIND
    from ..compare.cluster import choose
    from ..compare.grid import Grid, run
    from ..compare.summary import check_summary, markdown, write_summary
    from ..settings import METHODS, Settings

    if options.text_kinds and options.evaluate_on is not None:
        got = f"--text-kinds and --evaluate {options.evaluate_on}: leave one out"
        raise InputError(f"expected one text or every kind of text to judge on, got {got}")
    ratios = listed(options.ratios, float, "ratios")
    methods = METHODS if options.methods is None else listed(options.methods, str, "methods")
    sequences = listed(options.sequences, int, "sequences")
    settings = Settings(of=options.of, widths=options.widths, aim=options.aim, multiple=options.multiple)
    same = ("seeds", "recovery", "calibration", "length", "windows", "window", "dtype")
    told: dict[str, Any] = {name: getattr(options, name) for name in same} | {
        "evaluation": EVERY_KIND if options.text_kinds else options.evaluate_on or "evaluation"
    }
    grid = Grid(model, ratios, methods, sequences=sequences, settings=settings, **told)
    check_summary(folder, options.overwrite)
    engine = choose(options.workers, options.scheduler, lambda link: err.print(f"dashboard: {link}", soft_wrap=True))
    with goes_on(), ProgressBars() as bars:
        rows = run(grid, folder, bars, engine)
    written = write_summary(rows, folder)
    echo(markdown(rows))
    out.print(f"written: {', '.join(path.name for path in written)} in {folder}", soft_wrap=True)
    if (rows.status == "failed").any():
        raise Exit(1)
