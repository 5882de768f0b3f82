"""The command line: `comp-lib`, or `python -m comp_lib`.

What can be refused is refused before any work starts: one line on stderr, exit code 2, nothing written.
"""

import io
import os
import sys

import typer

from .console import complain, refusing
from .doctor import doctor
from .measure import compare, evaluate, inspect
from .prune import demo, prune
from .use import export, generate, heal, report

HELP = "COMP: post-training structured pruning of LLaMA-class language models, without fine-tuning."
COMMANDS = demo, inspect, prune, evaluate, generate, compare, export, report, heal, doctor
app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for command in COMMANDS:
    app.command()(refusing(command))


def run() -> None:
    """The program. Output that nobody takes, such as a full disk or a `head` that has read enough, ends it."""
    for stream in (sys.stdout, sys.stderr):  # what a terminal or a file cannot show ends no work
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        try:
            app(prog_name="comp-lib")
        finally:
            if sys.stdout is not None:  # closed by who started us
                sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what could not be printed is not tried again
        if not isinstance(error, BrokenPipeError):
            complain(f"expected to print, got {error}; mend that and call again")
        raise SystemExit(2) from error
