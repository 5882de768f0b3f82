"""The command line: `comp-lib`, or `python -m comp_lib`.

What can be refused is refused before any work starts: one line on stderr, exit code 2, nothing written.
"""

import os
from typing import Annotated

import typer

from ..utils.errors import DEBUG_VARIABLE
from .console import Commands
from .doctor import doctor
from .measure import compare, evaluate, inspect
from .prune import demo, prune
from .use import export, generate, heal, report

HELP = "COMP: post-training structured pruning of LLaMA-class language models, without fine-tuning."
DEBUG_HELP = "Show the traceback of an error in the input. May also stand after the command."
COMMANDS = (demo, inspect, prune, evaluate, generate, compare, export, report, heal, doctor)
app = typer.Typer(
    cls=Commands, help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
for command in COMMANDS:
    app.command()(command)


@app.callback()
def set_up(debug: Annotated[bool, typer.Option("--debug", help=DEBUG_HELP)] = False) -> None:
    """Read the flag that stands before any command."""
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"  # processes of `compare` and `report` inherit it
