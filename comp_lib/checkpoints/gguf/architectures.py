"""How llama.cpp writes a model: one row of facts for each model type that goes to GGUF.

llama.cpp has an architecture for each model type, its own one, in which all layers have one width. Two of its
architectures know widths that differ from layer to layer, and compute what models of other types compute once
their tensors are laid out anew: the hosts. A host also takes a model of one width that the own architecture
cannot hold, such as Qwen2 with fewer KV groups.

    model type        own        host      how the rows of the host's tensors differ from the model's
    llama, mistral    llama      deci      q and k interleaved, as in `llama`
    qwen2             qwen2      deci      q and k interleaved, and their biases
    phi3              phi3       deci      qkv cut into q, k, v, and gate_up into gate, up; interleaved
    granite           granite    deci      interleaved; its four multipliers folded in; a head always
    ernie4_5          ernie4_5   deci      none: its rows are in neighbouring pairs already
    qwen3, tied       qwen3      openelm   q, k, v joined to qkv
    smollm3, gemma3_text, olmo2            no host: `checkpoints.padded` makes one width of several

`layout` makes the tensors that a row describes, and `read` turns them back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import PreTrainedConfig

from ...decoder.families import TYPE_PREFIX
from ...decoder.shape import Shape
from ...decoder.types import Model
from ...utils.errors import InputError

QUERIES = "q_proj"  # the matrix of a layer that makes queries
OUTPUT_HEAD = "lm_head"  # the matrix that makes logits
ROPE_TENSOR = "rope_freqs.weight"  # what llama.cpp divides the rotary frequencies by, (d/2,)
# rotary positions that a tensor of factors can say, with a number for the length of rotated vectors
ROPE_OF_FACTORS = ("default", "linear", "llama3", "yarn", "longrope")
# what llama.cpp takes for granted where a file says "yarn": field of transformers' rope_parameters -> value
YARN_DEFAULTS = {"beta_fast": 32, "beta_slow": 1, "truncate": True}
ROPE_BASICS = {"rope_type", "rope_theta", "factor", "original_max_position_embeddings"}
GEMMA3_LOCAL_THETA = 10_000.0  # rotary base of windowed layers that llama.cpp takes for granted
GEMMA3_27B_LAYERS = 62  # as many make a model of Gemma 3 the largest one, whose attention is scaled otherwise


def _no_fields(config: Any) -> dict[str, Any]:
    return {}


def _refuse_nothing(config: Any) -> str | None:
    return None


@dataclass(frozen=True, eq=False)
class Architecture:
    """The facts of one model type in one architecture of llama.cpp."""

    name: str
    """llama.cpp's name of the architecture."""
    host: Architecture | None = None
    """Another architecture, for several widths and for all else that this one cannot hold; None: none."""
    interleaved: tuple[str, ...] = ()
    """The matrices of the file whose rows are in neighbouring pairs, where the model has them in halves."""
    cut: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Matrix of the model -> the matrices of the file that its rows are cut into, from the first row on."""
    joined: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Matrix of the file -> the matrices of the model that it joins, one below the other."""
    factors: Callable[[Any], dict[str, float]] = _no_fields
    """config -> {matrix of the file: the number that its weights and biases are multiplied by}.

    With a number for `lm_head` the head is written out though the model's is tied.
    """
    activations: tuple[str, ...] = ("silu", "swish")
    """The values that the field `hidden_act` of the config may have."""
    norm_shift: float = 0.0
    """Added to the weights w of all norms in a file: 1 where the model multiplies by 1 + w."""
    optional_biases: bool = False
    """Whether llama.cpp computes the biases that a field of the config switches on."""
    square: bool = False
    """Whether the outputs of all heads, side by side, have to be as wide as the stream."""
    rope_types: tuple[str, ...] = ("default",)
    """Rotary positions that can be written."""
    turns_parts: bool = False
    """Whether llama.cpp can turn a part of each head by its position, and leave the rest as it is."""
    rope_tensors: tuple[str, ...] = (ROPE_TENSOR,)
    """The tensors with the factors of scaled positions, all with the same numbers."""
    rope_by_name: bool = False
    """Whether scaled positions are written as a name and its numbers: it reads no tensor of factors."""
    extra_fields: Callable[[Any], dict[str, Any]] = _no_fields
    """Fields of a file for this type alone: config -> {NAME: value}, for `add_NAME` of gguf's writer."""
    refusal: Callable[[Any], str | None] = _refuse_nothing
    """config -> the part of it that llama.cpp cannot express, in words, or None where it can be written."""

    def objection(self, config: Any, heads_width: int) -> str | None:
        """The part of a model that llama.cpp cannot compute here, in words; None where it can.

        heads_width: width of the outputs of all heads, side by side.
        """
        activation = getattr(config, "hidden_activation", None) or config.hidden_act  # Gemma: another field
        rope = rope_parameters(config)
        rope_type = rope.get("rope_type", "default")
        biased = any(getattr(config, name, False) for name in ("attention_bias", "mlp_bias", "use_bias"))
        if activation not in self.activations:
            return f"the activation {activation}"
        if rope_type not in self.rope_types:
            return f"rope scaling of the type {rope_type}"
        if rotated_part(config) != 1 and not self.turns_parts:
            return "positions that turn a part of each head"
        if biased and not self.optional_biases:
            return "biases"
        if self.square and heads_width != config.hidden_size:
            return f"heads that are together {heads_width} wide on a stream of {config.hidden_size}"
        return self.refusal(config)


