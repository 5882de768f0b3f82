"""Granite: Llama with multipliers, on the embeddings, on what each step adds to the stream, and under the logits.

r  = h + c o_proj(X_o),      h' = r + c down_proj(X),      logits = head(norm(h)) / s
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .llama import BIASES, PAIRS, LlamaLike
from .protocol import Layer, Model, Rope, Which


class Granite(LlamaLike):
    """The family `granite`."""

    model_types = ("granite",)
    layer_class = "GraniteDecoderLayer"
    bias_fields = BIASES
    gguf = "granite"
    gguf_interleaved = PAIRS

    def gguf_fields(self, config: Any) -> dict[str, Any]:
        return {
            "embedding_scale": config.embedding_multiplier,
            "residual_scale": config.residual_multiplier,
            "attention_scale": config.attention_multiplier,
            "logit_scale": config.logits_scaling,
        }

    def embed(self, model: Model, ids: Tensor) -> Tensor:
        scaled: Tensor = super().embed(model, ids) * model.config.embedding_multiplier
        return scaled

    def before_head(self, model: Model, states: Tensor) -> Tensor:
        scaled: Tensor = states / model.config.logits_scaling
        return scaled

    def attention_step(self, layer: Any, hidden: Tensor, rope: Rope) -> tuple[Tensor, Tensor]:
        added, x = self.attention(layer, layer.input_layernorm(hidden), rope)
        return hidden + added * layer.residual_multiplier, x

    def mlp_step(self, layer: Any, residual: Tensor) -> tuple[Tensor, Tensor]:
        added, x = self.mlp(layer, layer.post_attention_layernorm(residual))
        return residual + added * layer.residual_multiplier, x

    def dense_target(self, layer: Layer, which: Which, change: Tensor, x: Tensor) -> Tensor:
        multiplier: Any = layer.residual_multiplier
        return super().dense_target(layer, which, change / multiplier, x)
