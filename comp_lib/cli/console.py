"""What commands share: how they refuse, and how they show progress and results. Their flags: `options`."""

import io
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich import progress
from rich.console import Console
from rich.table import Column, Table
from typer import Exit, echo, secho
from typer.core import TyperGroup

from ..errors import OUT_OF_MEMORY, InputError

LULL = 2  # seconds without a line in a log
# what people call their files is no markup
out, err = (Console(stderr=stderr, markup=False, emoji=False) for stderr in (False, True))


def complain(words: object) -> None:
    """Say on stderr, in one line, what did not go well."""
    secho(f"comp-lib: {words}", fg="red", err=True)


class Commands(TyperGroup):
    """What the user can mend is one line and exit code 2; Ctrl-C is exit code 130."""

    def invoke(self, context: Any) -> Any:
        """Run the command that was typed."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # letters that a terminal cannot show end no work
        try:
            return super().invoke(context)
        except BrokenPipeError:  # a `head` that has read enough is nobody's mistake
            raise
        except (InputError, OSError) as error:
            words = (
                str(error)
                if isinstance(error, InputError)
                else f"expected the system to allow it, got {error}"
            )
            complain(InputError(words))
            raise Exit(2) from error
        except RuntimeError as error:
            if type(error).__name__ != OUT_OF_MEMORY:
                raise
            complain(
                InputError(
                    f"expected more room on the device: {error}: shorten the text, or take --device cpu"
                )
            )
            raise Exit(2) from error
        except KeyboardInterrupt as stop:
            complain(
                "stopped; what is finished of prune or compare stays, and the same command goes on from there"
            )
            raise Exit(130) from stop


@contextmanager
def progress_bars() -> Iterator[Callable[..., None]]:
    """In the block, a `Progress` of `comp_lib.progress`: bars on stderr.

    Where that is no terminal, a line for what begins or ends, for each finished layer, and every LULL seconds.
    """
    begun, seen = time.monotonic(), dict[str, float]()

    def line(what: str, done: int, total: int, report: object = None) -> None:
        now = time.monotonic()
        if report is not None or done == total or now - seen.get(what, -LULL) >= LULL:
            seen[what] = now
            echo(f"{what}: {done} of {total}, {now - begun:.0f} s", err=True)

    if not err.is_terminal:
        yield line
        return
    name, left = progress.TextColumn("{task.description:>16}", markup=False), progress.TimeRemainingColumn()
    columns = (
        name,
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        "left",
        left,
    )
    with progress.Progress(*columns, console=err) as bars:
        tasks: dict[str, progress.TaskID] = {}

        def show(what: str, done: int, total: int, report: object = None) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what)
            bars.update(tasks[what], completed=done, total=total)

        yield show


def table(columns: Iterable[str], rows: Iterable[Iterable[str]], title: str | None = None) -> Table:
    """A table with these columns and rows."""
    result = Table(*(Column(name, overflow="fold") for name in columns), title=title)
    for row in rows:
        result.add_row(*row)
    return result


def listed(text: str, kind: Callable[[str], Any], name: str) -> tuple[Any, ...]:
    """The values between the commas. Raises InputError."""
    try:
        return tuple(kind(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise InputError(f"expected --{name} as numbers between commas, got {text!r}: {error}") from error