def rope_parameters(config: Any) -> dict[str, Any]:
    """The rotary embedding of layers without a window: rope_theta, rope_type and the numbers of that type."""
    parameters: dict[str, Any] = config.rope_parameters.get("full_attention", config.rope_parameters)
    return parameters


def rotated_part(config: Any) -> float:
    """How much of each head the position turns: 1 is all of it."""
    stated = rope_parameters(config).get("partial_rotary_factor") or getattr(
        config, "partial_rotary_factor", None
    )
    return float(stated or 1)


def turned_entries(config: Any, head_dim: int) -> int:
    """How many entries of each head, of size `head_dim`, the position turns."""
    return int(head_dim * rotated_part(config))


def _head_dim(config: Any) -> int:
    """The size of a head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _phi3_refusal(config: Any) -> str | None:
    turned = turned_entries(config, _head_dim(config))
    return f"positions that turn {turned} entries of each head, which are no pairs" if turned % 2 else None


def _smollm3_refusal(config: Any) -> str | None:
    turning_layers = [int((layer + 1) % 4 != 0) for layer in range(config.num_hidden_layers)]
    if config.no_rope_layers != turning_layers:
        return "positions left out of other layers than each fourth"
    return None


def _gemma3_refusal(config: Any) -> str | None:
    for index, layer_type in enumerate(config.layer_types):
        if layer_type != ("full_attention" if (index + 1) % 6 == 0 else "sliding_attention"):
            return "windows in other layers than five of six"
    if not config.sliding_window or config.sliding_window < 1:
        return f"a window of {config.sliding_window}"
    if config.rope_parameters["sliding_attention"]["rope_theta"] != GEMMA3_LOCAL_THETA:
        return "another rotary base than 10,000 in its windowed layers"
    scalar: float = config.head_dim
    if config.num_hidden_layers == GEMMA3_27B_LAYERS:
        scalar = config.hidden_size / config.num_attention_heads
    if config.query_pre_attn_scalar != scalar:
        return f"attention scaled by {config.query_pre_attn_scalar}, where llama.cpp takes {scalar:g}"
    return None


def _olmo2_refusal(config: Any) -> str | None:
    return "a tied head" if config.tie_word_embeddings else None


def _openelm_refusal(config: Any) -> str | None:
    rope = rope_parameters(config)
    others = {name: value for name, value in rope.items() if name not in ROPE_BASICS}
    if rope.get("rope_type") == "yarn" and any(
        value is not None and value != YARN_DEFAULTS.get(name) for name, value in others.items()
    ):
        return f"yarn with other numbers than llama.cpp's own ({', '.join(sorted(others))})"
    return None if config.tie_word_embeddings else "a head of its own"


def _gemma3_fields(config: Any) -> dict[str, Any]:
    return {"sliding_window": config.sliding_window}


def _granite_fields(config: Any) -> dict[str, Any]:
    return {
        "embedding_scale": config.embedding_multiplier,
        "residual_scale": config.residual_multiplier,
        "attention_scale": config.attention_multiplier,
        "logit_scale": config.logits_scaling,
    }


def _granite_factors(config: Any) -> dict[str, float]:
    return {
        "embed_tokens": config.embedding_multiplier,
        # deci divides scores by that root
        QUERIES: config.attention_multiplier * math.sqrt(_head_dim(config)),
        "o_proj": config.residual_multiplier,
        "down_proj": config.residual_multiplier,
        OUTPUT_HEAD: 1 / config.logits_scaling,
    }


_PAIRS = (QUERIES, "k_proj")
_QKV = (QUERIES, "k_proj", "v_proj")
_DECI = Architecture("deci", interleaved=_PAIRS, optional_biases=True, rope_types=ROPE_OF_FACTORS)
_OPENELM = Architecture(
    "openelm",
    joined={"qkv_proj": _QKV},
    rope_types=("default", "linear", "yarn"),
    rope_by_name=True,
    refusal=_openelm_refusal,
)
_LLAMA = replace(_DECI, name="llama", host=_DECI)
ARCHITECTURES = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": Architecture("qwen2", host=_DECI, square=True),
    "qwen3": Architecture("qwen3", host=_OPENELM),
    "smollm3": Architecture("smollm3", interleaved=_PAIRS, refusal=_smollm3_refusal),
    "gemma3_text": Architecture(
        "gemma3",
        activations=("gelu_pytorch_tanh",),
        norm_shift=1.0,
        extra_fields=_gemma3_fields,
        refusal=_gemma3_refusal,
    ),
    "phi3": Architecture(
        "phi3",
        host=replace(_DECI, cut={"qkv_proj": _QKV, "gate_up_proj": ("gate_proj", "up_proj")}),
        square=True,
        rope_types=("default", "longrope"),
        turns_parts=True,
        refusal=_phi3_refusal,
        rope_tensors=("rope_factors_long.weight", "rope_factors_short.weight"),
    ),
    "granite": Architecture(
        "granite",
        host=replace(_DECI, factors=_granite_factors),
        interleaved=_PAIRS,
        optional_biases=True,
        extra_fields=_granite_fields,
    ),
    "olmo2": Architecture("olmo2", refusal=_olmo2_refusal),
    "ernie4_5": Architecture("ernie4_5", host=replace(_DECI, interleaved=())),
}
"""Model type -> its own architecture. A type that is not here can be pruned, but not exported."""


def architecture_of(model: Model | PreTrainedConfig) -> Architecture | None:
    """The own architecture of a model, or of a config; None where llama.cpp or this table has none."""
    config: Any = getattr(model, "config", model)
    return ARCHITECTURES.get(config.model_type.removeprefix(TYPE_PREFIX))


def choose_architecture(config: Any, shape: Shape) -> Architecture:
    """The architecture of llama.cpp for a model: that of its type, or the host of its type.

    A host takes layers of several widths, and what the own architecture of the type cannot hold.

    Raises InputError for a model that llama.cpp cannot compute.
    """
    own = architecture_of(config)
    if own is None:
        raise InputError(
            expected=f"a model type that goes to GGUF ({', '.join(ARCHITECTURES)})",
            got=config.model_type,
            hint="use the folder",
        )
    heads_width = max(shape.kv_groups) * shape.group_heads * shape.head_dim
    objection = own.objection(config, heads_width)
    if objection is None and shape.uniform:
        return own
    host_objection = None if own.host is None else own.host.objection(config, heads_width)
    if own.host is not None and host_objection is None:
        return own.host
    if objection is not None:
        also = "" if host_objection in (None, objection) else f", and {host_objection}"
        raise InputError(
            expected="a model that llama.cpp runs",
            got=f"{config.model_type} with {objection}{also}",
            hint="use the folder itself",
        )
    reason = "" if host_objection is None else f" and {host_objection}"
    hosted = ", ".join(name for name, architecture in ARCHITECTURES.items() if architecture.host)
    raise InputError(
        expected=f"one width for all layers, or a type that llama.cpp runs with several ({hosted})",
        got=f"{config.model_type} with several widths{reason}",
        hint="export it with --padded, and the padded folder with --gguf",
    )
