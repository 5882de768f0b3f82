"""`comp-lib generate`: what a model goes on to say."""

from typing import Annotated

from typer import Option, echo

from .options import Device, Dtype, Model, command


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
