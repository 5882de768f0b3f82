"""What the commands of `comp-lib` share: where they print, how they refuse, progress, and common options."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated

import psutil
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from ..errors import InputError
from ..report import LayerReport

out, err = Console(), Console(stderr=True)

Model = Annotated[str, typer.Argument(help="smollm2-135m (embedded), a folder, a .gguf file, or a Hub id")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16")]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps or auto")]


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """One line and exit code 2 for whatever the user can mend."""
    try:
        yield
    except InputError as error:
        err.print(f"comp-lib: {error}", style="red", soft_wrap=True, highlight=False, markup=False)
        raise typer.Exit(2) from error


class Drawn:
    """A `Progress` callback that draws one bar for each kind of work, and says how the layers fare."""

    def __init__(self, bars: Bars) -> None:
        self.bars, self.tasks, self.note = bars, {}, ""

    def __call__(self, what: str, done: int, total: int, report: LayerReport | None = None) -> None:
        if report is not None:  # beside the number of layers: what was lost, memory now and at its highest
            now = psutil.Process().memory_info().rss / 2**20
            self.note = f"error {report.error:.2%}  {now:,.0f} MB, at most {report.peak_megabytes:,.0f}"
        if what not in self.tasks:
            self.tasks[what] = self.bars.add_task(what, total=total, note="")
        note = self.note if what == "pruning" else ""
        self.bars.update(self.tasks[what], completed=done, total=total, note=note)


@contextlib.contextmanager
def progress_bars() -> Iterator[Drawn]:
    """Bars on stderr, that vanish where it is no terminal."""
    columns = (
        TextColumn("{task.description:>16}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Bars(*columns, console=err, transient=not err.is_terminal) as bars:
        yield Drawn(bars)


def check_length(model, length: int) -> None:
    longest = model.config.max_position_embeddings
    if length > longest:
        raise InputError(f"expected sequences of at most {longest} tokens, which is what the model takes, got {length}")
