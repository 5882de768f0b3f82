"""Families with a norm *behind* a dense layer: what the step adds to the stream is the normed output.

OLMo 2       r = h + norm(o_proj(X_o)),     h' = r + norm(down_proj(X)),    no norm before a step
Gemma 3      the same, with norms before the steps too, weights 1 + w, and another rotary embedding in windowed layers

The size of the dense layer's output is lost in the norm, so no single output adds a given change to the stream: the
aim "dense" is refused. The layer's own output remains a target like any other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from .llama import Windowed
from .protocol import Device, Layer, Model, Rope, Which


def only_self(name: str) -> str:
    """Why the aim "dense" is refused for that family, or layer."""
    return (
        f"expected the aim self for {name}, behind whose dense layers a norm stands, got dense: no output of such a "
        "layer adds a given change to the stream; say --aim self"
    )


class PostNorm(Windowed):
    """What these families share."""

    aims: tuple[str, ...] = ("self",)

    def dense_target(self, layer: Layer, which: Which, change: Tensor) -> Tensor:
        raise InputError(only_self(type(layer).__name__))


class Olmo2(PostNorm):
    """The family `olmo2`. Its norms of queries and keys span all heads: KV groups cannot go one by one."""

    model_types = ("olmo2",)
    layer_class = "Olmo2DecoderLayer"
    gguf = "olmo2"
    whole_attention = True

    def attention_step(self, layer: Any, hidden: Tensor, rope: Rope) -> tuple[Tensor, Tensor]:
        added, x = self.attention(layer, hidden, rope)
        return hidden + layer.post_attention_layernorm(added), x

    def mlp_step(self, layer: Any, residual: Tensor) -> tuple[Tensor, Tensor]:
        added, x = self.mlp(layer, residual)
        return residual + layer.post_feedforward_layernorm(added), x


class Gemma3(PostNorm):
    """The family `gemma3_text`. A `Rope` here is a dictionary: kind of layer -> cosines and sines."""

    model_types = ("gemma3_text",)
    layer_class = "Gemma3DecoderLayer"
    gguf = "gemma3"
    gguf_activations = ("gelu_pytorch_tanh",)
    gguf_norm_shift = 1.0

    def rope_settings(self, config: Any) -> dict[str, Any]:
        settings: dict[str, Any] = config.rope_parameters["full_attention"]
        return settings

    def gguf_fields(self, config: Any) -> dict[str, Any]:
        return {"sliding_window": config.sliding_window}

    def gguf_refusal(self, config: Any) -> str | None:
        kinds = ["full_attention" if (layer + 1) % 6 == 0 else "sliding_attention" for layer in range(99)]
        if config.layer_types != kinds[: config.num_hidden_layers]:
            return "windows in other layers than five of six"
        if config.rope_parameters["sliding_attention"]["rope_theta"] != 10_000.0:
            return "another rotary base than 10,000 in its windowed layers"
        same = config.query_pre_attn_scalar == config.head_dim
        return None if same else "attention scaled by another number than the size of a head"

    def embed(self, model: Model, ids: Tensor) -> Tensor:
        table = self.embedding(model)
        if isinstance(table, nn.Embedding):  # which multiplies by itself; read from a file it does not
            return super().embed(model, ids)
        hidden = super().embed(model, ids)
        return hidden * torch.tensor(model.config.hidden_size**0.5, dtype=hidden.dtype)

    def rope(self, model: Model, length: int, device: Device, dtype: torch.dtype) -> Any:
        module, positions, like = model.model.rotary_emb, torch.arange(length)[None], torch.zeros(1, dtype=dtype)
        pairs = {kind: module(like, positions, kind) for kind in sorted(set(model.config.layer_types))}
        return {kind: (cos.to(device), sin.to(device)) for kind, (cos, sin) in pairs.items()}

    def attention_step(self, layer: Any, hidden: Tensor, rope: Any) -> tuple[Tensor, Tensor]:
        added, x = self.attention(layer, layer.input_layernorm(hidden), rope[layer.self_attn.layer_type])
        return hidden + layer.post_attention_layernorm(added), x

    def mlp_step(self, layer: Any, residual: Tensor) -> tuple[Tensor, Tensor]:
        added, x = self.mlp(layer, layer.pre_feedforward_layernorm(residual))
        return residual + layer.post_feedforward_layernorm(added), x
