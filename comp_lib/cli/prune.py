"""`comp-lib prune`: a smaller model. `comp-lib demo`: the whole of COMP in a few minutes, on the embedded model."""

from pathlib import Path
from typing import Annotated

from typer import Context, Option

from .console import ProgressBars, out, writing
from .options import Model, PruneOptions, command

PROMPT = "The water cycle begins when the sun"
Folder = Annotated[Path, Option("--out", help="Folder for the pruned model.")]
DemoFolder = Annotated[Path, Option("--out", help="Folder for the model and the picture.")]
Overwrite = Annotated[bool, Option(help="Replace an earlier demo.")]


@command
def prune(context: Context, model: Model, out_folder: Folder, options: PruneOptions) -> None:
    """Prune MODEL and save a smaller one, layer by layer from disk to disk. The same command goes on after a stop."""
    from .pruning import PruneRun

    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = {name for name, source in sources.items() if source is not None and source.name != "DEFAULT"}
    run = PruneRun(model, out_folder, options, given)
    out.print(run.table(run.carry_out()))
    out.print(f"saved: {out_folder}", soft_wrap=True)


@command
def demo(out_folder: DemoFolder = Path("build/demo"), overwrite: Overwrite = False) -> None:
    """COMP on the embedded model: a fifth smaller, with picture, perplexities and a text before and after."""
    from ..calibration.tokens import calibration_tokens
    from ..evaluation.generation import continuation
    from ..importance.layers import block_influence
    from ..models.load import EMBEDDED, load_model
    from ..plots import plot_pruned
    from .pruning import PruneRun

    folder, picture = out_folder / "model", out_folder / "pruned.png"
    run = PruneRun(EMBEDDED, folder, PruneOptions(multiple=32, overwrite=overwrite))
    done = run.carry_out()  # first, since it refuses a full folder before any work
    model, tokenizer = load_model(EMBEDDED)
    before = continuation(model, tokenizer, PROMPT, 40)
    ids = calibration_tokens("calibration", tokenizer, sequences=8)
    with ProgressBars() as bars:
        importance = block_influence(model, ids, progress=bars).tolist()
    after = continuation(load_model(folder)[0], tokenizer, PROMPT, 40)
    shape, errors = done.before, [layer.error for layer in done.report.layers]
    with writing(picture):
        plot_pruned(importance, done.plan, shape.neurons, shape.kv_groups, errors).savefig(picture)
    out.print(run.table(done))
    out.print(f"\n[bold]prompt[/]  {PROMPT} ...\n[bold]dense[/]   {before.strip()}\n[bold]pruned[/]  {after.strip()}")
    out.print(f"\nmodel:   {folder}\npicture: {picture}", soft_wrap=True)
