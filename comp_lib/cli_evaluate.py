"""`comp-lib evaluate`: how good a model is on a text."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Annotated

import typer

from .console import Device, Dtype, Model, check_length, progress_bars, refusals, show


def evaluate(
    model: Model,
    text: Annotated[str, typer.Option(help="Text name or file.")] = "evaluation",
    length: Annotated[int, typer.Option(help="Tokens in each window.")] = 512,
    sequences: Annotated[int | None, typer.Option(help="Windows to measure (default: all).")] = None,
    against: Annotated[str | None, typer.Option(help="Dense model, for KL divergence and top-1 agreement.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """Perplexity of MODEL on a text."""
    with refusals():
        from .evaluate import compare, evaluation_tokens, perplexity
        from .models import load_model
        from .text import load_text

        prose = load_text(text)
        loaded, tokenizer = load_model(model, dtype=dtype, device=device)
        check_length(loaded, length)
        windows = evaluation_tokens(tokenizer, prose, length=length, sequences=sequences)
        with progress_bars() as progress:
            if against is None:
                result = perplexity(loaded, windows, progress=partial(progress, "measuring"))
            else:
                dense, _ = load_model(against, dtype=dtype, device=device)
                result = compare(loaded, dense, windows, progress=partial(progress, "measuring"))
        values = {
            "model": model,
            "text": text,
            "length": length,
            **{k: v for k, v in asdict(result).items() if v is not None},
        }
        show(values, as_json)
