"""`comp-lib export` and `comp-lib chat`: a model as a GGUF file, and in llama.cpp."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from .console import Model, err, out, progress_bars, refusals

ENDS = ("/bye", "/exit", "/quit")


def export(
    model: Model,
    file: Annotated[Path, typer.Option("--gguf", help="The file to write.")],
    kind: Annotated[str, typer.Option("--type", help="Of the matrices: f32, f16, q8_0, q4_1 or q4_0.")] = "f16",
    overwrite: Annotated[bool, typer.Option(help="Replace the file that is there.")] = False,
) -> None:
    """Write MODEL as a GGUF file, which llama.cpp and its kin run."""
    with refusals():
        from ..on_device.gguf_export import export_gguf

        with progress_bars() as progress:
            export_gguf(model, file, kind, overwrite=overwrite, progress=progress)
        out.print(f"written: {file}, {file.expanduser().stat().st_size / 1e6:,.1f} MB", soft_wrap=True)


def chat(
    model: Model,
    prompt: Annotated[str | None, typer.Option(help="One question: print the answer and end.")] = None,
    tokens: Annotated[int, typer.Option(help="Length of an answer at most.")] = 256,
    context: Annotated[int, typer.Option(help="Tokens that the conversation may have.")] = 2048,
    threads: Annotated[int, typer.Option(help="Cores that compute (0: llama.cpp's choice).")] = 0,
    kind: Annotated[str, typer.Option("--type", help="What a model that is no .gguf file is exported as.")] = "f16",
) -> None:
    """Talk with MODEL in llama.cpp (greedy). Needs comp-lib[gguf]."""
    with refusals(), tempfile.TemporaryDirectory(prefix="comp-lib-") as temporary:
        from ..on_device.llama_cpp import answer, start

        file = Path(model).expanduser()
        if file.suffix != ".gguf":
            from ..on_device.gguf_export import export_gguf

            with progress_bars() as progress:
                file = export_gguf(model, Path(temporary) / "model.gguf", kind, progress=progress)
        server = start(file, context, threads)
        if prompt is not None:
            answer(server, [{"role": "user", "content": prompt}], tokens, _say)
            typer.echo()
            return
        err.print(f"{model} in llama.cpp: an empty line or {ENDS[0]} ends", style="dim", highlight=False)
        messages: list[dict[str, str]] = []
        while (said := _listen()) not in ("", *ENDS):
            messages.append({"role": "user", "content": said})
            messages.append({"role": "assistant", "content": answer(server, messages, tokens, _say)})
            typer.echo()


def _say(text: str) -> None:
    typer.echo(text, nl=False)


def _listen() -> str:
    """The next line, stripped; nothing at the end of the input."""
    try:
        return input("> ").strip()
    except (EOFError, KeyboardInterrupt):
        return ""
