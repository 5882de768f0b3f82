"""Qwen2: Llama with biases on queries, keys and values, and layers with and without a sliding window."""

from __future__ import annotations

from typing import Any

from .llama import Llama


class Qwen2(Llama):
    """The family `qwen2`."""

    model_types = ("qwen2",)
    layer_class = "Qwen2DecoderLayer"
    bias_fields = {}
    gguf = "qwen2"
    gguf_per_layer = None
    gguf_interleaved = {}
    gguf_square = True
    gguf_rope = ("default",)
    per_layer = False

    def window(self, config: Any) -> int | None:
        return config.sliding_window if "sliding_attention" in (config.layer_types or ()) else None

    def layer_window(self, layer: Any) -> int | None:
        window: int | None = layer.self_attn.sliding_window
        return window
