"""`comp-lib inspect`: what a model is made of. `evaluate`: how good it is. `compare`: methods, on the same text."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from rich.table import Table
from typer import Exit, Option, echo

from ..errors import InputError, check_package
from .console import complain, listed, out, progress_bars, table
from .options import Calibration, Device, Dtype, Length, Model, Multiple

TEXT_HELP = "Text name or file; kinds: each of the eight that ship, and their mean."
TASKS_HELP = "Instead of a text: offline, literature, or lm-eval's names, with commas."


def inspect(model: Model, dtype: Dtype = "float32", device: Device = "cpu") -> None:
    """Layers, widths, parameters and layer importance of MODEL."""
    from ..calibration.tokens import calibration_tokens
    from ..importance.layers import block_influence
    from ..models.load import load_model
    from ..shape import Shape

    loaded, tokenizer = load_model(model, dtype, device)
    length = min(256, loaded.config.max_position_embeddings)
    ids = calibration_tokens("calibration", tokenizer, sequences=8, length=length)
    with progress_bars() as bars:
        influence = block_influence(loaded, ids, loaded.device, bars).tolist()
    shape = Shape.of(loaded)
    layers = range(shape.layers)
    rows = zip(layers, shape.neurons, shape.kv_groups, map(shape.layer, layers), influence, strict=True)
    cells = [(*(f"{size:,}" for size in sizes), f"{value:.4f}") for *sizes, value in rows]
    title = f"{model}: {shape.total:,} parameters, {shape.decoder:,} in the decoder"
    out.print(table(("layer", "neurons", "KV groups", "parameters", "block influence"), cells, title))


def evaluate(
    model: Model,
    text: Annotated[str, Option(help=TEXT_HELP)] = "kinds",
    length: Annotated[int, Option(min=2, max=1_000_000, help="Tokens in each window (papers: 2048).")] = 512,
    sequences: Annotated[
        int | None, Option(min=1, help="Windows to measure, of each kind (default: all).")
    ] = None,
    against: Annotated[str | None, Option(help="Its parent: loss added, KL divergence, agreement.")] = None,
    tasks: Annotated[str | None, Option(help=TASKS_HELP)] = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """Loss of MODEL on every kind of text, or on one text, with 95% intervals, or its accuracy in tasks."""
    from ..calibration.text import EVERY_KIND, KINDS, load_text, windows_of
    from ..calibration.tokens import text_hashes
    from ..evaluation.by_kind import judge
    from ..models.load import load_model
    from ..models.save import calibrated_on
    from ..planning import check_length

    if tasks is not None:
        if (text, length, sequences, against) != ("kinds", 512, None, None):
            got = "got it with --tasks: leave it out"
            raise InputError(f"expected --text, --length, --sequences or --against without --tasks, {got}")
        check_package("lm_eval", "evaluate")
        from lm_eval.utils import make_table

        from ..evaluation.zero_shot import load_tasks, zero_shot

        suite = load_tasks(tasks)  # refused before the model is loaded
        return echo(make_table(zero_shot(*load_model(model, dtype, device), suite)))
    load_text(text)  # refused before the model is loaded
    loaded, tokenizer = load_model(model, dtype, device)
    check_length(loaded, length)
    windows = windows_of(text, tokenizer, length, sequences)
    texts = {f"evaluation:{kind}" for kind in KINDS} if text == EVERY_KIND else {text}
    known = calibrated_on(model)
    if met := sorted(each for each in texts if any(one in known for one in text_hashes(each))):
        complain(f"{', '.join(met)} calibrated this model, so it looks better there than on other text")
    dense = None if against is None else load_model(against, dtype, device)[0]
    with progress_bars() as bars:
        rows = judge(loaded, windows, dense, progress=bars).rows()
    out.print(kinds_table(rows))


def kinds_table(rows: Mapping[str, tuple[dict[str, float], dict[str, Any]]]) -> Table:
    """A row for each text, and the last for their mean; see `evaluation.by_kind.ByKind.rows`."""
    from ..evaluation.loss import perplexity_of

    cells: list[dict[str, str]] = []
    for text, (measures, intervals) in rows.items():
        sure = "increase" if "increase" in measures else "loss"
        if sure == "loss":
            measures = measures | {"perplexity": perplexity_of(measures["loss"])}
        cells.append({"text": text} | {name: f"{value:.3f}" for name, value in measures.items()})
        if (bounds := intervals[sure]) is not None:
            cells[-1][sure] += " ({:.3f} to {:.3f})".format(*bounds)
    title = "loss by kind of text, nats per token, with 95% intervals"
    heads = [name.removesuffix("_loss").removeprefix("top1_") for name in cells[0]]
    return table(heads, [row.values() for row in cells], title)


def compare(
    model: Model,
    folder: Annotated[Path, Option("--out", help="Folder for rows, table and figures.")],
    ratios: Annotated[
        str, Option(help="Parts of the decoder to remove, at least, with commas.")
    ] = "0.1,0.2,0.3,0.5",
    methods: Annotated[
        str | None, Option(help="Names as for prune --method, with commas (default: all).")
    ] = None,
    seeds: Annotated[
        int, Option(min=1, max=1_000, help="How many: each draws other calibration windows.")
    ] = 3,
    sequences: Annotated[str, Option(help="Calibration sequences, one number or several.")] = "32",
    length: Length = 256,
    calibration: Calibration = "calibration",
    evaluated: Annotated[str, Option("--evaluate", help="Text that judges, or kinds.")] = "evaluation",
    windows: Annotated[int, Option(min=2, max=100_000, help="Windows of it, or of each kind.")] = 12,
    window: Length = 512,
    multiple: Multiple = None,
    workers: Annotated[int, Option(min=1, max=256, help="Runs at a time on this machine.")] = 1,
    scheduler: Annotated[str | None, Option(help="Of a Dask cluster, in its place: tcp://host:8786.")] = None,
) -> None:
    """Run a grid of methods, ratios and seeds on MODEL. Finished rows stay: the same command goes on after a kill."""
    check_package("matplotlib", "notebooks")
    from ..compare.grid import Grid, run
    from ..compare.summary import markdown, write_summary
    from ..settings import METHODS, PRESETS, Settings

    chosen = METHODS if methods is None else listed(methods, str, "methods")
    text: dict[str, Any] = {"calibration": calibration, "length": length, "evaluation": evaluated}
    text |= {
        "windows": windows,
        "window": window,
        "settings": Settings(multiple=multiple, **PRESETS["stock"]),
    }
    sizes = listed(sequences, int, "sequences")
    grid = Grid(model, listed(ratios, float, "ratios"), chosen, seeds, sizes, **text)
    with progress_bars() as bars:
        rows = run(grid, folder, bars, workers=workers, scheduler=scheduler)
    write_summary(rows, folder)
    echo(markdown(rows))
    picture = " and increase.png" if (rows.status == "ok").any() else ""
    echo(f"written: rows.csv, table.md{picture} in {folder}")
    if (rows.status == "failed").any():
        raise Exit(1)
