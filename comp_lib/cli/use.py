"""Models in use. `comp-lib generate`: what one goes on to say; `export`: its GGUF file; `chat`: a talk in llama.cpp."""

import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Option, echo

from .console import ProgressBars, ends_tidily, err, out
from .options import Device, Dtype, Model, command

ENDS = ("/bye", "/exit", "/quit")


@command
def generate(
    model: Model,
    prompt: Annotated[str, Option(help="Text to go on from.")],
    tokens: Annotated[int, Option(help="New tokens at most.")] = 60,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """Let MODEL continue a prompt (greedy)."""
    from ..evaluation.generation import check_prompt, continuation
    from ..models.load import load_model

    check_prompt(prompt)
    loaded, tokenizer = load_model(model, dtype, device)
    echo(prompt + continuation(loaded, tokenizer, prompt, tokens))


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


@command
def chat(
    model: Model,
    prompt: Annotated[str | None, Option(help="One question: print the answer and end.")] = None,
    tokens: Annotated[int, Option(help="Length of an answer at most.")] = 256,
    context: Annotated[
        int | None, Option(help="Tokens that the conversation may have (default: 2048 at most).")
    ] = None,
    threads: Annotated[int, Option(help="Cores that compute (0: llama.cpp's choice).")] = 0,
    kind: Annotated[str, Option("--type", help="What a model that is no .gguf file is exported as.")] = "f16",
) -> None:
    """Talk with MODEL in llama.cpp (greedy). Needs comp-lib[gguf]."""
    from ..on_device.gguf_export import export_gguf
    from ..on_device.llama_cpp import answer, start

    messages: list[dict[str, str]] = []
    with ends_tidily(), tempfile.TemporaryDirectory(prefix="comp-lib-") as temporary:
        file = Path(model).expanduser()
        if file.suffix != ".gguf":
            with ProgressBars() as bars:
                file = export_gguf(model, Path(temporary) / "model.gguf", kind, progress=bars)
        server = start(file, context, threads)
        if prompt is None:
            err.print(f"{model} in llama.cpp: an empty line or {ENDS[0]} ends", style="dim", highlight=False)
        for question in iter(_listen, "") if prompt is None else [prompt]:
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": answer(server, messages, tokens, partial(echo, nl=False))})
            echo()


def _listen() -> str:
    """The next line, stripped; nothing at an end of the talk or of the input."""
    try:
        said = input("> ").strip()
    except (EOFError, KeyboardInterrupt):
        return ""
    return "" if said in ENDS else said
