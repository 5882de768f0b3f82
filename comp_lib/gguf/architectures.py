"""How llama.cpp writes a model: one row of facts for each model type that goes to GGUF."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import PreTrainedConfig

from ..families.table import TYPE_PREFIX
from ..families.types import Model

GEMMA3_LOCAL_THETA = 10_000.0  # rotary base of windowed layers that llama.cpp takes for granted


def _no_fields(config: Any) -> dict[str, Any]:
    return {}


def _refuse_nothing(config: Any) -> str | None:
    return None


@dataclass(frozen=True, eq=False)
class Architecture:
    """The facts of one model type in llama.cpp."""

    name: str
    """llama.cpp's name where all layers have one width."""
    name_per_layer: str | None = None
    """llama.cpp's name where widths differ from layer to layer; None: it has no such architecture."""
    interleaved: Mapping[str, str] = field(default_factory=dict)
    """Matrix whose rows llama.cpp wants in neighbouring pairs, not halves -> config field with its heads."""
    activations: tuple[str, ...] = ("silu", "swish")
    """The values that the field `hidden_act` of the config may have."""
    norm_shift: float = 0.0
    """Added to the weights w of all norms in a file: 1 where the model multiplies by 1 + w."""
    optional_biases: bool = False
    """Whether llama.cpp computes the biases that a field of the config switches on."""
    square: bool = False
    """Whether the outputs of all heads, side by side, have to be as wide as the stream."""
    rope_types: tuple[str, ...] = ("default",)
    """Rotary positions that can be written: all but `default` need a tensor of factors."""
    extra_fields: Callable[[Any], dict[str, Any]] = _no_fields
    """Fields of a file for this type alone: config -> {NAME: value}, for `add_NAME` of gguf's writer."""
    refusal: Callable[[Any], str | None] = _refuse_nothing
    """config -> the part of it that llama.cpp cannot express, in words, or None where it can be written."""


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
_MISTRAL = Architecture(
    "llama",
    interleaved=_PAIRS,
    optional_biases=True,
    rope_types=("default", "linear", "llama3"),
)
ARCHITECTURES = {
    "llama": replace(_MISTRAL, name_per_layer="deci"),
    "mistral": _MISTRAL,
    "qwen2": Architecture("qwen2", square=True),
    "qwen3": Architecture("qwen3"),
    "smollm3": Architecture("smollm3", interleaved=_PAIRS, refusal=_smollm3_refusal),
    "gemma3_text": Architecture(
        "gemma3",
        activations=("gelu_pytorch_tanh",),
        norm_shift=1.0,
        extra_fields=_gemma3_fields,
        refusal=_gemma3_refusal,
    ),
    "phi3": Architecture("phi3", square=True),
    "granite": Architecture(
        "granite", interleaved=_PAIRS, optional_biases=True, extra_fields=_granite_fields
    ),
    "olmo2": Architecture("olmo2", refusal=_olmo2_refusal),
    "ernie4_5": Architecture("ernie4_5"),
}
"""Model type -> its architecture. A type that is not here can be pruned, but not exported."""


def architecture_of(model: Model | PreTrainedConfig) -> Architecture | None:
    """The architecture of a model, or of a config; None where llama.cpp or this table has none."""
    config: Any = getattr(model, "config", model)
    return ARCHITECTURES.get(config.model_type.removeprefix(TYPE_PREFIX))
