"""Families with a norm *behind* a dense layer: what the step adds to the stream is the normed output.

OLMo 2       r = h + norm(o_proj(X_o)),     h' = r + norm(down_proj(X)),    no norm before a step
Gemma 3      the same, with norms before the steps too, weights 1 + w, and another rotary embedding in windowed layers

A norm y -> g y / |y|, |y| the root of the mean square over the stream, forgets how large y is. So of a change r that is
to be added only the direction r / g can be met, and any y along it does so. The target is as large as the layer's own
output: y* = |y| r / g. Where nothing is missing, r = g y / |y|, and y* is y. (Our derivation.)

An error e of the output adds g e / |y| to the stream, to first order and but for what lies along y. In the first layer
of Gemma 3 270M g goes from 0.2 to 150. So who goes, and how hard the others are held, is judged on outputs times g; the
refit of each output by itself stays what it is. (Our derivation, tested against brute force.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .llama import Windowed
from .protocol import Device, Model, Rope, Which

WEAK = 0.05  # of the mean: an output that the norm multiplies by less adds too little to say what it should have been


class PostNorm(Windowed):
    """What these families share."""

    def weight(self, norm: Any) -> Tensor:
        """What a norm multiplies by: g (d,)."""
        weight: Tensor = norm.weight
        return weight

    def behind(self, layer: Any, which: Which) -> Tensor:
        """g of the norm behind a dense layer, (d,)."""
        return self.weight(layer.post_feedforward_layernorm if which == "mlp" else layer.post_attention_layernorm)

    def gain(self, layer: Any, which: Which) -> Tensor | None:
        gain = self.behind(layer, which).detach().float().abs()
        return gain / gain.square().mean().sqrt()

    def dense_target(self, layer: Any, which: Which, change: Tensor, x: Tensor) -> Tensor:
        module, name = self.sublayer(layer, which)
        dense: nn.Linear = getattr(module, name)
        own: Tensor = dense(x)
        gain = self.behind(layer, which)
        weak = gain.abs() < WEAK * gain.abs().mean()
        size = own.float().square().mean(-1, keepdim=True).sqrt().to(own)
        wanted = torch.where(weak, own, change * size / torch.where(weak, torch.ones_like(gain), gain))
        return wanted if dense.bias is None else wanted - dense.bias


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

    def weight(self, norm: Any) -> Tensor:
        return 1.0 + super().weight(norm)

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
