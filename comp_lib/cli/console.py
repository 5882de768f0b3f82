"""What commands share: how they refuse, and how they show progress and results. Their flags: `options`."""

import io
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich import progress
from rich.console import Console
from rich.table import Column, Table
from typer import Exit, secho
from typer.core import TyperGroup

from ..errors import InputError

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
            words = str(error) if isinstance(error, InputError) else f"expected the system to allow it, got {error}"
            complain(InputError(words))
            raise Exit(2) from error
        except KeyboardInterrupt as stop:
            complain("stopped; what is finished of prune or compare stays, and the same command goes on from there")
            raise Exit(130) from stop


@contextmanager
def progress_bars() -> Iterator[Callable[..., None]]:
    """In the block, a `Progress` of `comp_lib.progress` that has a bar on stderr for each kind of work."""
    name, left = progress.TextColumn("{task.description:>16}", markup=False), progress.TimeRemainingColumn()
    columns = (name, progress.BarColumn(), progress.MofNCompleteColumn(), progress.TimeElapsedColumn(), "left", left)
    with progress.Progress(*columns, console=err, transient=not err.is_terminal) as bars:
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


def check_length(model: Any, length: int) -> None:
    """Raises InputError when `model` takes no sequences of that length."""
    if length > (longest := model.config.max_position_embeddings):
        got = f"{length}: give --length {longest} or less"
        raise InputError(f"expected sequences of at most {longest} tokens, which is what the model takes, got {got}")


def listed(text: str, kind: Callable[[str], Any], name: str) -> tuple[Any, ...]:
    """The values between the commas. Raises InputError."""
    try:
        return tuple(kind(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise InputError(f"expected --{name} as numbers between commas, got {text!r}: {error}") from error
