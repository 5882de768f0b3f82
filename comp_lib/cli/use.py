"""Models in use. `generate`: what one says next; `export`: files for other runtimes; `chat`: a talk in llama.cpp."""

import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Option, echo

from ..errors import InputError
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
    file: Annotated[Path | None, Option("--gguf", help="The file to write, for llama.cpp.")] = None,
    kind: Annotated[
        str | None, Option("--type", help="Of its matrices: f32, f16, q8_0, q4_1, q4_0, q4_k_m, q5_k_m, q6_k (f16).")
    ] = None,
    vllm: Annotated[bool, Option("--vllm", help="Write a folder that any vLLM takes instead.")] = False,
    folder: Annotated[Path | None, Option("--out", help="That folder.")] = None,
    overwrite: Annotated[bool, Option(help="Replace what is there.")] = False,
) -> None:
    """Write MODEL as a GGUF file, which llama.cpp and its kin run, or its layers all alike, for vLLM."""
    from ..on_device.gguf_export import export_gguf
    from ..on_device.k_quants import KINDS, others
    from ..on_device.vllm_export import export_vllm

    if vllm and folder is not None and file is None and kind is None:
        with ends_tidily(), ProgressBars() as bars:
            made = export_vllm(model, folder, overwrite=overwrite, progress=bars)
        grown = f"{made.own / 1e6:,.1f} million parameters, with zeros {made.filled / 1e6:,.1f}"
        out.print(f"written: {folder}, {grown}", soft_wrap=True)
        return
    if vllm or folder is not None or file is None:
        given = {"--gguf": file, "--type": kind, "--vllm": vllm or None, "--out": folder}
        got = ", ".join(name for name, value in given.items() if value is not None) or "neither"
        raise InputError(f"expected --gguf FILE, or --vllm with --out DIR, got {got}: name what is to be written")
    with ends_tidily(), ProgressBars() as bars:
        export_gguf(model, file, "f16" if kind is None else kind, overwrite=overwrite, progress=bars)
    out.print(f"written: {file}, {file.expanduser().stat().st_size / 1e6:,.1f} MB", soft_wrap=True)
    if kind in KINDS and (smaller := others(file.expanduser())):
        err.print(
            f"comp-lib: rows that 256 does not divide: {smaller}, with blocks of 32", style="dim", highlight=False
        )


@command
def chat(
    model: Model,
    prompt: Annotated[str | None, Option(help="One question: print the answer and end.")] = None,
    tokens: Annotated[int, Option(help="Length of an answer at most.")] = 256,
    context: Annotated[
        int | None, Option(help="Tokens that the conversation may have (default: 2048 at most).")
    ] = None,
    threads: Annotated[int, Option(help="Cores that compute (0: llama.cpp's choice).")] = 0,
    kind: Annotated[
        str | None, Option("--type", help="What a model that is no .gguf file is exported as (default: f16).")
    ] = None,
) -> None:
    """Talk with MODEL in llama.cpp (greedy). Needs the extra gguf."""
    from ..evaluation.generation import check_prompt
    from ..on_device.gguf_export import export_gguf
    from ..on_device.llama_cpp import answer, check_installed, start

    if prompt is not None:
        check_prompt(prompt)
    if kind is not None and model.endswith(".gguf"):
        raise InputError(f"expected --type for a model that is exported, got {kind} and a .gguf file: leave it out")
    check_installed()
    messages: list[dict[str, str]] = []
    with ends_tidily(), tempfile.TemporaryDirectory(prefix="comp-lib-") as temporary:
        file = Path(model).expanduser()
        if file.suffix != ".gguf":
            with ProgressBars() as bars:
                file = export_gguf(model, Path(temporary) / "model.gguf", kind or "f16", progress=bars)
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
