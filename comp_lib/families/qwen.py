"""Qwen2, Qwen3 and SmolLM3: Llama, and layers with and without a sliding window.

Qwen2 has biases on queries, keys and values; Qwen3 a norm over each head of queries and keys instead; in SmolLM3 some
layers have no rotary positions. All of that is inside the attention, which cuts nothing across heads.
"""

from __future__ import annotations

from typing import Any

from .llama import BIASES, PAIRS, Windowed


class Qwen2(Windowed):
    """The family `qwen2`."""

    model_types = ("qwen2",)
    layer_class = "Qwen2DecoderLayer"
    gguf = "qwen2"
    gguf_square = True


class Qwen3(Qwen2):
    """The family `qwen3`."""

    model_types = ("qwen3",)
    layer_class = "Qwen3DecoderLayer"
    gguf = "qwen3"
    gguf_square = False


class SmolLM3(Qwen2):
    """The family `smollm3`."""

    model_types = ("smollm3",)
    layer_class = "SmolLM3DecoderLayer"
    layer_lists: tuple[str, ...] = ("layer_types", "no_rope_layers")
    bias_fields = BIASES
    gguf = "smollm3"
    gguf_square = False
    gguf_interleaved = PAIRS

    def gguf_refusal(self, config: Any) -> str | None:
        turning = [int((layer + 1) % 4 != 0) for layer in range(config.num_hidden_layers)]
        return None if config.no_rope_layers == turning else "positions left out of other layers than each fourth"
