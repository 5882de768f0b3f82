"""ERNIE 4.5, its dense models: Llama with neighbouring rotary pairs, and one switch for all biases.

The pairs are neighbours in the folder already: llama.cpp takes the rows as they are. `use_bias` is of attention and MLP
at once, so recovery cannot add biases to one of them.
"""

from __future__ import annotations

from typing import Any

from .llama import LlamaLike


class Ernie(LlamaLike):
    """The family `ernie4_5`."""

    model_types = ("ernie4_5",)
    layer_class = "Ernie4_5DecoderLayer"
    gguf = "ernie4_5"

    def gguf_refusal(self, config: Any) -> str | None:
        return "biases, of which llama.cpp reads none in the MLP" if config.use_bias else None
