"""`comp-lib prune`: a smaller model. `demo`: all of COMP on the included model."""

import json
from pathlib import Path
from typing import Annotated, Any

from typer import Option, echo

from ..errors import check_package
from ..settings import METHODS, PRESETS_IN_WORDS
from .console import out, progress_bars, table
from .options import QUALITY, RESEARCH, Calibration, Dtype, Length, Model, Multiple, Overwrite, Seed, Solving

PROMPTS = (
    "The water cycle begins when the sun",
    "def is_prime(n):",
    "Question: what is the capital of France? Answer:",
)
KIND_WINDOWS, KIND_LENGTH = (
    10,
    64,
)  # of each kind of text, in the demo: fewer windows would have no honest interval
DEMO_SEQUENCES = 48  # a good third of what `prune` takes: the demo is to be quick
RATIO_HELP = "Part of the decoder's parameters to remove, at least (default: 0.2)."
AT_MOST_HELP = (
    "In its place, how much the loss may rise: 0.2nats finds the ratio by up to 5 prunings in memory."
)
PRESET_HELP = ", ".join(f"{name} ({words})" for name, words in PRESETS_IN_WORDS.items()) + "."
METHOD_HELP = ", ".join(METHODS) + "."
GROUPS_HELP = "KV groups to keep in each layer (default: all)."
LAYERS_HELP = "Whole layers to drop: a number, or a share below 1 (default: by preset)."
EVALUATE_HELP = "Text that judges both models, or none; kinds: a little of each that ships."
SEQUENCES_HELP = (
    "Of calibration (default: 128; best: 256; our mixtures: more for wide layers, fewer if long)."
)


def prune(
    model: Model,
    folder: Annotated[Path, Option("--out", help="Folder for the pruned model.")],
    ratio: Annotated[float | None, Option(help=RATIO_HELP)] = None,
    at_most: Annotated[str | None, Option(help=AT_MOST_HELP)] = None,
    preset: Annotated[str, Option(help=PRESET_HELP, rich_help_panel=QUALITY)] = "stock",
    calibration: Calibration = "general",
    sequences: Annotated[
        int | None, Option(min=1, max=100_000, help=SEQUENCES_HELP, rich_help_panel=QUALITY)
    ] = None,
    length: Length = 256,
    evaluated: Annotated[str, Option("--evaluate", help=EVALUATE_HELP, rich_help_panel=QUALITY)] = "kinds",
    dtype: Dtype = "float32",
    device: Solving = "cpu",
    method: Annotated[str, Option(help=METHOD_HELP, rich_help_panel=RESEARCH)] = "comp",
    layers: Annotated[float | None, Option(help=LAYERS_HELP, rich_help_panel=RESEARCH)] = None,
    kv_groups: Annotated[int | None, Option(min=1, help=GROUPS_HELP, rich_help_panel=RESEARCH)] = None,
    multiple: Multiple = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: Annotated[
        bool, Option("--json", help="The verdict as one JSON object on standard output.")
    ] = False,
) -> Any:
    """Prune MODEL and save a smaller one, layer by layer from disk to disk. The same command goes on after a stop."""
    from ..disk.prune_model import prune_model

    told: dict[str, Any] = {"preset": preset, "method": method, "layers": layers, "kv_groups": kv_groups}
    told |= {
        "calibration": calibration,
        "sequences": sequences,
        "length": length,
        "multiple": multiple,
        "seed": seed,
    }
    told |= {
        "dtype": dtype,
        "device": device,
        "evaluated": evaluated,
        "overwrite": overwrite,
        "at_most": at_most,
    }
    with progress_bars() as bars:
        done = prune_model(model, folder, ratio, **told, progress=bars)
    echo(json.dumps(done.numbers()) if as_json else done)
    return done


def demo(
    folder: Annotated[Path, Option("--out", help="Folder for the model and the pictures.")] = Path(
        "build/demo"
    ),
    overwrite: Annotated[bool, Option(help="Replace an earlier demo.")] = False,
) -> None:
    """COMP on the included model: a fifth smaller, with pictures, the loss by kind, and texts before and after."""
    check_package("matplotlib", "notebooks")
    from ..calibration.windows import calibration_tokens, windows_of
    from ..evaluation.by_kind import judge
    from ..evaluation.generation import continuation
    from ..importance.layers import block_influence
    from ..models.load import EMBEDDED, load_model
    from ..plots import plot_kinds, plot_pruned, png
    from ..system.atomic import check_output, write_atomically
    from .measure import kinds_table

    small_folder, *pictures = (folder / name for name in ("model", "pruned.png", "kinds.png"))
    for path in pictures if folder.is_dir() else ():
        check_output(path, overwrite)
    size: dict[str, Any] = {"sequences": DEMO_SEQUENCES, "multiple": 32}
    done = prune(EMBEDDED, small_folder, calibration="shipped", **size, evaluated="none", overwrite=overwrite)
    (model, tokenizer), small = load_model(EMBEDDED), load_model(small_folder)[0]
    ids = calibration_tokens("calibration", tokenizer, sequences=8)
    windows = windows_of("kinds", tokenizer, KIND_LENGTH, KIND_WINDOWS)
    with progress_bars() as bars:
        importance = block_influence(model, ids, progress=bars).tolist()
        rows = judge(small, windows, model, progress=bars).rows()
    shape, errors = done.before, [layer.error for layer in done.report.layers]
    pruned = plot_pruned(importance, done.plan, shape.neurons, shape.kv_groups, errors)
    for path, figure in zip(pictures, (pruned, plot_kinds(rows)), strict=True):
        write_atomically(path, png(figure))
    texts = [
        (prompt, *(continuation(one, tokenizer, prompt, 40) for one in (model, small))) for prompt in PROMPTS
    ]
    out.print(kinds_table(rows), table(("prompt", "dense", "pruned"), texts))
    echo(f"pictures: {pictures[0]}, {pictures[1]}")
