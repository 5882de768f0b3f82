"""`comp-lib compare`: peers side by side, on one model and the same text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from .console import Dtype, Model, err, out, progress_bars, refusals


def compare(
    model: Model,
    folder: Annotated[Path, typer.Option("--out", help="Folder for rows, table and figures.")],
    ratios: Annotated[str, typer.Option(help="Parts of the parameters to remove, at least.")] = "0.1,0.2,0.3,0.5",
    methods: Annotated[str | None, typer.Option(help="Names as for prune --method (default: all).")] = None,
    seeds: Annotated[int, typer.Option(help="How many: 0, 1, ... draw other calibration windows.")] = 3,
    sequences: Annotated[str, typer.Option(help="Calibration sequences, one number or several.")] = "32",
    length: Annotated[int, typer.Option(help="Tokens in each.")] = 256,
    recovery: Annotated[str | None, typer.Option(help="For all methods (default: each method's own).")] = None,
    aim: Annotated[str, typer.Option(help="What least squares aims at: self or dense.")] = "self",
    calibration: Annotated[
        str, typer.Option(help="Text name, file, self (sampled from the model), or several joined by +.")
    ] = "calibration",
    evaluate_on: Annotated[str, typer.Option("--evaluate", help="Text that judges.")] = "evaluation",
    windows: Annotated[int, typer.Option(help="Windows of it.")] = 12,
    window: Annotated[int, typer.Option(help="Tokens in each.")] = 512,
    of: Annotated[str, typer.Option(help="What the ratios refer to: decoder or model.")] = "decoder",
    widths: Annotated[str, typer.Option(help="uniform (stock checkpoint), per-layer or measured.")] = "uniform",
    multiple: Annotated[int, typer.Option(help="Widths are multiples of this.")] = 64,
    dtype: Dtype = "float32",
    workers: Annotated[int | None, typer.Option(help="Runs at a time on this machine (default: 1).")] = None,
    scheduler: Annotated[str | None, typer.Option(help="Of a Dask cluster: tcp://host:8786.")] = None,
) -> None:
    """Run a grid of methods, ratios and seeds on MODEL. Finished rows stay: the same command goes on after a kill."""
    with refusals():
        from ..compare.cluster import choose
        from ..compare.grid import Grid, run
        from ..compare.summary import markdown, write_summary
        from ..settings import METHODS, Settings

        grid = Grid(
            model,
            _list(ratios, float, "ratios"),
            METHODS if methods is None else _list(methods, str, "methods"),
            seeds,
            _list(sequences, int, "sequences"),
            recovery,
            calibration,
            length,
            evaluate_on,
            windows,
            window,
            dtype,
            Settings(of=of, widths=widths, aim=aim, multiple=multiple),
        )
        engine = choose(workers, scheduler, lambda link: err.print(f"dashboard: {link}", soft_wrap=True))
        with progress_bars() as progress:
            rows = run(grid, folder, progress, engine)
    written = write_summary(rows, folder)
    typer.echo(markdown(rows))
    out.print(f"written: {', '.join(path.name for path in written)} in {folder}", soft_wrap=True)
    if (rows.status == "failed").any():
        raise typer.Exit(1)


def _list(text: str, kind: Callable, name: str) -> tuple:
    """The values between the commas. Raises InputError."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    try:
        return tuple(kind(part) for part in parts)
    except ValueError as error:
        raise InputError(
            f"expected --{name} as {'whole ' if kind is int else ''}numbers between commas, got {text!r}: {error}"
        ) from error
