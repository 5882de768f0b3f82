"""Llama, and everything that is laid out as it is.

r  = h + o_proj(X_o),     X_o = attention(RMSNorm(h))          rotary positions, query heads in groups (GQA)
h' = r + down_proj(X),    X   = act(gate_proj z) * up_proj z,  z = RMSNorm(r)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from .protocol import Device, Family, Layer, Model, Rope, Which
from .silent import SilentMLP, number_attentions, silence

# switches of a config, and the step whose biases they switch
BIASES: dict[str, Which] = {"mlp_bias": "mlp", "attention_bias": "attention"}
PAIRS = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}  # whose rows llama.cpp wants in pairs
ROPES = ("default", "linear", "llama3")


class LlamaLike(Family):
    """Laid out as Llama, and can do what any family can; what one can do beyond that it says itself."""

    def layers(self, model: Model) -> nn.ModuleList:
        layers: nn.ModuleList = model.model.layers
        return layers

    def set_layers(self, model: Model, layers: list[Layer]) -> None:
        model.model.layers = nn.ModuleList(layers)
        number_attentions(layers)

    def embedding(self, model: Model) -> nn.Embedding:
        table: nn.Embedding = model.model.embed_tokens
        return table

    def embed(self, model: Model, ids: Tensor) -> Tensor:
        table = self.embedding(model)
        hidden: Tensor = table(ids.to(table.weight.device))
        return hidden

    def final_norm(self, model: Model, hidden: Tensor) -> Tensor:
        return self.before_head(model, model.model.norm(hidden))

    def before_head(self, model: Model, states: Tensor) -> Tensor:
        return states

    def head(self, model: Model, states: Tensor) -> Tensor:
        logits: Tensor = model.lm_head(states)
        return logits

    def rope(self, model: Model, length: int, device: Device, dtype: torch.dtype) -> Rope:
        module = model.model.rotary_emb
        positions = torch.arange(length, device=module.inv_freq.device)[None]
        cos, sin = module(torch.zeros(1, dtype=dtype, device=positions.device), positions)
        return cos.to(device), sin.to(device)

    def attention_step(self, layer: Any, hidden: Tensor, rope: Rope) -> tuple[Tensor, Tensor]:
        added, x = self.attention(layer, layer.input_layernorm(hidden), rope)
        return hidden + added, x

    def mlp_step(self, layer: Any, residual: Tensor) -> tuple[Tensor, Tensor]:
        added, x = self.mlp(layer, layer.post_attention_layernorm(residual))
        return residual + added, x

    def attention(self, layer: Any, z: Tensor, rope: Rope) -> tuple[Tensor, Tensor]:
        """z (B, L, d) -> o_proj(X_o) (B, L, d), and X_o."""
        inputs: list[Tensor] = []
        hook = layer.self_attn.o_proj.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
        mask = causal_mask(layer.self_attn, z, self.layer_window(layer))
        try:
            out = layer.self_attn(z, position_embeddings=rope, attention_mask=mask)[0]
        finally:
            hook.remove()
        return out, inputs[0]

    def mlp(self, layer: Any, z: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, L, d) -> down_proj(X) (B, L, d), and X."""
        if isinstance(layer.mlp, SilentMLP):
            return layer.mlp(z), z[..., :0]
        x = layer.mlp.act_fn(layer.mlp.gate_proj(z)) * layer.mlp.up_proj(z)
        return layer.mlp.down_proj(x), x

    def sublayer(self, layer: Any, which: Which) -> tuple[nn.Module, str]:
        return (layer.mlp, "down_proj") if which == "mlp" else (layer.self_attn, "o_proj")

    def producers(self, layer: Any, which: Which) -> dict[str, Tensor]:
        if which == "mlp":
            neurons = torch.arange(layer.mlp.down_proj.in_features)[:, None]
            return {"gate_proj": neurons, "up_proj": neurons}
        head, repeats = self.heads(layer)
        keys = torch.arange(layer.self_attn.k_proj.out_features).reshape(-1, head)
        queries = torch.arange(layer.self_attn.q_proj.out_features).reshape(-1, head * repeats)
        return {"q_proj": queries, "k_proj": keys, "v_proj": keys}

    def dense_target(self, layer: Layer, which: Which, change: Tensor, x: Tensor) -> Tensor:
        module, name = self.sublayer(layer, which)
        bias = getattr(module, name).bias
        return change if bias is None else change - bias

    def heads(self, layer: Any) -> tuple[int, int]:
        return layer.self_attn.head_dim, layer.self_attn.num_key_value_groups

    def shrunk(self, layer: Any) -> None:
        layer.mlp.intermediate_size = layer.mlp.down_proj.in_features

    def silence(self, layer: Any, which: Which) -> None:
        if not self.per_layer:
            wanted = f"attention and MLP in each layer of {type(layer).__name__}"
            raise InputError(f"expected {wanted}, got one to leave out")
        silence(layer, which)

    def rope_settings(self, config: Any) -> dict[str, Any]:
        settings: dict[str, Any] = config.rope_parameters
        return settings

    def layer_window(self, layer: Any) -> int | None:
        """How many tokens back this layer can look; None: it sees everything."""
        return self.window(layer.self_attn.config)


class Llama(LlamaLike):
    """The family `llama`, and `comp_llama`, its variant with other widths in each layer."""

    model_types = ("llama", "comp_llama")
    layer_class = "LlamaDecoderLayer"
    bias_fields = BIASES
    gguf = "llama"
    gguf_per_layer = "deci"
    gguf_interleaved = PAIRS
    gguf_rope = ROPES
    per_layer = True


class Windowed(LlamaLike):
    """What families share whose layers may each have a sliding window."""

    def window(self, config: Any) -> int | None:
        return config.sliding_window if "sliding_attention" in (getattr(config, "layer_types", None) or ()) else None

    def layer_window(self, layer: Any) -> int | None:
        return getattr(layer.self_attn, "sliding_window", None)


def causal_mask(attention: Any, hidden: Tensor, window: int | None) -> Tensor | None:
    """None where the attention kernel is causal by itself, else the additive causal mask (1, 1, L, L)."""
    length = hidden.shape[1]
    window = window or length
    if attention.config._attn_implementation == "sdpa" and window >= length:
        return None
    mask = torch.full((length, length), torch.finfo(hidden.dtype).min, dtype=hidden.dtype, device=hidden.device)
    return (mask.triu(1) + mask.tril(-window))[None, None]
