"""The command line: `comp-lib`, or `python -m comp_lib`.

What can be refused is refused before any work starts: one line on stderr, exit code 2, nothing written.
"""

import typer

from .console import Commands
from .doctor import doctor
from .measure import compare, evaluate, inspect
from .prune import demo, prune
from .use import export, generate, heal, report

HELP = "COMP: post-training structured pruning of LLaMA-class language models, without fine-tuning."
COMMANDS = demo, inspect, prune, evaluate, generate, compare, export, report, heal, doctor
app = typer.Typer(
    cls=Commands, help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
for command in COMMANDS:
    app.command()(command)
