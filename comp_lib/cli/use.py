"""Models in use. `comp-lib generate`: what one says next; `export`: files for other runtimes."""

from pathlib import Path
from typing import Annotated

from typer import Option, echo

from ..errors import InputError
from .console import ProgressBars, out
from .options import Device, Dtype, Model, Overwrite


def generate(
    model: Model,
    prompt: Annotated[str, Option(help="Text to go on from.")],
    tokens: Annotated[int, Option(min=1, max=1_000_000, help="New tokens at most.")] = 60,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """Let MODEL continue a prompt (greedy)."""
    from ..evaluation.generation import check_prompt, continuation
    from ..models.load import load_model

    check_prompt(prompt)
    loaded, tokenizer = load_model(model, dtype, device)
    echo(prompt + continuation(loaded, tokenizer, prompt, tokens))


def export(
    model: Model,
    file: Annotated[Path | None, Option("--gguf", help="File for llama.cpp.")] = None,
    kind: Annotated[str, Option("--type", help="Of its matrices: f32, f16, q8_0, q4_1 or q4_0.")] = "f16",
    padded: Annotated[Path | None, Option(help="Folder whose layers have one width, filled up with zeros.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write MODEL as a GGUF file, which llama.cpp and its kin run, or as a stock folder, which any runtime loads."""
    if (file is None) == (padded is None):
        raise InputError(f"expected --gguf or --padded, got {'neither' if file is None else 'both'}: name one of them")
    with ProgressBars() as bars:
        if file is not None:
            from ..on_device.gguf_export import export_gguf

            export_gguf(model, file, kind, overwrite=overwrite, progress=bars)
        elif padded is not None:
            from ..models.padded import export_padded

            export_padded(model, padded, overwrite=overwrite)
    out.print(f"written: {file or padded}", soft_wrap=True)
