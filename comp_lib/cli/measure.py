"""`comp-lib evaluate`: how good a model is, on texts or in tasks. `compare`: methods side by side, on the same text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.table import Table
from typer import Exit, Option, echo

from ..errors import InputError
from .console import ProgressBars, check_extra, check_length, goes_on, listed, out, show, table
from .options import Calibration, Device, Dtype, Json, Length, Model, Multiple, Overwrite

if TYPE_CHECKING:
    from ..evaluation.by_kind import Row

TEXT_HELP = "Text name or file; kinds: each of the eight that ship, and their mean."
TASKS_HELP = "Instead of a text: offline, literature, or lm-eval's names, with commas."


def evaluate(
    model: Model,
    text: Annotated[str, Option(help=TEXT_HELP)] = "kinds",
    length: Annotated[int, Option(min=2, max=1_000_000, help="Tokens in each window (papers: 2048).")] = 512,
    sequences: Annotated[int | None, Option(min=1, help="Windows to measure, of each kind (default: all).")] = None,
    against: Annotated[str | None, Option(help="Dense model, for KL divergence and top-1 agreement.")] = None,
    tasks: Annotated[str | None, Option(help=TASKS_HELP)] = None,
    figure: Annotated[Path | None, Option(help="File (.png) for a picture of the kinds.")] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """Loss of MODEL on every kind of text, or on one text, with 95% intervals, or its accuracy in tasks."""
    from ..calibration.text import load_text
    from ..evaluation.by_kind import judge, windows_of
    from ..models.load import load_model
    from ..system.outputs import check_output

    if tasks is not None:
        if figure is not None or against is not None:
            got = "one of them with --tasks: evaluate each model by itself"
            raise InputError(f"expected --figure and --against with a text, got {got}")
        return _in_tasks(model, tasks, as_json, dtype, device)
    if figure is not None:
        check_extra("matplotlib", "notebooks")
        check_output(figure, overwrite)
    load_text(text)  # refused before the model is loaded
    loaded, tokenizer = load_model(model, dtype, device)
    check_length(loaded, length)
    windows = windows_of(text, tokenizer, length, sequences)
    dense = None if against is None else load_model(against, dtype, device)[0]
    with ProgressBars() as bars:
        judged = judge(loaded, windows, dense, progress=bars)
    values: dict[str, Any] = {"model": model, "text": text, "length": length}
    values["mean"] = judged.mean | {"intervals": judged.intervals()}
    values["kinds"] = {name: asdict(one) | {"intervals": one.intervals()} for name, one in judged.kinds.items()}
    show(kinds_table(judged.rows()), values, as_json)
    if figure is not None:
        from ..plots.base import save_picture
        from ..plots.kinds import plot_kinds

        save_picture(plot_kinds(judged.rows()), figure)


def kinds_table(rows: Mapping[str, Row]) -> Table:
    """A row for each text, a bold one for their mean, which is the last; see `evaluation.by_kind.ByKind.rows`."""
    from ..evaluation.loss import perplexity_of

    columns, sure = {"loss": "loss", "perplexity": "perplexity"}, "loss"
    if "increase" in next(iter(rows.values()))[0]:
        columns = {"dense_loss": "dense", "loss": "pruned", "increase": "increase"}
        columns, sure = columns | {"kl": "KL", "top1_agreement": "agreement"}, "increase"
    heads = [f"{head} (95% interval)" if name == sure else head for name, head in columns.items()]
    result = Table("text", *heads, title="loss by kind of text, nats per token")
    for place, (text, (values, intervals)) in enumerate(rows.items(), 1):
        values = values | {"perplexity": perplexity_of(values["loss"])}
        cells = {name: f"{values[name]:.3f}" for name in columns}
        if (bounds := intervals[sure]) is not None:
            cells[sure] += " ({:.3f} to {:.3f})".format(*bounds)
        result.add_row(text, *cells.values(), style="bold" * (place == len(rows)))
    return result


def _in_tasks(model: str, tasks: str, as_json: bool, dtype: str, device: str) -> None:
    from ..evaluation.zero_shot import task_names, zero_shot
    from ..models.load import load_model

    names = task_names(tasks)
    scores = zero_shot(*load_model(model, dtype, device), names)
    columns = ("task", "acc", "acc_stderr", "acc_norm", "items", "version")
    cells = [[_cell(score[name]) for name in columns] for score in scores]
    values = {"model": model, "tasks": tasks, "scores": scores}
    show(table(columns, cells, title=model), values, as_json)


def _cell(value: float | int | str | None) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)


def compare(
    model: Model,
    folder: Annotated[Path, Option("--out", help="Folder for rows, table and figures.")],
    ratios: Annotated[str, Option(help="Parts of the decoder to remove, at least, with commas.")] = "0.1,0.2,0.3,0.5",
    methods: Annotated[str | None, Option(help="Names as for prune --method, with commas (default: all).")] = None,
    seeds: Annotated[int, Option(min=1, max=1_000, help="How many: each draws other calibration windows.")] = 3,
    sequences: Annotated[str, Option(help="Calibration sequences, one number or several.")] = "32",
    length: Length = 256,
    calibration: Calibration = "calibration",
    evaluated: Annotated[str, Option("--evaluate", help="Text that judges, or kinds.")] = "evaluation",
    windows: Annotated[int, Option(min=2, max=100_000, help="Windows of it, or of each kind.")] = 12,
    window: Length = 512,
    multiple: Multiple = 64,
    workers: Annotated[int | None, Option(min=1, max=256, help="Runs at a time on this machine (default: 1).")] = None,
    scheduler: Annotated[str | None, Option(help="Of a Dask cluster: tcp://host:8786.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Run a grid of methods, ratios and seeds on MODEL. Finished rows stay: the same command goes on after a kill."""
    check_extra("matplotlib", "notebooks")
    from ..compare.cluster import choose
    from ..compare.grid import Grid, run
    from ..compare.summary import check_summary, markdown, write_summary
    from ..settings import METHODS, Settings

    chosen = METHODS if methods is None else listed(methods, str, "methods")
    settings = Settings(multiple=multiple)
    text: dict[str, Any] = {"calibration": calibration, "length": length, "evaluation": evaluated}
    text |= {"windows": windows, "window": window}
    sizes = listed(sequences, int, "sequences")
    grid = Grid(model, listed(ratios, float, "ratios"), chosen, seeds, sizes, settings=settings, **text)
    check_summary(folder, overwrite)
    engine = choose(workers, scheduler)
    with goes_on(), ProgressBars() as bars:
        rows = run(grid, folder, bars, engine)
    written = write_summary(rows, folder)
    echo(markdown(rows))
    out.print(f"written: {', '.join(path.name for path in written)} in {folder}", soft_wrap=True)
    if (rows.status == "failed").any():
        raise Exit(1)
