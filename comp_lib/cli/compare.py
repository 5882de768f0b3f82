"""`comp-lib compare`: peers side by side, on one model and the same text."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from typer import Exit, Option, echo

from ..errors import InputError
from .console import ProgressBars, err, out, writing
from .options import Aim, Calibration, Dtype, Length, Model, Multiple, Widths, command

Folder = Annotated[Path, Option("--out", help="Folder for rows, table and figures.")]


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
    evaluate_on: Annotated[str, Option("--evaluate", help="Text that judges.")] = "evaluation"
    windows: Annotated[int, Option(help="Windows of it.")] = 12
    window: Length = 512
    of: Annotated[str, Option(help="What the ratios refer to: decoder or model.")] = "decoder"
    widths: Widths = "uniform"
    multiple: Multiple = 64
    dtype: Dtype = "float32"
    workers: Annotated[int | None, Option(help="Runs at a time on this machine (default: 1).")] = None
    scheduler: Annotated[str | None, Option(help="Of a Dask cluster: tcp://host:8786.")] = None


@command
def compare(model: Model, folder: Folder, options: CompareOptions) -> None:
    """Run a grid of methods, ratios and seeds on MODEL. Finished rows stay: the same command goes on after a kill."""
    from ..compare.cluster import choose
    from ..compare.grid import Grid, run
    from ..compare.summary import markdown, write_summary
    from ..settings import METHODS, Settings

    ratios = _list(options.ratios, float, "ratios")
    methods = METHODS if options.methods is None else _list(options.methods, str, "methods")
    sequences = _list(options.sequences, int, "sequences")
    settings = Settings(of=options.of, widths=options.widths, aim=options.aim, multiple=options.multiple)
    same = ("seeds", "recovery", "calibration", "length", "windows", "window", "dtype")
    told: dict[str, Any] = {name: getattr(options, name) for name in same} | {"evaluation": options.evaluate_on}
    grid = Grid(model, ratios, methods, sequences=sequences, settings=settings, **told)
    engine = choose(options.workers, options.scheduler, lambda link: err.print(f"dashboard: {link}", soft_wrap=True))
    with ProgressBars() as bars:
        rows = run(grid, folder, bars, engine)
    with writing(folder):
        written = write_summary(rows, folder)
    echo(markdown(rows))
    out.print(f"written: {', '.join(path.name for path in written)} in {folder}", soft_wrap=True)
    if (rows.status == "failed").any():
        raise Exit(1)


def _list(text: str, kind: Callable[[str], Any], name: str) -> tuple[Any, ...]:
    """The values between the commas. Raises InputError."""
    try:
        return tuple(kind(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        kinds = "whole numbers" if kind is int else "numbers"
        raise InputError(f"expected --{name} as {kinds} between commas, got {text!r}: {error}") from error
