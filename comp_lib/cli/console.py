"""Refusals, progress and tables of all commands. Their flags are in `options`."""

import io
import os
import shlex
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich import progress
from rich.console import Console
from rich.table import Column, Table
from typer import BadParameter, Exit, echo, secho
from typer.core import TyperGroup

from ..utils.arguments import suggestion
from ..utils.errors import OUT_OF_MEMORY, InputError, NoNumber, as_printable, in_debug_mode

PROGRAM = "comp-lib"
SECONDS_BETWEEN_LOG_LINES = 2  # seconds between two lines of progress in a log
DEBUG_FLAG = "--debug"  # flag of `app.set_up`
# The error of typer for a call that makes no sense; which package defines it depends on the version.
UsageError: Any = BadParameter.__base__
HELP_ERROR = "NoArgsIsHelpError"  # name of the one for a call without any word, which shows the help
# markup is off, since brackets in the name of a file are no markup
output = Console(markup=False, emoji=False)
error_output = Console(stderr=True, markup=False, emoji=False)


def complain(sentence: object) -> None:
    """Print on stderr, in one line, what did not go well."""
    secho(f"comp-lib: {as_printable(str(sentence))}", fg="red", err=True)


class Commands(TyperGroup):
    """The commands: a mistake of the user ends one in a line and exit code 2, Ctrl-C in exit code 130."""

    def parse_args(self, context: Any, args: list[str]) -> list[str]:
        """Parse the arguments; a --debug after the command counts as if it stood before it."""
        if DEBUG_FLAG in args:
            args = [DEBUG_FLAG, *(argument for argument in args if argument != DEBUG_FLAG)]
        try:
            return super().parse_args(context, args)
        except UsageError as error:
            if type(error).__name__ == HELP_ERROR:
                raise
            raise _usage_refusal(error, context) from error

    def resolve_command(self, context: Any, args: list[str]) -> Any:
        """The command that was typed, and the words after it.

        Raises InputError for another.
        """
        name = args[0]
        if name not in self.commands:
            hint = suggestion(name, self.commands)
            raise InputError(expected=f"a command of {context.command_path}", got=repr(name), hint=hint)
        return super().resolve_command(context, args)

    def invoke(self, context: Any) -> Any:
        """Run the command that was typed."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # a letter that a terminal cannot show is no error
        try:
            return super().invoke(context)
        except BrokenPipeError:
            raise  # the reader of the output, such as `head`, closed the pipe: click ends with exit code 1
        except InputError as error:
            raise _refusal(error, str(error)) from error
        except UsageError as error:
            raise _usage_refusal(error, context) from error
        except OSError as error:
            raise _refusal(error, f"expected the system to allow it, got {error}") from error
        except RuntimeError as error:
            if type(error).__name__ != OUT_OF_MEMORY:
                raise
            advice = "shorten the text, or take --device cpu"
            raise _refusal(error, f"expected more room on the device: {error}: {advice}") from error
        except KeyboardInterrupt as stop:
            complain(
                "stopped; what is finished of prune or compare stays, and the same command goes on from there"
            )
            raise Exit(130) from stop


def _usage_refusal(error: Any, context: Any) -> Exit:
    """The exit of a call that typer refuses, after its line: an unknown flag, a word in place of a number.

    context: typer's, of the whole program.
    """
    if error.ctx is None:
        sentence = f"expected a call as {context.command_path} {context.invoked_subcommand} --help has it"
        return _refusal(error, f"{sentence}: {error.format_message()}")
    path = error.ctx.command_path
    if not hasattr(error, "possibilities"):
        return _refusal(error, f"expected a call as {path} --help has it: {error.format_message()}")
    flags = [DEBUG_FLAG]
    for parameter in error.ctx.command.get_params(error.ctx):
        flags += [name for name in (*parameter.opts, *parameter.secondary_opts) if name.startswith("--")]
    hint = suggestion(error.option_name, flags, otherwise=f"{path} --help lists them")
    return _refusal(error, f"expected a flag of {path}, got {error.option_name!r}: {hint}")


def _refusal(error: Exception, sentence: str) -> Exit:
    """The exit of a command that ends in `error`, after its line on stderr.

    With --debug the traceback comes first. The exit code is 2, and 1 for a measured value that is no number.
    """
    if in_debug_mode():
        traceback.print_exception(error)
    complain(sentence)
    return Exit(1 if isinstance(error, NoNumber) else 2)


@contextmanager
def progress_bars() -> Iterator[Callable[..., None]]:
    """A `Progress` for the block: bars on stderr, or lines where stderr is no terminal."""
    if not error_output.is_terminal:
        yield _line_printer()
        return
    columns = (
        progress.TextColumn("{task.description:>16}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        "left",
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=error_output) as bars:
        bar_ids: dict[str, progress.TaskID] = {}

        def show(task: str, finished: int, total: int, report: object = None) -> None:
            if task not in bar_ids:
                bar_ids[task] = bars.add_task(task)
            bars.update(bar_ids[task], completed=finished, total=total)

        yield show


def _line_printer() -> Callable[..., None]:
    """A `Progress` for logs: a line when a task begins or ends, a layer is finished, or time has passed."""
    started = time.monotonic()
    printed: dict[str, float] = {}  # task -> when its last line was printed

    def print_line(task: str, finished: int, total: int, report: object = None) -> None:
        now = time.monotonic()
        is_due = task not in printed or now - printed[task] >= SECONDS_BETWEEN_LOG_LINES
        if is_due or report is not None or finished == total:
            printed[task] = now
            echo(f"{task}: {finished} of {total}, {now - started:.0f} s", err=True)

    return print_line


def as_typed_here(command: str) -> str:
    """A command that begins with PROGRAM, by the path of the program where its name is not enough."""
    if shutil.which(PROGRAM) is not None:
        return command
    program = shutil.which(PROGRAM, path=str(Path(sys.executable).parent))
    if program is None:
        return command
    with suppress(ValueError):  # on another drive of Windows
        program = min(program, os.path.relpath(program), key=len)
    return shlex.quote(program) + command.removeprefix(PROGRAM)


def make_table(
    columns: Iterable[str],
    rows: Iterable[Iterable[str]],
    title: str | None = None,
    explanation: str | None = None,
) -> Table:
    """A table with these columns and rows, and below them an `explanation` of the columns."""
    table = Table(
        *(Column(name, overflow="fold") for name in columns),
        title=title,
        caption=explanation,
        caption_justify="left",
    )
    for row in rows:
        table.add_row(*row)
    return table


def split_values(text: str, convert: Callable[[str], Any], option: str) -> tuple[Any, ...]:
    """The values between the commas of an option's text.

    Raises InputError for a value that `convert` refuses.
    """
    try:
        return tuple(convert(piece.strip()) for piece in text.split(",") if piece.strip())
    except ValueError as error:
        expected = f"--{option} as numbers between commas"
        raise InputError(expected=expected, got=f"{text!r}", hint=str(error)) from error
