"""The commands that use a model: `generate`, `export`, `heal` and `report`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Exit, Option, echo

from ..calibration.defaults import COMPARED_SEQUENCES, USUAL_LENGTH, USUAL_SEQUENCES
from ..pruning.settings import USUAL_PRESET
from ..utils.arguments import check_package
from ..utils.errors import InputError
from .console import complain, progress_bars, split_values
from .options import CalibrationText, Device, Dtype, Length, ModelName, Overwrite, Seed, SolvingDevice

if TYPE_CHECKING:
    from ..checkpoints.gguf.write import GgufType
else:  # any word: the library refuses others, and says which it takes
    GgufType = str

TYPE_HELP = "Of the GGUF matrices: f32, f16, q8_0, q4_1 or q4_0."
PADDED_HELP = "Folder whose layers have one width, filled up with zeros."
TEACHING_TEXT_HELP = "written (by the parent), or what prune --calibration takes."
FORCE_HELP = "Save it even if it got worse on text that did not teach."
PAGE_HELP = "File (.html) for the page; the notebook lies beside it."
AGAINST_HELP = "Another checkpoint to compare with, such as the parent."
SEQUENCES_HELP = f"Of calibration, {USUAL_LENGTH} tokens each."
KINDS_HELP = "Kinds of text that judge, with commas (default: all eight)."
RATIOS_HELP = "Parts of the decoder that may go, with commas."
WAYS_HELP = "Ways to prune: presets or methods, with commas; the recommendation is for the first."


def generate(
    model: ModelName,
    prompt: Annotated[str, Option(help="Text to go on from.")],
    tokens: Annotated[int, Option(min=1, max=1_000_000, help="New tokens at most.")] = 60,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """Let MODEL continue a prompt (greedy)."""
    from ..checkpoints.load import load_model
    from ..evaluation.generation import continuation

    loaded, tokenizer = load_model(model, dtype, device)
    echo(prompt + continuation(loaded, tokenizer, prompt, tokens))


def export(
    model: ModelName,
    file: Annotated[Path | None, Option("--gguf", help="File for llama.cpp.")] = None,
    gguf_type: Annotated[GgufType, Option("--type", help=TYPE_HELP)] = "f16",
    padded: Annotated[Path | None, Option(help=PADDED_HELP)] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write MODEL as a GGUF file, for llama.cpp and its kin, or as a stock folder, for any runtime."""
    if file is None and padded is None:
        raise InputError(expected="--gguf or --padded", got="neither", hint="name one of them")
    if file is not None and padded is not None:
        raise InputError(expected="--gguf or --padded", got="both", hint="name one of them")
    if padded is not None and gguf_type != "f16":
        raise InputError(expected="--type with --gguf", got=f"{gguf_type} with --padded", hint="leave it out")
    from ..checkpoints.export import export_gguf
    from ..checkpoints.padded import export_padded

    with progress_bars() as bars:
        if file is not None:
            export_gguf(model, file, gguf_type, overwrite=overwrite, progress=bars)
        elif padded is not None:
            export_padded(model, padded, overwrite=overwrite)
    echo(f"written: {file or padded}")


def heal(
    model: Annotated[str, Argument(help="The pruned folder.")],
    parent_name: Annotated[str, Option("--parent", help="The model that was pruned.")],
    folder: Annotated[Path, Option("--out", help="Folder for the healed model.")],
    steps: Annotated[int, Option(min=1, max=100_000, help="Training steps.")] = 100,
    learning_rate: Annotated[float, Option(min=0, max=1, help="Learning rate, at its highest.")] = 1e-3,
    calibration: Annotated[str, Option(help=TEACHING_TEXT_HELP)] = "written",
    sequences: Annotated[
        int, Option(min=1, max=100_000, help="Sequences of that text; the last ones judge.")
    ] = USUAL_SEQUENCES,
    length: Length = USUAL_LENGTH,
    seed: Seed = 0,
    device: Device = "cpu",
    overwrite: Overwrite = False,
    force: Annotated[bool, Option("--force", help=FORCE_HELP)] = False,
) -> None:
    """Train MODEL, a pruned folder, to answer as its parent does. Needs the extra heal."""
    from ..calibration.windows import Calibration
    from ..checkpoints.from_disk.heal_folder import heal_folder
    from ..recovery.healing import HealingSettings

    with progress_bars() as bars:
        healed = heal_folder(
            model,
            folder,
            parent_name=parent_name,
            settings=HealingSettings(steps=steps, learning_rate=learning_rate, seed=seed),
            calibration=Calibration(calibration, sequences, length, seed),
            overwrite=overwrite,
            force=force,
            device=device,
            progress=bars,
        )
    echo(
        f"divergence from {parent_name} on text that did not teach: "
        f"{healed.divergence_before:.4f} before, {healed.divergence_after:.4f} after"
    )
    if healed.divergence_after >= healed.divergence_before:
        complain("it did not help; saved all the same, as --force says")
    echo(f"saved: {folder}")


def report(
    model: ModelName,
    page_file: Annotated[Path, Option("--out", help=PAGE_HELP)],
    against: Annotated[str, Option(help=AGAINST_HELP)] = "",
    kinds: Annotated[str | None, Option(help=KINDS_HELP)] = None,
    ratios: Annotated[str, Option(help=RATIOS_HELP)] = "0.1,0.2,0.3",
    ways: Annotated[str, Option(help=WAYS_HELP)] = USUAL_PRESET,
    at_most: Annotated[str, Option(help="How much the loss may rise.")] = "0.2nats",
    calibration: CalibrationText = "general",
    sequences: Annotated[int, Option(min=1, max=100_000, help=SEQUENCES_HELP)] = COMPARED_SEQUENCES,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    dtype: Dtype = "float32",
    device: SolvingDevice = "cpu",
) -> None:
    """Check-up of MODEL as a page: what may go, at what price. Needs the extra report."""
    check_package("papermill", "report")
    from ..calibration.texts import KINDS
    from ..checkpoints.from_disk.ratio_search import parse_nats
    from ..reports.checkup.page import check_page_request, execute, render
    from ..utils.files import checked_new_file, write_atomically
    from ..utils.machine import available_device

    if page_file.suffix.lower() not in (".html", ".htm"):
        expected = "--out to be an .html file"
        raise InputError(expected=expected, got=repr(page_file.name), hint="choose another name")
    notebook_file = page_file.with_suffix(".ipynb")
    notebook_target = checked_new_file(notebook_file, overwrite)
    page_target = checked_new_file(page_file, overwrite)
    parameters = {
        "model": model,
        "against": against,
        "calibration": calibration,
        "sequences": sequences,
        "seed": seed,
        "dtype": dtype,
        "device": str(available_device(device, double=True)),
        "allowed": parse_nats(at_most),
        "ratios": list(split_values(ratios, float, "ratios")),
        "ways": list(split_values(ways, str, "ways")),
        "kinds": list(KINDS if kinds is None else split_values(kinds, str, "kinds")),
    }
    check_page_request(parameters)
    notebook, failure = execute(parameters)
    notebook_text, page_text = render(notebook)
    write_atomically(notebook_target, notebook_text.encode())
    write_atomically(page_target, page_text.encode())
    echo(f"page:     {page_file}\nnotebook: {notebook_file}")
    if failure is not None:
        complain(f"it stopped at {failure}; the page goes up to there")
        raise Exit(1)
