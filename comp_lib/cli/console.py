"""What commands share: how they refuse, and how they show progress and results."""

import functools
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Column, Table
from typer import Exit, echo

from ..errors import InputError, check_package
from ..report import LayerReport

# what people call their files is no markup
out, err = (Console(stderr=stderr, markup=False, emoji=False) for stderr in (False, True))


@contextmanager
def refusals() -> Iterator[None]:
    """One line and exit code 2 for whatever the user can mend; a closed standard output is nobody's mistake."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (InputError, OSError) as error:
        words = error if isinstance(error, InputError) else InputError(f"expected the system to allow it, got {error}")
        err.print(f"comp-lib: {words}", style="red", soft_wrap=True, highlight=False)
        raise Exit(2) from error


def refusing(function: Callable[..., None]) -> Callable[..., None]:
    """A command with `refusals`, whose words are in UTF-8, and whose paths are places without `~`."""

    @functools.wraps(function)
    @refusals()
    def command(**values: Any) -> None:
        from ..system.atomic import resolved

        for name, value in values.items():
            if str(value).encode("utf-8", "replace").decode() != str(value):
                raise InputError(f"expected words in UTF-8, got {str(value)[:100]!r}: write them another way")
            if isinstance(value, Path):
                resolved(value)  # refuses a home that is not there, and links that go in a circle
                values[name] = value.expanduser()
        function(**values)

    return command


def check_extra(package: str, extra: str) -> None:
    """Raises InputError, which says what to type, unless the `package` that `extra` brings is here."""
    check_package(package, f"the package {package}", f"pip install 'comp-lib[{extra}]'")


@contextmanager
def goes_on() -> Iterator[None]:
    """Around work that keeps what is finished: Ctrl-C says so, with exit code 130."""
    try:
        yield
    except KeyboardInterrupt as stop:
        err.print("comp-lib: stopped; what is finished stays, and the same command goes on from there", soft_wrap=True)
        raise Exit(130) from stop


class ProgressBars(Bars):
    """A `Progress` that draws a bar for each kind of work on stderr, and says how the layers fare."""

    def __init__(self) -> None:
        name, note = TextColumn("{task.description:>16}", markup=False), TextColumn("{task.fields[note]}")
        columns = (name, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), "left", TimeRemainingColumn(), note)
        super().__init__(*columns, console=err, transient=not err.is_terminal)
        self.bars: dict[str, TaskID] = {}
        self.note = ""

    def __call__(self, what: str, done: int, total: int, report: LayerReport | None = None) -> None:
        if report is not None:  # beside the number of layers: what was lost, and the most memory so far
            self.note = f"error {report.error:.2%}  at most {report.peak_megabytes:,.0f} MiB"
        if what not in self.bars:
            self.bars[what] = self.add_task(what, total=total, note="")
        self.update(self.bars[what], completed=done, total=total, note=self.note if what == "pruning" else "")


def table(columns: Iterable[str], rows: Iterable[Iterable[str]], **options: Any) -> Table:
    """A table with these columns and rows; `options` are those of rich."""
    result = Table(*(Column(name, overflow="fold") for name in columns), **options)
    for row in rows:
        result.add_row(*row)
    return result


def show(result: Table, values: dict[str, Any], as_json: bool) -> None:
    """Print a result: as a table, or its values as one line of JSON."""
    if as_json:
        # None for NaN and infinity, for which JSON has no number
        finite = json.loads(json.dumps(values), parse_constant=lambda name: None)
        echo(json.dumps(finite, allow_nan=False))
    else:
        out.print(result)


def check_length(model: Any, length: int) -> None:
    """Raises InputError when `model` takes no sequences of that length."""
    longest = model.config.max_position_embeddings
    if length > longest:
        got = f"{length}: give --length {longest} or less"
        raise InputError(f"expected sequences of at most {longest} tokens, which is what the model takes, got {got}")


def listed(text: str, kind: Callable[[str], Any], name: str) -> tuple[Any, ...]:
    """The values between the commas. Raises InputError."""
    try:
        return tuple(kind(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        kinds = "whole numbers" if kind is int else "numbers"
        raise InputError(f"expected --{name} as {kinds} between commas, got {text!r}: {error}") from error
