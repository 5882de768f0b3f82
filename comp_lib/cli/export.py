"""`comp-lib export`: a model as a GGUF file."""

from pathlib import Path
from typing import Annotated

from typer import Option

from .console import ProgressBars, out
from .options import Model, command


@command
def export(
    model: Model,
    file: Annotated[Path, Option("--gguf", help="The file to write.")],
    kind: Annotated[str, Option("--type", help="Of the matrices: f32, f16, q8_0, q4_1 or q4_0.")] = "f16",
    overwrite: Annotated[bool, Option(help="Replace the file that is there.")] = False,
) -> None:
    """Write MODEL as a GGUF file, which llama.cpp and its kin run."""
    from ..on_device.gguf_export import export_gguf

    with ProgressBars() as bars:
        export_gguf(model, file, kind, overwrite=overwrite, progress=bars)
    out.print(f"written: {file}, {file.expanduser().stat().st_size / 1e6:,.1f} MB", soft_wrap=True)
