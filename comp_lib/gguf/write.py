"""A model folder as one GGUF file, for llama.cpp and whatever is built on it.

The tensors pass one by one, so of a large model little is in memory. Two things differ between the two formats.

*Rotary positions.* transformers turns the pairs (x_i, x_{i + d/2}) of a head of size d, llama.cpp's `llama` the
neighbours (x_2i, x_{2i+1}). Attention only sees dot products of queries and keys, which do not change when both are
reordered alike; so the rows of q_proj and k_proj, and their biases, are interleaved head by head:

    row 2i of the file = row i of the folder,     row 2i + 1 of the file = row i + d/2 of the folder.

Scaled frequencies (Llama 3's, linear) become a tensor of factors, rope_freqs_i = default_i / scaled_i.

*Widths.* `llama` has one for all layers; widths that differ from layer to layer become llama.cpp's `deci`, which
computes the same thing. Types in blocks cut each row into blocks of 32 and take no other widths.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

import gguf
from gguf import GGMLQuantizationType as Type

from ..errors import InputError, suggestion
from ..families import ROWS, Family, family_of
from ..families.protocol import Model
from ..progress import Progress, no_progress
from ..shape import Shape
from ..system.atomic import check_output, check_room, staged
from ..system.tensors import EMBEDDING, HEAD, TensorFiles, weight_shapes
from .tokenizer import tokenizer_metadata

TYPES = {"f32": Type.F32, "f16": Type.F16, "q8_0": Type.Q8_0, "q4_0": Type.Q4_0, "q4_1": Type.Q4_1}
HALF = float(
    np.finfo(np.float16).max
)  # the largest weight of a type other than f32: the scale of a block is a half


@dataclass(frozen=True)
class _Tensor:
    """What a tensor of the folder becomes."""

    key: str  # in the folder
    shape: tuple[int, ...]
    kind: Type
    head_dim: int | None  # of the heads whose rows are to be interleaved
    shift: float  # added to its numbers

    @property
    def nbytes(self) -> int:
        block, size = gguf.GGML_QUANT_SIZES[self.kind]
        return prod(self.shape) // block * size

    def converted(self, files: TensorFiles) -> np.ndarray:
        """As it is stored in the GGUF file. Raises InputError for numbers that are not finite or too large."""
        values = files.read(self.key, torch.float32).numpy()
        if self.kind != Type.F32 and np.abs(values).max(initial=0.0) > HALF:
            got = f"more than {HALF:g} in {self.key}: export --type f32"
            raise InputError(f"expected weights that {self.kind.name.lower()} can hold, got {got}")
        values += np.float32(self.shift)
        values = values if self.head_dim is None else interleave(values, self.head_dim)
        stored: np.ndarray = gguf.quants.quantize(values, self.kind)
        return stored


def interleave(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows (h d, ...) of whole heads from transformers' order to llama.cpp's: halves become neighbours."""
    halves = rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def check_gguf_output(file: str | Path, kind: str, overwrite: bool = False) -> Path:
    """The path of a GGUF file to write, without links.

    Raises InputError for a `kind` that is not one of TYPES, a name with another ending, a file that is there already
    unless it is to `overwrite`, and a folder that cannot be written to.
    """
    if kind not in TYPES:
        hint = suggestion(kind, TYPES)
        raise InputError(expected=f"a type among {', '.join(TYPES)}", got=repr(kind), hint=hint)
    target = check_output(file, overwrite)
    if target.suffix != ".gguf":
        raise InputError(expected="a name that ends in .gguf", got=file, hint="choose another name")
    return target


def write_gguf(
    target: Path,
    meta_model: Model,
    files: TensorFiles,
    tokenizer: PreTrainedTokenizerBase,
    kind: str,
    progress: Progress = no_progress,
) -> None:
    """Write the model that `meta_model` describes, whose weights are in `files`, as the GGUF file `target`.

    `target` is as `check_gguf_output` returned it, `kind` one of TYPES. The file appears complete or not at all.
    Raises InputError, before anything is written, for what llama.cpp or the type cannot hold, and for a disk that
    cannot take it; later only for weights that are not finite, or too large for the type.
    """
    config = meta_model.config
    shape, family = Shape.of(meta_model), family_of(meta_model)
    architecture = _check_runs(config, shape, family)
    block, _ = gguf.GGML_QUANT_SIZES[TYPES[kind]]  # each row of each matrix is whole blocks
    heads = {groups * shape.group_heads * shape.head_dim for groups in shape.kv_groups}
    for what, widths in {
        "stream": {shape.hidden},
        "neurons": {*shape.neurons},
        "heads' outputs": heads,
    }.items():
        if odd := sorted(width for width in widths if width % block):
            hint = (
                f"prune with --multiple {block}, or " if what == "neurons" else ""
            )  # it sets no other widths
            got = f"{odd[0]} {what} in a layer: {hint}export --type f16"
            raise InputError(f"expected widths that {kind} can hold, multiples of {block}, got {got}")
    tensors, factors = _tensors(meta_model, architecture, kind), _rope_factors(meta_model, shape)
    metadata = _metadata(meta_model, target.stem, kind) | tokenizer_metadata(tokenizer, config.vocab_size)
    needed = sum(tensor.nbytes for tensor in tensors.values())
    check_room(target.parent, needed, target.name)
    with staged(target) as partial, contextlib.closing(gguf.GGUFWriter(None, architecture)) as writer:
        for field, value in metadata.items():
            getattr(writer, f"add_{field}")(value)
        for name, tensor in tensors.items():
            writer.add_tensor_info(name, tensor.shape, np.dtype(np.float32), tensor.nbytes, tensor.kind)
        for name, values in factors.items():
            writer.add_tensor_info(name, values.shape, values.dtype, values.nbytes)
        writer.write_header_to_file(partial)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for done, tensor in enumerate(tensors.values(), 1):
            writer.write_tensor_data(tensor.converted(files))
            progress("exporting", done, len(tensors))
        for values in factors.values():
            writer.write_tensor_data(values)


