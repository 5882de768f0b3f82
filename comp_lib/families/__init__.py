"""Model families: one adapter, by structure, for every decoder whose layers add attention, then a gated MLP.

And what no layer can be asked: a row for each model type of which llama.cpp, or its config, knows something special.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

from .frame import outline
from .layer import parts as parts
from .protocol import Model, Which

layers_of = attrgetter("model.layers")  # the decoder layers of a model, first to last
OWN = "comp_"  # in front of the type of a model whose layers differ in width


@dataclass(frozen=True, eq=False)
class Family:
    """The facts of one model type; most types have none."""

    bias_fields: Mapping[str, Which] = field(default_factory=dict)
    """Field of the config -> the step whose linears have biases when it is set. Empty: none can be added."""
    gguf: str | None = (
        None  # llama.cpp's name of the architecture, with one width for all layers; None: not exported
    )
    gguf_per_layer: str | None = None  # the same with other widths in each layer; None: llama.cpp has none
    gguf_interleaved: Mapping[str, str] = field(default_factory=dict)
    """Matrices whose rows llama.cpp wants in neighbouring pairs instead of halves -> config field with their heads."""
    gguf_activations: tuple[str, ...] = ("silu", "swish")  # what `hidden_act` may be
    gguf_norm_shift: float = (
        0.0  # what a file adds to the weights of all norms: 1 where the model multiplies by 1 + w
    )
    gguf_square: bool = (
        False  # whether the outputs of all heads, side by side, have to be as wide as the stream
    )
    gguf_rope: tuple[str, ...] = ("default",)  # rotary positions: all but `default` need a tensor of factors
    gguf_fields: Callable[[Any], dict[str, Any]] = lambda config: {}
    """What a file says of this type alone: config -> NAME -> value, for `add_NAME` of gguf's writer."""
    gguf_refusal: Callable[[Any], str | None] = lambda config: (
        None
    )  # what llama.cpp cannot express of this config


def _smollm3_refusal(config: Any) -> str | None:
    turning = [int((layer + 1) % 4 != 0) for layer in range(config.num_hidden_layers)]
    return None if config.no_rope_layers == turning else "positions left out of other layers than each fourth"


def _gemma3_refusal(config: Any) -> str | None:
    kinds = ["full_attention" if (layer + 1) % 6 == 0 else "sliding_attention" for layer in range(99)]
    if config.layer_types != kinds[: config.num_hidden_layers]:
        return "windows in other layers than five of six"
    if config.rope_parameters["sliding_attention"]["rope_theta"] != 10_000.0:
        return "another rotary base than 10,000 in its windowed layers"
    same = config.query_pre_attn_scalar == config.head_dim
    return None if same else "attention scaled by another number than the size of a head"


_PAIRS = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
_BIASES: dict[str, Which] = {"mlp_bias": "mlp", "attention_bias": "attention"}
_MISTRAL = Family(gguf="llama", gguf_interleaved=_PAIRS, gguf_rope=("default", "linear", "llama3"))
ROWS = {
    "llama": replace(_MISTRAL, gguf_per_layer="deci", bias_fields=_BIASES),
    "mistral": _MISTRAL,
    "qwen2": Family(gguf="qwen2", gguf_square=True),
    "qwen3": Family(gguf="qwen3"),
    "smollm3": Family(
        gguf="smollm3", gguf_interleaved=_PAIRS, gguf_refusal=_smollm3_refusal, bias_fields=_BIASES
    ),
    "gemma3_text": Family(
        gguf="gemma3",
        gguf_activations=("gelu_pytorch_tanh",),
        gguf_norm_shift=1.0,
        gguf_fields=lambda config: {"sliding_window": config.sliding_window},
        gguf_refusal=_gemma3_refusal,
    ),
    "phi3": Family(gguf="phi3", gguf_square=True),
    "granite": Family(
        gguf="granite",
        gguf_interleaved=_PAIRS,
        gguf_fields=lambda config: {
            "embedding_scale": config.embedding_multiplier,
            "residual_scale": config.residual_multiplier,
            "attention_scale": config.attention_multiplier,
            "logit_scale": config.logits_scaling,
        },
        bias_fields=_BIASES,
    ),
    "olmo2": Family(
        gguf="olmo2", gguf_refusal=lambda config: "a tied head" if config.tie_word_embeddings else None
    ),
    "ernie4_5": Family(gguf="ernie4_5"),
}
"""What is special about a type. A type that is not here has the method's all, but no way to GGUF and no biases."""


def family_of(model: Model) -> Family:
    """The family of a model, or of a config."""
    config: Any = getattr(model, "config", model)
    return ROWS.get(config.model_type.removeprefix(OWN), Family())


def whole_attention(model: Model) -> bool:
    """Whether KV groups cannot go one by one, since some attention is more than that, or a norm spans all heads.

    Raises InputError, by the name of what does not fit, for layers of another kind.
    """
    return not all(parts(layer)["attention"].separable for layer in outline(model).model.layers)
