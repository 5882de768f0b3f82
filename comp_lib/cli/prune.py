"""`comp-lib prune`: a smaller model. `demo`: all of COMP on the included model."""

from pathlib import Path
from typing import Annotated, Any

from typer import Option, echo

from ..errors import InputError, suggestion
from .console import (
    Calibration,
    Dtype,
    Length,
    Model,
    Multiple,
    Overwrite,
    ProgressBars,
    Seed,
    Solving,
    check_extra,
    out,
    table,
)

PROMPTS = "The water cycle begins when the sun", "def is_prime(n):", "Question: what is the capital of France? Answer:"
KIND_WINDOWS, KIND_LENGTH = 10, 64  # of each kind of text, in the demo: fewer windows would have no honest interval
DEMO_SEQUENCES = 48  # a good third of what `prune` takes: the demo is to be quick
METHOD_HELP = "comp, llm-pruner, llm-pruner-mixed, flap, shortgpt, wanda-sp, magnitude or random."
PRESET_HELP = "stock (one width for all layers), best (measured widths), fast, or paper."
LAYERS_HELP = "Whole layers to drop: a number, or a share below 1 (default: by preset)."
EVALUATED_HELP = "Text measured before and after, or none; never with llm-pruner."
SEQUENCES_HELP = "Of calibration (default: 128; preset best: 256)."


def prune(
    model: Model,
    folder: Annotated[Path, Option("--out", help="Folder for the pruned model.")],
    ratio: Annotated[float, Option(help="Part of the decoder's parameters to remove, at least.")] = 0.2,
    preset: Annotated[str, Option(help=PRESET_HELP)] = "stock",
    method: Annotated[str, Option(help=METHOD_HELP)] = "comp",
    layers: Annotated[float | None, Option(help=LAYERS_HELP)] = None,
    kv_groups: Annotated[int | None, Option(min=1, help="KV groups to keep in each layer (default: all).")] = None,
    calibration: Calibration = "general",
    sequences: Annotated[int | None, Option(min=1, max=100_000, help=SEQUENCES_HELP)] = None,
    length: Length = 256,
    multiple: Multiple = 64,
    seed: Seed = 0,
    dtype: Dtype = "float32",
    device: Solving = "cpu",
    evaluated: Annotated[str, Option("--evaluate", help=EVALUATED_HELP)] = "evaluation",
    overwrite: Overwrite = False,
) -> Any:
    """Prune MODEL and save a smaller one, layer by layer from disk to disk. The same command goes on after a stop."""
    from ..settings import PRESETS, SEQUENCES, Settings, default_recovery
    from ..system.machine import available_device
    from .pruning import prune_folder, written_table

    if preset not in PRESETS:
        raise InputError(f"expected another --preset, got {preset!r}: {suggestion(preset, PRESETS)}")
    told = {"recovery": default_recovery(method)} | PRESETS[preset] | ({} if layers is None else {"layers": layers})
    told |= {"kv_groups": kv_groups, "multiple": multiple, "seed": seed}
    settings = Settings(ratio, method, device=str(available_device(device, double=True)), **told)
    size = sequences or SEQUENCES.get(preset, 128), length
    done = prune_folder(model, folder, settings, calibration, size, evaluated, dtype, overwrite)
    out.print(written_table(done))
    echo(f"saved: {folder}")
    return done


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
    from ..system.files import check_output
    from .measure import kinds_table

    small_folder, *pictures = (folder / name for name in ("model", "pruned.png", "kinds.png"))
    for path in pictures if folder.is_dir() else ():
        check_output(path, overwrite)
    size: dict[str, Any] = {"sequences": DEMO_SEQUENCES, "multiple": 32}
    done = prune(EMBEDDED, small_folder, calibration="shipped", **size, overwrite=overwrite)
    (model, tokenizer), small = load_model(EMBEDDED), load_model(small_folder)[0]
    ids = calibration_tokens("calibration", tokenizer, sequences=8)
    windows = kind_windows(tokenizer, KIND_LENGTH, KIND_WINDOWS)
    with ProgressBars() as bars:
        importance = block_influence(model, ids, progress=bars).tolist()
        rows = judge(small, windows, model, progress=bars).rows()
    shape, errors = done.before, [layer.error for layer in done.report.layers]
    save_picture(plot_pruned(importance, done.plan, shape.neurons, shape.kv_groups, errors), pictures[0])
    save_picture(plot_kinds(rows), pictures[1])
    texts = [(prompt, *(continuation(one, tokenizer, prompt, 40) for one in (model, small))) for prompt in PROMPTS]
    out.print(kinds_table(rows), table(("prompt", "dense", "pruned"), texts))
    echo(f"pictures: {pictures[0]}, {pictures[1]}")
