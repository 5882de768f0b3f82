"""`comp-lib chat`: a talk with a model in llama.cpp."""

import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Option, echo

from .console import ProgressBars, err
from .options import Model, command

ENDS = ("/bye", "/exit", "/quit")


@command
def chat(
    model: Model,
    prompt: Annotated[str | None, Option(help="One question: print the answer and end.")] = None,
    tokens: Annotated[int, Option(help="Length of an answer at most.")] = 256,
    context: Annotated[int, Option(help="Tokens that the conversation may have.")] = 2048,
    threads: Annotated[int, Option(help="Cores that compute (0: llama.cpp's choice).")] = 0,
    kind: Annotated[str, Option("--type", help="What a model that is no .gguf file is exported as.")] = "f16",
) -> None:
    """Talk with MODEL in llama.cpp (greedy). Needs comp-lib[gguf]."""
    from ..on_device.gguf_export import export_gguf
    from ..on_device.llama_cpp import answer, start

    say = partial(echo, nl=False)
    messages: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory(prefix="comp-lib-") as temporary:
        file = Path(model).expanduser()
        if file.suffix != ".gguf":
            with ProgressBars() as bars:
                file = export_gguf(model, Path(temporary) / "model.gguf", kind, progress=bars)
        server = start(file, context, threads)
        if prompt is not None:
            answer(server, [{"role": "user", "content": prompt}], tokens, say)
            echo()
            return
        err.print(f"{model} in llama.cpp: an empty line or {ENDS[0]} ends", style="dim", highlight=False)
        while (said := _listen()) not in ("", *ENDS):
            messages.append({"role": "user", "content": said})
            messages.append({"role": "assistant", "content": answer(server, messages, tokens, say)})
            echo()


def _listen() -> str:
    """The next line, stripped; nothing at the end of the input."""
    try:
        return input("> ").strip()
    except (EOFError, KeyboardInterrupt):
        return ""
