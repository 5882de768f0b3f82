"""The command line: `comp-lib`, or `python -m comp_lib`.

What can be refused is refused before any work starts: one line on stderr, exit code 2, nothing written.
"""

import io
import os
import sys
from importlib import metadata
from typing import Annotated

import typer

from .console import refusing
from .doctor import doctor
from .heal import heal
from .measure import compare, evaluate
from .prune import demo, inspect, prune
from .report import report
from .use import export, generate

HELP = "COMP: post-training structured pruning of LLaMA-class language models, without fine-tuning."
COMMANDS = demo, inspect, prune, evaluate, generate, compare, export, report, heal, doctor
app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for command in COMMANDS:
    app.command()(refusing(command))


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"comp-lib {metadata.version('comp-lib')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it and end.")
    ] = False,
) -> None:
    """Options of no command."""
    for stream in (sys.stdout, sys.stderr):  # what a terminal or a file cannot show ends no work
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def run() -> None:
    """The program. Output that nobody takes, such as a full disk or a `head` that has read enough, ends it."""
    try:
        try:
            app(prog_name="comp-lib")
        finally:
            if sys.stdout is not None:  # closed by who started us
                sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what could not be printed is not tried again
        if not isinstance(error, BrokenPipeError):
            typer.echo(f"comp-lib: expected to print, got {error}; mend that and call again", err=True)
        raise SystemExit(2) from error
