"""`comp-lib demo`: the whole of COMP in a few minutes, on the embedded model."""

from pathlib import Path
from typing import Annotated

from typer import Option

from .console import ProgressBars, out, writing
from .options import command
from .prune import PruneOptions, PruneRun

PROMPT = "The water cycle begins when the sun"
Folder = Annotated[Path, Option("--out", help="Folder for the model and the picture.")]
Overwrite = Annotated[bool, Option(help="Replace an earlier demo.")]


@command
def demo(out_folder: Folder = Path("build/demo"), overwrite: Overwrite = False) -> None:
    """COMP on the embedded model: a fifth smaller, with picture, perplexities and a text before and after."""
    from ..calibration.tokens import calibration_tokens
    from ..evaluation.generation import continuation
    from ..importance.layers import block_influence
    from ..models.load import EMBEDDED, load_model
    from ..plots import plot_pruned

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
