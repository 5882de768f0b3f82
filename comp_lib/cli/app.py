"""The command line: `comp-lib`, or `python -m comp_lib`.

Everything that can be refused is refused before any work starts: one line on stderr, exit code 2, nothing written.
"""

import io
import os
import sys
from typing import Annotated

import typer

from .care import cache, doctor, version
from .heal import heal
from .measure import benchmark, compare, evaluate
from .prune import demo, inspect, plan, prune
from .report import report
from .use import chat, export, generate

HELP = "COMP: post-training structured pruning of LLaMA-class models, without fine-tuning."
app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Print it and end.")
    ] = False,
) -> None:
    """Options of no command."""
    for stream in (sys.stdout, sys.stderr):  # what a terminal or a file cannot show ends no work
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


COMMANDS = prune, inspect, generate, demo, evaluate, compare, export, chat, benchmark, plan, report, heal, doctor, cache
for command in COMMANDS:
    app.command()(command)


def run() -> None:
    """The program. What the system refuses on the way, such as a line to a full disk, ends it with a line as well."""
    try:
        try:
            app(prog_name="comp-lib")
        finally:
            sys.stdout.flush()
    except OSError as error:
        typer.echo(f"comp-lib: expected the system to allow it, got {error}; mend that and call again", err=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what could not be printed is not tried again
        raise SystemExit(2) from error
