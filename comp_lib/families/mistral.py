"""Mistral: Llama, with one sliding window for all layers where the config has one."""

from __future__ import annotations

from typing import Any

from .llama import PAIRS, ROPES, LlamaLike


class Mistral(LlamaLike):
    """The family `mistral`."""

    model_types = ("mistral",)
    layer_class = "MistralDecoderLayer"
    gguf = "llama"
    gguf_interleaved = PAIRS
    gguf_rope = ROPES
    becomes = {"layer_types": "ministral"}

    def window(self, config: Any) -> int | None:
        window: int | None = config.sliding_window
        return window
