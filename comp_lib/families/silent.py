"""What stands in a Llama's layer in the place of a step that is gone: it adds nothing to the stream, has no weights.

The modules answer to what the method asks of the real ones: a dense layer with no inputs, a size of heads. Such an
attention has no KV cache either, so those that are left are numbered among themselves.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .protocol import Which


def silence(layer: Any, which: Which) -> None:
    """Take a whole step out of a layer, and the norm before it."""
    if which == "attention":
        layer.self_attn, layer.input_layernorm = SilentAttention(layer.self_attn), nn.Identity()
    else:
        layer.mlp, layer.post_attention_layernorm = SilentMLP(layer.mlp), nn.Identity()


def number_attentions(layers: Iterable[Any]) -> None:
    """Number the attentions of a decoder's layers, for the KV cache: those that are silent take no place."""
    present = (layer.self_attn for layer in layers if not isinstance(layer.self_attn, SilentAttention))
    for index, attention in enumerate(present):
        attention.layer_idx = index


class Nothing(nn.Module):
    """A dense layer without inputs: (..., 0) -> zeros (..., d)."""

    weight: Tensor
    in_features, bias = 0, None

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.out_features = hidden
        # in no file; and not on the device meta, where a model is built before its files are read
        self.register_buffer("weight", torch.empty(hidden, 0, device="cpu"), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(*x.shape[:-1], self.out_features)


class SilentAttention(nn.Module):
    """Takes what an attention takes."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.config, self.layer_idx = attention.config, attention.layer_idx
        self.head_dim, self.num_key_value_groups = attention.head_dim, attention.num_key_value_groups
        self.o_proj = Nothing(attention.config.hidden_size)

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        return self.o_proj(hidden_states[..., :0]), None


class SilentMLP(nn.Module):
    """Takes what an MLP takes."""

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.config, self.intermediate_size = mlp.config, 0
        self.down_proj = Nothing(mlp.config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(x[..., :0])
        return out
