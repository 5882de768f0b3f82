"""Phi-3: Llama with its matrices fused: gate and up are one, and so are queries, keys and values."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from .llama import LlamaLike
from .protocol import Which


class Phi3(LlamaLike):
    """The family `phi3`. A neuron is two rows of gate_up_proj, a KV group three runs of rows of qkv_proj."""

    model_types = ("phi3",)
    layer_class = "Phi3DecoderLayer"
    gguf = "phi3"
    gguf_square = True

    def mlp(self, layer: Any, z: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = layer.mlp.gate_up_proj(z).chunk(2, dim=-1)
        x = up * layer.mlp.activation_fn(gate)
        return layer.mlp.down_proj(x), x

    def producers(self, layer: Any, which: Which) -> dict[str, Tensor]:
        if which == "mlp":
            count = layer.mlp.down_proj.in_features
            return {"gate_up_proj": torch.stack([torch.arange(count), torch.arange(count) + count], 1)}
        head, repeats = self.heads(layer)
        queries = layer.self_attn.o_proj.in_features
        groups = queries // (head * repeats)
        rows = torch.arange(layer.self_attn.qkv_proj.out_features).split([queries, groups * head, groups * head])
        return {"qkv_proj": torch.cat([part.reshape(groups, -1) for part in rows], 1)}

    def shrunk(self, layer: Any) -> None:
        """The attention finds its queries by the number of heads in its config, which all layers share until then."""
        attention = layer.self_attn
        heads = attention.o_proj.in_features // attention.head_dim
        attention.num_key_value_heads = heads // attention.num_key_value_groups
        if heads != attention.config.num_attention_heads:
            attention.config = copy.copy(attention.config)
            attention.config.num_attention_heads = heads

    def window(self, config: Any) -> int | None:
        window: int | None = config.sliding_window
        return window
