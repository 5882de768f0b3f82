"""Mistral: Llama, with one sliding window for all layers where the config has one."""

from __future__ import annotations

from typing import Any

from .llama import Llama
from .protocol import Which


class Mistral(Llama):
    """The family `mistral`."""

    model_types = ("mistral",)
    layer_class = "MistralDecoderLayer"
    bias_fields: dict[str, Which] = {}
    gguf_per_layer = None
    per_layer = False

    def window(self, config: Any) -> int | None:
        return config.sliding_window

    def layer_window(self, layer: Any) -> int | None:
        return layer.self_attn.config.sliding_window