def _check_runs(config: Any, shape: Shape, family: Family) -> str:
    """llama.cpp's name of the architecture. Raises InputError for what it does not read from a file, or refuses."""
    if family.gguf is None:
        types = ", ".join(name for name, row in ROWS.items() if row.gguf)
        raise InputError(
            f"expected a model type that goes to GGUF ({types}), got {config.model_type}: use the folder"
        )
    architecture = family.gguf if shape.uniform else family.gguf_per_layer
    if architecture is None:
        got = f"{config.model_type} with others: use export --padded first, and export that folder"
        raise InputError(f"expected one width for all layers, as llama.cpp has it but for Llama, got {got}")
    biased = any(getattr(config, name, False) for name in ("attention_bias", "mlp_bias", "use_bias"))
    reason = "biases" if biased and family.gguf not in ("llama", "granite") else family.gguf_refusal(config)
    if reason is not None:
        got = f"{config.model_type} with {reason}: use the folder itself"
        raise InputError(f"expected a model that llama.cpp runs, got {got}")
    activation = getattr(config, "hidden_activation", None) or config.hidden_act  # Gemma has its own word
    if activation not in family.gguf_activations:
        wanted = f"the activation {family.gguf_activations[0]}, the only one that llama.cpp has here"
        raise InputError(f"expected {wanted}, got {activation}: use the folder itself")
    rotation, known = _rope(config).get("rope_type", "default"), family.gguf_rope
    if rotation not in known:
        wanted = f"rope scaling that llama.cpp's {family.gguf} reads ({', '.join(known)})"
        raise InputError(f"expected {wanted}, got {rotation}: use the folder itself")
    width = shape.kv_groups[0] * shape.group_heads * shape.head_dim
    if family.gguf_square and width != shape.hidden:
        wanted = f"heads that are together as wide as the stream, {shape.hidden}, as llama.cpp's {family.gguf} has them"
        raise InputError(f"expected {wanted}, got {width}: prune with all KV groups kept")
    return architecture


def _tensors(meta_model: Model, architecture: str, kind: str) -> dict[str, _Tensor]:
    """All tensors of the model by their names in the file."""
    shape, family = Shape.of(meta_model), family_of(meta_model)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], shape.layers)
    tensors = {}
    for key, size in weight_shapes(meta_model).items():
        module, _, suffix = key.rpartition(".")
        head_dim = shape.head_dim if module.rpartition(".")[2] in family.gguf_interleaved else None
        shift = family.gguf_norm_shift if module.endswith("norm") else 0.0
        tensors[f"{names[module]}.{suffix}"] = _Tensor(
            key, size, tensor_type(key, size, kind), head_dim, shift
        )
    return tensors


def tensor_type(key: str, size: tuple[int, ...], kind: str) -> Type:
    """What a tensor, called `key` in transformers, becomes in a file of that kind."""
    if len(size) == 1:
        return Type.F32
    return Type.Q8_0 if key in (EMBEDDING, HEAD) and kind.startswith("q4") else TYPES[kind]


def _metadata(meta_model: Model, name: str, kind: str) -> dict[str, Any]:
    """What the file says of the model: NAME -> value, for `add_NAME` of GGUFWriter."""
    config, shape, family = meta_model.config, Shape.of(meta_model), family_of(meta_model)
    context = config.max_position_embeddings
    own = family.gguf_fields(config)
    windowed = "sliding_attention" in getattr(config, "layer_types", ("sliding_attention",))
    known = "sliding_window" in own or not windowed  # to most architectures of llama.cpp windows are not
    window = context if known else getattr(config, "sliding_window", None) or context
    heads = tuple(groups * shape.group_heads for groups in shape.kv_groups)
    file_type = gguf.LlamaFileType[f"{'ALL' if kind == 'f32' else 'MOSTLY'}_{kind.upper()}"]
    file = {"type": gguf.GGUFType.MODEL, "name": name, "file_type": file_type}
    file |= {"quantization_version": gguf.GGML_QUANT_VERSION, "context_length": min(window, context)}
    sizes = {"vocab_size": config.vocab_size, "embedding_length": shape.hidden, "block_count": shape.layers}
    layers = {"feed_forward_length": shape.neurons, "head_count": heads, "head_count_kv": shape.kv_groups}
    widths = {field: values[0] if shape.uniform else list(values) for field, values in layers.items()}
    head = {
        "key_length": shape.head_dim,
        "value_length": shape.head_dim,
        "layer_norm_rms_eps": config.rms_norm_eps,
    }
    theta = _rope(config)["rope_theta"]
    rotary = {"rope_dimension_count": shape.head_dim, "rope_freq_base": theta}
    return file | sizes | widths | head | rotary | own


def _rope(config: Any) -> dict[str, Any]:
    """The rotary embedding of layers that see everything: rope_theta, rope_type and what that needs."""
    settings: dict[str, Any] = config.rope_parameters.get("full_attention", config.rope_parameters)
    return settings


def _rope_factors(meta_model: Model, shape: Shape) -> dict[str, np.ndarray]:
    """What llama.cpp divides the rotary frequencies by (d/2,), as a tensor of the file; none if nothing is scaled."""
    config, settings = meta_model.config, _rope(meta_model.config)
    if settings.get("rope_type", "default") == "default":
        return {}
    scaled = LlamaRotaryEmbedding(config=config).inv_freq
    exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
    return {"rope_freqs.weight": (settings["rope_theta"] ** -exponents / scaled).numpy()}
