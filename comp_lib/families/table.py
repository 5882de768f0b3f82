"""What no layer of a model shows: how the config of its type names biases, and how llama.cpp writes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import PreTrainedConfig

from .protocol import Model, Step

TYPE_PREFIX = "comp_"  # in front of the type of a model whose layers differ in width
GEMMA3_LOCAL_THETA = 10_000.0  # rotary base of windowed layers that llama.cpp takes for granted


def _no_fields(config: Any) -> dict[str, Any]:
    return {}


def _never(config: Any) -> str | None:
    return None


@dataclass(frozen=True, eq=False)
class Family:
    """The facts of one model type; most types have none."""

    bias_fields: Mapping[str, Step] = field(default_factory=dict)
    """Field of the config -> the step whose linears have biases when it is set. Empty: none can be added."""
    gguf: str | None = None
    """llama.cpp's name of the architecture, with one width for all layers; None: it is not exported."""
    gguf_per_layer: str | None = None
    """The same where widths differ from layer to layer; None: llama.cpp has no such architecture."""
    gguf_interleaved: Mapping[str, str] = field(default_factory=dict)
    """Matrix whose rows llama.cpp wants in neighbouring pairs, not halves -> config field with its heads."""
    gguf_activations: tuple[str, ...] = ("silu", "swish")
    """The values that `hidden_act` may have."""
    gguf_norm_shift: float = 0.0
    """Added to the weights w of all norms in a file: 1 where the model multiplies by 1 + w."""
    gguf_square: bool = False
    """Whether the outputs of all heads, side by side, have to be as wide as the stream."""
    gguf_rope: tuple[str, ...] = ("default",)
    """Rotary positions that can be written: all but `default` need a tensor of factors."""
    gguf_fields: Callable[[Any], dict[str, Any]] = _no_fields
    """Fields of a file for this type alone: config -> {NAME: value}, for `add_NAME` of gguf's writer."""
    gguf_refusal: Callable[[Any], str | None] = _never
    """config -> what llama.cpp cannot express of it, in words, or None where it can be written."""


def _smollm3_refusal(config: Any) -> str | None:
    turning_layers = [int((layer + 1) % 4 != 0) for layer in range(config.num_hidden_layers)]
    if config.no_rope_layers != turning_layers:
        return "positions left out of other layers than each fourth"
    return None


def _gemma3_refusal(config: Any) -> str | None:
    for index, layer_type in enumerate(config.layer_types):
        if layer_type != ("full_attention" if (index + 1) % 6 == 0 else "sliding_attention"):
            return "windows in other layers than five of six"
    if config.rope_parameters["sliding_attention"]["rope_theta"] != GEMMA3_LOCAL_THETA:
        return "another rotary base than 10,000 in its windowed layers"
    if config.query_pre_attn_scalar != config.head_dim:
        return "attention scaled by another number than the size of a head"
    return None


def _olmo2_refusal(config: Any) -> str | None:
    return "a tied head" if config.tie_word_embeddings else None


def _gemma3_fields(config: Any) -> dict[str, Any]:
    return {"sliding_window": config.sliding_window}


def _granite_fields(config: Any) -> dict[str, Any]:
    return {
        "embedding_scale": config.embedding_multiplier,
        "residual_scale": config.residual_multiplier,
        "attention_scale": config.attention_multiplier,
        "logit_scale": config.logits_scaling,
    }


_PAIRS = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
_BIASES: dict[str, Step] = {"mlp_bias": "mlp", "attention_bias": "attention"}
_MISTRAL = Family(gguf="llama", gguf_interleaved=_PAIRS, gguf_rope=("default", "linear", "llama3"))
FAMILIES = {
    "llama": replace(_MISTRAL, gguf_per_layer="deci", bias_fields=_BIASES),
    "mistral": _MISTRAL,
    "qwen2": Family(gguf="qwen2", gguf_square=True),
    "qwen3": Family(gguf="qwen3"),
    "smollm3": Family(
        gguf="smollm3",
        gguf_interleaved=_PAIRS,
        gguf_refusal=_smollm3_refusal,
        bias_fields=_BIASES,
    ),
    "gemma3_text": Family(
        gguf="gemma3",
        gguf_activations=("gelu_pytorch_tanh",),
        gguf_norm_shift=1.0,
        gguf_fields=_gemma3_fields,
        gguf_refusal=_gemma3_refusal,
    ),
    "phi3": Family(gguf="phi3", gguf_square=True),
    "granite": Family(
        gguf="granite",
        gguf_interleaved=_PAIRS,
        gguf_fields=_granite_fields,
        bias_fields=_BIASES,
    ),
    "olmo2": Family(gguf="olmo2", gguf_refusal=_olmo2_refusal),
    "ernie4_5": Family(gguf="ernie4_5"),
}
"""Model type -> its facts. A type that is not here can be pruned, but not exported or given biases."""


def family_of(model: Model | PreTrainedConfig) -> Family:
    """The family of a model, or of a config."""
    config: Any = getattr(model, "config", model)
    return FAMILIES.get(config.model_type.removeprefix(TYPE_PREFIX), Family())


def type_as_read(fields: Mapping[str, Any]) -> str:
    """The model type that transformers takes for a folder whose config.json has these fields."""
    model_type: str = fields["model_type"]
    return "ministral" if model_type == "mistral" and fields.get("layer_types") else model_type
