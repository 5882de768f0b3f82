"""The command line: `comp-lib`, or `python -m comp_lib`.

Everything that can be refused is refused before any work starts: one line on stderr, exit code 2, nothing written.
"""

import typer

from .benchmark import benchmark
from .chat import chat
from .compare import compare
from .demo import demo
from .evaluate import evaluate
from .export import export
from .generate import generate
from .inspect import inspect
from .plan import plan
from .prune import prune

app = typer.Typer(
    help="COMP: post-training structured pruning of LLaMA-class models, without fine-tuning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (prune, inspect, generate, demo, evaluate, compare, export, chat, benchmark, plan):
    app.command()(command)
