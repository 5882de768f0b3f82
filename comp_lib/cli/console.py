"""What commands share: options, how they refuse, and how they show progress and results."""

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table
from typer import Argument, Exit, Option, secho

from ..errors import InputError, check_package

# what people call their files is no markup
out, err = (Console(stderr=stderr, markup=False, emoji=False) for stderr in (False, True))

MODEL_HELP = "smollm2-135m (included), gemma3-270m, a folder, a .gguf file, or a Hub id"
CALIBRATION_HELP = "general, shipped, written, self, a text's name or file, or several: mine.txt+general."
Model = Annotated[str, Argument(help=MODEL_HELP)]
Dtype = Annotated[str, Option(help="float32, bfloat16 or float16.")]
Device = Annotated[str, Option(help="cpu, cuda, mps or auto.")]
Solving = Annotated[str, Option(help="cpu, cuda or auto; not mps, which has no float64.")]
Calibration = Annotated[str, Option(help=CALIBRATION_HELP)]
Length = Annotated[int, Option(min=2, max=1_000_000, help="Tokens in each.")]
Multiple = Annotated[int, Option(min=1, max=1_000_000, help="Widths are multiples of this.")]
Seed = Annotated[int, Option(min=0, max=2**63 - 1)]
Overwrite = Annotated[bool, Option(help="Replace what is there.")]


def complain(words: object) -> None:
    """Say on stderr, in one line, what did not go well."""
    secho(f"comp-lib: {words}", fg="red", err=True)


def refusing(function: Callable[..., Any]) -> Callable[..., None]:
    """A command whose words are in UTF-8, and whose paths are places without `~`.

    What the user can mend is one line and exit code 2. Ctrl-C is exit code 130.
    """

    @functools.wraps(function)
    def command(**values: Any) -> None:
        from ..system.files import resolved

        try:
            for name, value in values.items():
                if str(value).encode("utf-8", "replace").decode() != str(value):
                    raise InputError(f"expected words in UTF-8, got {str(value)[:100]!r}: write them another way")
                if isinstance(value, Path):
                    resolved(value)  # refuses a home that is not there, and links that go in a circle
                    values[name] = value.expanduser()
            function(**values)
        except BrokenPipeError:  # a closed standard output is nobody's mistake
            raise
        except (InputError, OSError) as error:
            mine = isinstance(error, InputError)
            complain(error if mine else InputError(f"expected the system to allow it, got {error}"))
            raise Exit(2) from error
        except KeyboardInterrupt as stop:
            complain("stopped; what is finished of prune or compare stays, and the same command goes on from there")
            raise Exit(130) from stop

    return command


def check_extra(package: str, extra: str) -> None:
    """Raises InputError, which says what to type, unless the `package` that `extra` brings is here."""
    check_package(package, f"the package {package}", f"pip install 'comp-lib[{extra}]'")


class ProgressBars(Progress):
    """A bar for each kind of work, on stderr; beside the number of layers, what was lost and the most memory so far."""

    def __init__(self) -> None:
        name, note = TextColumn("{task.description:>16}", markup=False), TextColumn("{task.fields[note]}")
        columns = (name, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), "left", TimeRemainingColumn(), note)
        super().__init__(*columns, console=err, transient=not err.is_terminal)

    def __call__(self, what: str, done: int, total: int, report: Any = None) -> None:
        known = [task.id for task in self.tasks if task.description == what]
        bar = known[0] if known else self.add_task(what, note="")
        self.update(bar, completed=done, total=total)
        if report is not None:
            self.update(bar, note=f"error {report.error:.2%}  at most {report.peak_megabytes:,.0f} MiB")


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
