"""What a GGUF file says of a model beside its weights and its tokenizer: keys under the architecture's name.

`write` puts them into a file. `read` makes them once more, of the model that it took from the file, and
compares: a key that says anything else, and one that is not known here, is refused by its name. So nothing
that llama.cpp reads changes the model behind our back, whoever wrote the file.

Scaled rotary frequencies become a tensor of factors, rope_freqs_i = default_i / scaled_i, and where the
scaling makes the turned vectors longer, a number for that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from ...decoder.shape import Shape
from ...decoder.structure import rotary_embedding
from ...decoder.types import Model
from ...utils.errors import InputError
from .architectures import GEMMA3_LOCAL_THETA, Architecture, rope_parameters, turned_entries

SAFETENSORS_HINT = "use the same model as safetensors"
HARMLESS = {"tensor_data_layout"}  # keys that llama.cpp does not read
# what llama.cpp takes for granted where a file does not say it: key -> value
TAKEN_FOR_GRANTED = {
    "attention.causal": True,
    "attention.sliding_window_pattern": 6,
    "rope.freq_base": 10_000.0,
    "rope.freq_base_swa": GEMMA3_LOCAL_THETA,
}


def model_fields(meta_model: Model, architecture: Architecture) -> dict[str, Any]:
    """The metadata under the architecture's name: NAME -> value, for `add_NAME` of GGUFWriter.

    What `scaled_rope` says is not among them.
    """
    config = meta_model.config
    shape = Shape.of(meta_model)
    extra_fields = architecture.extra_fields(config)

    def per_layer(widths: tuple[int, ...]) -> int | list[int]:
        """One number if all layers have the same width, else one number for each layer."""
        return widths[0] if shape.uniform else list(widths)

    fields = {
        "context_length": _context(config, has_windows="sliding_window" in extra_fields),
        "vocab_size": config.vocab_size,
        "embedding_length": shape.hidden_size,
        "block_count": shape.layer_count,
        "feed_forward_length": per_layer(shape.neurons),
        "head_count": per_layer(tuple(groups * shape.group_heads for groups in shape.kv_groups)),
        "head_count_kv": per_layer(shape.kv_groups),
        "key_length": shape.head_dim,
        "value_length": shape.head_dim,
        "layer_norm_rms_eps": config.rms_norm_eps,
        "rope_dimension_count": turned_entries(config, shape.head_dim),
        "rope_freq_base": rope_parameters(config)["rope_theta"],
    }
    return fields | extra_fields


def _context(config: Any, has_windows: bool) -> int:
    """The longest text for which llama.cpp computes what transformers computes, in tokens.

    has_windows: whether the architecture has windows; most have none.
    """
    context: int = config.max_position_embeddings
    window = getattr(config, "sliding_window", None)
    windowed = "sliding_attention" in getattr(config, "layer_types", ("sliding_attention",))
    if window and windowed and not has_windows:
        context = min(window, context)
    rope = rope_parameters(config)
    if rope.get("rope_type") == "longrope":  # longer texts have other frequencies
        context = min(rope["original_max_position_embeddings"], context)
    return context


def scaled_rope(
    meta_model: Model, architecture: Architecture
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What a file says of scaled rotary positions: metadata, as `model_fields`, and tensors by their names.

    Both are {} where positions are not scaled.
    """
    config = meta_model.config
    parameters = rope_parameters(config)
    rope_type = parameters.get("rope_type", "default")
    if rope_type == "default":
        return {}, {}
    fields: dict[str, Any]
    if architecture.rope_by_name:
        fields = {
            "rope_scaling_type": gguf.RopeScalingType[rope_type.upper()],
            "rope_scaling_factor": parameters["factor"],
        }
        if rope_type == "yarn":
            fields["rope_scaling_orig_ctx_len"] = parameters["original_max_position_embeddings"]
        return fields, {}
    scaled = rotary_embedding(meta_model)
    turned = 2 * len(scaled.inv_freq)
    exponents = torch.arange(0, turned, 2, dtype=torch.float32) / turned
    factors = (parameters["rope_theta"] ** -exponents / scaled.inv_freq).numpy()
    fields = {} if scaled.attention_scaling == 1 else {"rope_scaling_attn_factors": scaled.attention_scaling}
    return fields, dict.fromkeys(architecture.rope_tensors, factors)


def add_fields(writer: gguf.GGUFWriter, fields: Mapping[str, Any]) -> None:
    """Give `writer` metadata by the names of its methods: NAME -> value, for `add_NAME`."""
    for name, value in fields.items():
        add_field = getattr(writer, f"add_{name}")
        add_field(value)


def check_metadata(
    metadata: Mapping[str, Any], meta_model: Model, architecture: Architecture, path: Path
) -> None:
    """Check that all that a file says under the architecture's name is true of the model read from it.

    Args:
        metadata: the metadata of the file.
        meta_model: the model that was made of them, without its numbers.
        architecture: the architecture of llama.cpp that takes this model.
        path: the file, for the message.

    Raises InputError for a key that says something else, for one that is not known, and for a missing one
    without which llama.cpp takes something else for granted.
    """
    prefix = f"{architecture.name}."
    stated = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
    of_model = _keys(meta_model, architecture)
    # what the file should say: what is true of the model, else what llama.cpp takes for granted
    meant = TAKEN_FOR_GRANTED | of_model
    # what the file says, or means where it says nothing
    read = _assumed(meta_model, metadata) | stated
    for key in [key for key in stated | of_model if key not in HARMLESS]:
        expected = meant.get(key)
        if not _is_equal(read.get(key), expected):
            name = repr(prefix + key)[1:-1]  # in one line, whatever it holds
            said = f"{name} = {str(stated[key])[:40]!r}" if key in stated else f"no {name}"
            known = "not converted" if expected is None else f"{str(expected)[:40]} in the model read from it"
            raise InputError(
                expected="metadata that are true of the model",
                got=f"{path} with {said}, which is {known}",
                hint=SAFETENSORS_HINT,
            )


def _keys(meta_model: Model, architecture: Architecture) -> dict[str, Any]:
    """What `write` says of a model under the architecture's name: key without that name -> value."""
    rope_fields, _ = scaled_rope(meta_model, architecture)
    with contextlib.closing(gguf.GGUFWriter(None, architecture.name)) as writer:
        add_fields(writer, model_fields(meta_model, architecture) | rope_fields)
        (entries,) = writer.kv_data
    prefix = f"{architecture.name}."
    return {key.removeprefix(prefix): entry.value for key, entry in entries.items() if key.startswith(prefix)}


def _assumed(meta_model: Model, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What llama.cpp takes for granted where a file with these `metadata` does not say it: key -> value."""
    shape = Shape.of(meta_model)
    heads = shape.kv_groups[0] * shape.group_heads
    return TAKEN_FOR_GRANTED | {
        "vocab_size": len(metadata.get("tokenizer.ggml.tokens", ())),
        "attention.head_count_kv": heads,
        "attention.key_length": shape.hidden_size // heads,
        "attention.value_length": shape.hidden_size // heads,
        "rope.dimension_count": shape.head_dim,
    }


def _is_equal(stated: Any, meant: Any) -> bool:
    """Whether a file that states a value means it; floats of a file have 32 bits."""
    return bool(stated == (float(np.float32(meant)) if isinstance(meant, float) else meant))
