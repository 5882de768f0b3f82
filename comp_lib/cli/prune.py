"""The commands `prune`, which makes a smaller model, and `demo`, all of COMP on the included model."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from typer import Option, echo

from ..calibration.defaults import USUAL_LENGTH, USUAL_SEQUENCES
from ..pruning.methods import METHODS
from ..pruning.settings import PRESET_TABLE, MethodChanges
from ..utils.arguments import check_package
from .console import as_typed_here, complain, make_table, output, progress_bars
from .options import (
    QUALITY,
    RESEARCH,
    CalibrationText,
    Dtype,
    Length,
    ModelName,
    Multiple,
    Overwrite,
    Preset,
    Seed,
    SolvingDevice,
)

DEMO_FOLDER = Path("build/demo")
DEMO_SEQUENCES = 48  # three eighths of what `prune` takes, so that the demo is quick
DEMO_MULTIPLE = 32
DEMO_WINDOWS = 10  # windows of each kind of text: fewer would have no honest interval
DEMO_WINDOW_LENGTH = 64
DEMO_NEW_TOKENS = 40
# Texts that both models continue in the demo, besides `evaluation.generation.EXAMPLE_PROMPT`.
DEMO_PROMPTS = ("def is_prime(n):", "Question: what is the capital of France? Answer:")
DEMO_ANSWER = "Paris"  # what a model that knows it writes after the last of them

RATIO_HELP = "Part of the decoder's parameters to remove, at least (default: 0.2)."
AT_MOST_HELP = (
    "In its place, how much the loss may rise: 0.2nats finds the ratio by up to 5 prunings in memory."
)
METHOD_HELP = ", ".join(METHODS) + "."
GROUPS_HELP = "KV groups to keep in each layer (default: all; llm-pruner and flap choose)."
DROP_LAYERS_HELP = "Whole layers to drop: a number, or a share below 1 (default: by preset)."
JUDGED_ON_HELP = "Text that judges both models, or none; kinds: a little of each that ships."
SEQUENCES_HELP = (
    f"Of calibration (default: {USUAL_SEQUENCES}; best: {PRESET_TABLE['best'].sequences}; "
    "our mixtures: more for wide layers, fewer if long)."
)
JSON_HELP = "The verdict as one JSON object on standard output."


def prune(
    model: ModelName,
    out: Annotated[Path, Option(help="Folder, or .gguf file, for the pruned model.")],
    ratio: Annotated[float | None, Option(help=RATIO_HELP)] = None,
    at_most: Annotated[str | None, Option(help=AT_MOST_HELP)] = None,
    preset: Preset = None,
    calibration: CalibrationText = "general",
    sequences: Annotated[
        int | None, Option(min=1, max=100_000, help=SEQUENCES_HELP, rich_help_panel=QUALITY)
    ] = None,
    length: Length = USUAL_LENGTH,
    judged_on: Annotated[str, Option(help=JUDGED_ON_HELP, rich_help_panel=QUALITY)] = "kinds",
    dtype: Dtype = "float32",
    device: SolvingDevice = "cpu",
    method: Annotated[str, Option(help=METHOD_HELP, rich_help_panel=RESEARCH)] = "comp",
    drop_layers: Annotated[float | None, Option(help=DROP_LAYERS_HELP, rich_help_panel=RESEARCH)] = None,
    kv_groups: Annotated[int | None, Option(min=1, help=GROUPS_HELP, rich_help_panel=RESEARCH)] = None,
    multiple: Multiple = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: Annotated[bool, Option("--json", help=JSON_HELP)] = False,
) -> None:
    """Prune MODEL and save a smaller one, from disk to disk. After a stop the same command goes on."""
    from ..calibration.windows import Calibration
    from ..checkpoints.from_disk.prune_model import prune_model

    changes: MethodChanges = {"method": method, "kv_groups": kv_groups, "multiple": multiple}
    if drop_layers is not None:
        changes["drop_layers"] = drop_layers
    with progress_bars() as bars:
        verdict = prune_model(
            model,
            out,
            ratio,
            at_most=at_most,
            preset=preset,
            calibration=Calibration(calibration, sequences, length, seed),
            judged_on=None if judged_on == "none" else judged_on,
            device=device,
            dtype=dtype,
            overwrite=overwrite,
            progress=bars,
            **changes,
        )
    if as_json:
        echo(json.dumps(verdict.as_dict()))
        for sentence in verdict.warnings:
            complain(sentence)
    else:
        echo(replace(verdict, next_command=as_typed_here(verdict.next_command)))


def demo(
    folder: Annotated[Path, Option("--out", help="Folder for the model and the pictures.")] = DEMO_FOLDER,
    overwrite: Annotated[bool, Option(help="Replace an earlier demo.")] = False,
) -> None:
    """COMP on the included model, without a fifth of its decoder: pictures, losses, texts of both."""
    check_package("matplotlib", "plots")
    echo("loading torch and transformers")
    from ..calibration.windows import Calibration
    from ..checkpoints.from_disk.prune_model import prune_model
    from ..checkpoints.load import load_model
    from ..checkpoints.wheels import INCLUDED_MODEL
    from ..evaluation.by_kind import judge
    from ..evaluation.generation import EXAMPLE_PROMPT, continuation
    from ..evaluation.windows import windows_of
    from ..reports.plots import plot_kinds, plot_pruned, png
    from ..utils.files import checked_new_file, write_atomically
    from .measure import cost_in_words, kinds_table

    pruned_folder = folder / "model"
    pruned_picture = folder / "pruned.png"
    kinds_picture = folder / "kinds.png"
    if folder.is_dir():
        checked_new_file(pruned_picture, overwrite)
        checked_new_file(kinds_picture, overwrite)
    echo(f"reading {INCLUDED_MODEL}")
    with progress_bars() as bars:
        verdict = prune_model(
            INCLUDED_MODEL,
            pruned_folder,
            calibration=Calibration("shipped", DEMO_SEQUENCES),
            multiple=DEMO_MULTIPLE,
            judged_on=None,
            overwrite=overwrite,
            progress=bars,
        )
    echo("\n".join(verdict.describe()))

    echo(f"reading {INCLUDED_MODEL} and {pruned_folder}, to compare them")
    parent, tokenizer = load_model(INCLUDED_MODEL)
    pruned_model, _ = load_model(pruned_folder)
    windows_by_text = windows_of("kinds", tokenizer, DEMO_WINDOW_LENGTH, DEMO_WINDOWS)
    with progress_bars() as bars:
        judged = judge(pruned_model, windows_by_text, parent, progress=bars)
    shape = verdict.parent_shape
    errors = [layer.mlp_error for layer in verdict.report.layers]
    figure = plot_pruned(verdict.plan, shape.neurons, shape.kv_groups, errors)
    write_atomically(pruned_picture, png(figure))
    write_atomically(kinds_picture, png(plot_kinds(judged.make_rows(), judged.make_mean_row())))
    prompts = (EXAMPLE_PROMPT, *DEMO_PROMPTS)
    echo(f"both models continue {len(prompts)} texts")
    texts = []
    with progress_bars() as bars:
        for prompt in prompts:
            parent_text = continuation(parent, tokenizer, prompt, DEMO_NEW_TOKENS)
            pruned_text = continuation(pruned_model, tokenizer, prompt, DEMO_NEW_TOKENS)
            texts.append((prompt, parent_text, pruned_text))
            bars("texts", len(texts), len(prompts))
    output.print(kinds_table(judged), make_table(("prompt", "dense", "pruned"), texts))
    echo(f"pictures: {pruned_picture}, {kinds_picture}")
    sentences = [f"{verdict.plan.removed:.0%} of the decoder is gone", cost_in_words(judged)]
    _, *answers = texts[-1]
    sentences += _fate_of_the_fact(answers)
    echo(f"{'; '.join(sentences)}.")
    echo(f"(A quick look: {DEMO_SEQUENCES} sequences calibrated, where prune takes {USUAL_SEQUENCES}.)")
    echo(f"next: {as_typed_here(verdict.next_command)}")


def _fate_of_the_fact(answers: Sequence[str]) -> list[str]:
    """Whether the pruned model still knows the capital of France; nothing where its parent did not.

    answers: of the parent and of the pruned model to the last prompt.
    """
    parent_knows, pruned_knows = (DEMO_ANSWER in answer for answer in answers)
    if not parent_knows:
        return []
    return ["the capital of France is still there" if pruned_knows else "the capital of France is lost"]
