"""`comp-lib inspect`: what a model is made of. `prune`: a smaller one. `demo`: all of COMP on the included model."""

from pathlib import Path
from typing import Annotated

from typer import Option

from .console import ProgressBars, check_extra, check_length, out, show, table
from .options import Calibration, Device, Dtype, Json, Length, Model, Multiple, Overwrite, Seed, Solving

PROMPTS = (
    "The water cycle begins when the sun",
    "def is_prime(n):",
    "Question: what is the capital of France? Answer:",
)
KIND_WINDOWS, KIND_LENGTH = 10, 64  # of each kind of text, in the demo: fewer windows would have no honest interval
DEMO_SEQUENCES = 48  # a good third of what `prune` takes: the demo is to be quick
METHOD_HELP = "comp, llm-pruner, llm-pruner-mixed, flap, shortgpt, wanda-sp, magnitude or random."
PRESET_HELP = "stock (one width for all layers), best (measured widths), fast, or paper."
LAYERS_HELP = "Whole layers to drop: a number, a share below 1, or auto (default: by preset)."
Sequences = Annotated[int | None, Option(min=1, max=100_000, help="Of calibration (default: 128; preset best: 256).")]


def inspect(
    model: Model,
    calibration: Annotated[str, Option(help="Text for the layer importance.")] = "calibration",
    sequences: Annotated[int, Option(min=1, max=100_000)] = 8,
    length: Length = 256,
    seed: Seed = 0,
    as_json: Json = False,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """Layers, widths, parameters and layer importance of MODEL."""
    from ..calibration.tokens import calibration_tokens, check_source
    from ..importance.layers import block_influence
    from ..models.load import load_model
    from ..shape import Shape
    from ..system.machine import available_device

    check_source(calibration)
    place = available_device(device)
    loaded, tokenizer = load_model(model, dtype)
    check_length(loaded, length)
    ids = calibration_tokens(calibration, tokenizer, model=loaded, sequences=sequences, length=length, seed=seed)
    with ProgressBars() as bars:
        influence = block_influence(loaded, ids, place, bars).tolist()
    shape = Shape.of(loaded)
    columns = ("layer", "neurons", "kv_groups", "parameters", "block_influence")
    layers = range(shape.layers)
    rows = list(zip(layers, shape.neurons, shape.kv_groups, map(shape.layer, layers), influence, strict=True))
    values = {"model": model, "parameters": shape.total, "decoder": shape.decoder}
    values["layers"] = [dict(zip(columns, row, strict=True)) for row in rows]
    title = f"{model}: {shape.total:,} parameters, {shape.decoder:,} in the decoder"
    cells = [(*(f"{size:,}" for size in sizes), f"{value:.4f}") for *sizes, value in rows]
    show(table(columns, cells, title=title), values, as_json)


def prune(
    model: Model,
    folder: Annotated[Path, Option("--out", help="Folder for the pruned model.")],
    ratio: Annotated[float, Option(help="Part of the decoder's parameters to remove, at least.")] = 0.2,
    preset: Annotated[str, Option(help=PRESET_HELP)] = "stock",
    method: Annotated[str, Option(help=METHOD_HELP)] = "comp",
    layers: Annotated[str | None, Option(help=LAYERS_HELP)] = None,
    kv_groups: Annotated[int | None, Option(min=1, help="KV groups to keep in each layer (default: all).")] = None,
    calibration: Calibration = "general",
    sequences: Sequences = None,
    length: Length = 256,
    multiple: Multiple = 64,
    seed: Seed = 0,
    dtype: Dtype = "float32",
    device: Solving = "cpu",
    evaluated: Annotated[str, Option("--evaluate", help="Text measured before and after, or none.")] = "evaluation",
    overwrite: Overwrite = False,
) -> None:
    """Prune MODEL and save a smaller one, layer by layer from disk to disk. The same command goes on after a stop."""
    from ..settings import SEQUENCES
    from ..system.machine import available_device
    from .pruning import preset_settings, prune_folder, written_table

    told = {"ratio": ratio, "method": method, "kv_groups": kv_groups, "multiple": multiple, "seed": seed}
    settings = preset_settings(preset, layers, device=str(available_device(device, double=True)), **told)
    judged, count = None if evaluated == "none" else evaluated, sequences or SEQUENCES.get(preset, 128)
    done = prune_folder(model, folder, settings, calibration, count, length, judged, dtype, overwrite)
    out.print(written_table(done))
    out.print(f"saved: {folder}", soft_wrap=True)


def demo(
    folder: Annotated[Path, Option("--out", help="Folder for the model and the pictures.")] = Path("build/demo"),
    overwrite: Annotated[bool, Option(help="Replace an earlier demo.")] = False,
) -> None:
    """COMP on the included model: a fifth smaller, with pictures, the loss by kind, and texts before and after."""
    check_extra("matplotlib", "notebooks")
    from ..calibration.tokens import calibration_tokens
    from ..evaluation.by_kind import judge, kind_windows
    from ..evaluation.generation import continuation
    from ..importance.layers import block_influence
    from ..models.load import EMBEDDED, load_model
    from ..plots import plot_kinds, plot_pruned
    from ..plots.base import save_picture
    from ..system.outputs import check_output
    from .measure import kinds_table
    from .pruning import preset_settings, prune_folder, written_table

    small_folder, *pictures = (folder / name for name in ("model", "pruned.png", "kinds.png"))
    for path in pictures if folder.is_dir() else ():
        check_output(path, overwrite)
    settings = preset_settings("stock", multiple=32)
    done = prune_folder(EMBEDDED, small_folder, settings, "shipped", DEMO_SEQUENCES, overwrite=overwrite)
    (model, tokenizer), small = load_model(EMBEDDED), load_model(small_folder)[0]
    ids = calibration_tokens("calibration", tokenizer, sequences=8)
    windows = kind_windows(tokenizer, min(KIND_LENGTH, model.config.max_position_embeddings), KIND_WINDOWS)
    with ProgressBars() as bars:
        importance = block_influence(model, ids, progress=bars).tolist()
        rows = judge(small, windows, model, progress=bars).rows()
    shape, errors = done.before, [layer.error for layer in done.report.layers]
    save_picture(plot_pruned(importance, done.plan, shape.neurons, shape.kv_groups, errors), pictures[0])
    save_picture(plot_kinds(rows), pictures[1])
    texts = [(prompt, *(continuation(one, tokenizer, prompt, 40) for one in (model, small))) for prompt in PROMPTS]
    for result in (written_table(done), kinds_table(rows), table(("prompt", "dense", "pruned"), texts)):
        out.print(result)
    out.print(f"model:    {small_folder}\npictures: {pictures[0]}, {pictures[1]}", soft_wrap=True)
