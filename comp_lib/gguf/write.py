"""A model folder as one GGUF file, for llama.cpp and all that is built on it.

The tensors are converted one by one, so that little of a large model is in memory. The two formats differ in
two things.

*Rotary positions.* transformers turns the pairs (x_i, x_{i + d/2}) of a head of size d, llama.cpp's `llama`
the neighbours (x_2i, x_{2i+1}). Attention only sees dot products of queries and keys, which do not change
when both are reordered alike; so the rows of q_proj and k_proj, and their biases, are interleaved head by
head:

    row 2i of the file = row i of the folder,     row 2i + 1 of the file = row i + d/2 of the folder.

Scaled frequencies (Llama 3's, linear) become a tensor of factors, rope_freqs_i = default_i / scaled_i.

*Widths.* `llama` has one width for all layers. Widths that differ from layer to layer become llama.cpp's
`deci`, which computes the same. Some types cut each row into blocks of 32: they take multiples of 32 alone.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType
from transformers import PreTrainedTokenizerBase
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from ..errors import InputError, suggestion
from ..families.types import Model
from ..progress import Progress, no_progress
from ..shape import Shape
from ..system.atomic import check_output, check_room, stage
from ..system.tensors import EMBEDDING, HEAD, StoredTensors, weight_shapes
from .architectures import ARCHITECTURES, Architecture, architecture_of
from .tokenizer import tokenizer_metadata

TYPES = {
    "f32": GGMLQuantizationType.F32,
    "f16": GGMLQuantizationType.F16,
    "q8_0": GGMLQuantizationType.Q8_0,
    "q4_0": GGMLQuantizationType.Q4_0,
    "q4_1": GGMLQuantizationType.Q4_1,
}
# the largest weight that a type other than f32 can hold: the scale of a block is a float16, too
LARGEST_HALF = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class _ExportedTensor:
    """A tensor of the file, and how it is made from a tensor of the folder."""

    source: str  # name of the tensor in the folder
    shape: tuple[int, ...]  # sizes in the order of torch
    kind: GGMLQuantizationType  # type of the numbers in the file
    head_dim: int | None  # size of the heads whose rows are interleaved; None: no row is
    shift: float  # number that is added to each weight

    @property
    def n_bytes(self) -> int:
        """Its size in the file."""
        block_values, block_bytes = gguf.GGML_QUANT_SIZES[self.kind]
        return prod(self.shape) // block_values * block_bytes

    def convert(self, files: StoredTensors) -> np.ndarray:
        """Read the tensor from `files`, and return it as the GGUF file stores it.

        Raises InputError for numbers that are too large or not finite.
        """
        values = files.read(self.source, torch.float32).numpy()
        if self.kind != GGMLQuantizationType.F32 and np.abs(values).max(initial=0.0) > LARGEST_HALF:
            raise InputError(
                expected=f"weights that {self.kind.name.lower()} can hold",
                got=f"more than {LARGEST_HALF:g} in {self.source}",
                hint="export with the type f32",
            )
        values += np.float32(self.shift)
        if self.head_dim is not None:
            values = interleave(values, self.head_dim)
        stored: np.ndarray = gguf.quants.quantize(values, self.kind)
        return stored


def interleave(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows (h d, ...) of all heads from transformers' order to llama.cpp's.

    Row i of the first half of a head and row i of the second half become neighbours. This is the inverse of
    `read.separate_halves`.
    """
    halves = rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def check_gguf_output(file: str | Path, kind: str, overwrite: bool = False) -> Path:
    """The path of a GGUF file to write, without links.

    Raises InputError for a `kind` that is not one of TYPES, a name with another ending, a file that is there
    already unless it is to `overwrite`, and a folder that cannot be written to.
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
    files: StoredTensors,
    tokenizer: PreTrainedTokenizerBase,
    kind: str,
    progress: Progress = no_progress,
) -> None:
    """Write a model as a GGUF file, which appears complete or not at all.

    Args:
        target: the file, as `check_gguf_output` returned it.
        meta_model: the model without its numbers.
        files: the weights of the model.
        tokenizer: the tokenizer of the model.
        kind: the type of the matrices, one of TYPES.
        progress: called after each tensor.

    Raises InputError, before anything is written, for what llama.cpp or the type cannot hold, and for a disk
    that cannot take the file. Only weights that are not finite, or too large for the type, are refused later.
    """
    config = meta_model.config
    shape = Shape.of(meta_model)
    architecture = _find_architecture(config)
    architecture_name = _choose_name(config, shape, architecture)
    _check_widths(shape, kind)
    tensors = _exported_tensors(meta_model, architecture, architecture_name, kind)
    factors = _rope_factors(meta_model, shape)
    metadata = _metadata(meta_model, architecture, target.stem, kind)
    metadata |= tokenizer_metadata(tokenizer, config.vocab_size)
    needed_bytes = sum(tensor.n_bytes for tensor in tensors.values())
    check_room(target.parent, needed_bytes, target.name)
    with stage(target) as partial, contextlib.closing(gguf.GGUFWriter(None, architecture_name)) as writer:
        for field, value in metadata.items():
            add_field = getattr(writer, f"add_{field}")
            add_field(value)
        for name, tensor in tensors.items():
            writer.add_tensor_info(name, tensor.shape, np.dtype(np.float32), tensor.n_bytes, tensor.kind)
        for name, values in factors.items():
            writer.add_tensor_info(name, values.shape, values.dtype, values.nbytes)
        writer.write_header_to_file(partial)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for count, tensor in enumerate(tensors.values(), 1):
            writer.write_tensor_data(tensor.convert(files))
            progress("exporting", count, len(tensors))
        for values in factors.values():
            writer.write_tensor_data(values)


def _find_architecture(config: Any) -> Architecture:
    """The architecture of the model's type.

    Raises InputError where there is none.
    """
    architecture = architecture_of(config)
    if architecture is None:
        raise InputError(
            expected=f"a model type that goes to GGUF ({', '.join(ARCHITECTURES)})",
            got=config.model_type,
            hint="use the folder",
        )
    return architecture


def _choose_name(config: Any, shape: Shape, architecture: Architecture) -> str:
    """llama.cpp's name of the architecture, by whether all layers have one width.

    Raises InputError for a model that llama.cpp cannot compute.
    """
    name = architecture.name if shape.uniform else architecture.name_per_layer
    if name is None:
        raise InputError(
            expected="one width for all layers, as llama.cpp has it but for Llama",
            got=f"{config.model_type} with others",
            hint="pad the folder first, and export the padded folder",
        )
    reason = _refusal(config, architecture)
    if reason is not None:
        raise InputError(
            expected="a model that llama.cpp runs",
            got=f"{config.model_type} with {reason}",
            hint="use the folder itself",
        )
    activation = getattr(config, "hidden_activation", None) or config.hidden_act  # Gemma has another field
    if activation not in architecture.activations:
        raise InputError(
            expected=f"the activation {architecture.activations[0]}, the only one that llama.cpp has here",
            got=activation,
            hint="use the folder itself",
        )
    rope_type = _rope_parameters(config).get("rope_type", "default")
    if rope_type not in architecture.rope_types:
        rope_types = ", ".join(architecture.rope_types)
        raise InputError(
            expected=f"rope scaling that llama.cpp's {architecture.name} reads ({rope_types})",
            got=rope_type,
            hint="use the folder itself",
        )
    heads_width = shape.kv_groups[0] * shape.group_heads * shape.head_dim
    if architecture.square and heads_width != shape.hidden:
        raise InputError(
            expected=f"heads that are together as wide as the stream, {shape.hidden}, as llama.cpp's "
            f"{architecture.name} has them",
            got=heads_width,
            hint="prune with all KV groups kept",
        )
    return name


def _refusal(config: Any, architecture: Architecture) -> str | None:
    """The part of a config that llama.cpp cannot express, in words; None where it can be written."""
    biased = any(getattr(config, name, False) for name in ("attention_bias", "mlp_bias", "use_bias"))
    if biased and not architecture.optional_biases:
        return "biases"
    return architecture.refusal(config)


def _check_widths(shape: Shape, kind: str) -> None:
    """Check that each row of each matrix is a number of complete blocks of the type `kind`.

    Raises InputError where one is not.
    """
    block_values, _ = gguf.GGML_QUANT_SIZES[TYPES[kind]]
    heads_widths = [groups * shape.group_heads * shape.head_dim for groups in shape.kv_groups]
    widths_of = {"stream": [shape.hidden], "neurons": shape.neurons, "heads' outputs": heads_widths}
    for width_name, widths in widths_of.items():
        refused = [width for width in widths if width % block_values]
        if refused:
            hint = "export with the type f16"
            if width_name == "neurons":  # a multiple sets no other widths
                hint = f"prune with a multiple of {block_values}, or {hint}"
            raise InputError(
                expected=f"widths that {kind} can hold, multiples of {block_values}",
                got=f"{min(refused)} {width_name} in a layer",
                hint=hint,
            )


def _exported_tensors(
    meta_model: Model, architecture: Architecture, architecture_name: str, kind: str
) -> dict[str, _ExportedTensor]:
    """All tensors of the model by their names in the file."""
    shape = Shape.of(meta_model)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture_name.upper()], shape.layers)
    tensors = {}
    for source, size in weight_shapes(meta_model).items():
        module, _, suffix = source.rpartition(".")
        _, _, linear_name = module.rpartition(".")
        head_dim = shape.head_dim if linear_name in architecture.interleaved else None
        shift = architecture.norm_shift if module.endswith("norm") else 0.0
        gguf_type = tensor_type(source, size, kind)
        tensors[f"{names[module]}.{suffix}"] = _ExportedTensor(source, size, gguf_type, head_dim, shift)
    return tensors


def tensor_type(name: str, size: tuple[int, ...], kind: str) -> GGMLQuantizationType:
    """The type of the tensor `name` of transformers in a file of the type `kind`."""
    if len(size) == 1:
        return GGMLQuantizationType.F32
    if name in (EMBEDDING, HEAD) and kind.startswith("q4"):
        return GGMLQuantizationType.Q8_0
    return TYPES[kind]


def _metadata(meta_model: Model, architecture: Architecture, name: str, kind: str) -> dict[str, Any]:
    """The metadata of the model called `name`: NAME -> value, for `add_NAME` of GGUFWriter."""
    config = meta_model.config
    shape = Shape.of(meta_model)
    extra_fields = architecture.extra_fields(config)
    context = config.max_position_embeddings
    window = getattr(config, "sliding_window", None)
    windowed = "sliding_attention" in getattr(config, "layer_types", ("sliding_attention",))
    if window and windowed and "sliding_window" not in extra_fields:
        context = min(window, context)  # most architectures of llama.cpp have no windows

    def per_layer(widths: tuple[int, ...]) -> int | list[int]:
        """One number if all layers have the same width, else one number for each layer."""
        return widths[0] if shape.uniform else list(widths)

    precision = "ALL" if kind == "f32" else "MOSTLY"
    fields = {
        "type": gguf.GGUFType.MODEL,
        "name": name,
        "file_type": gguf.LlamaFileType[f"{precision}_{kind.upper()}"],
        "quantization_version": gguf.GGML_QUANT_VERSION,
        "context_length": context,
        "vocab_size": config.vocab_size,
        "embedding_length": shape.hidden,
        "block_count": shape.layers,
        "feed_forward_length": per_layer(shape.neurons),
        "head_count": per_layer(tuple(groups * shape.group_heads for groups in shape.kv_groups)),
        "head_count_kv": per_layer(shape.kv_groups),
        "key_length": shape.head_dim,
        "value_length": shape.head_dim,
        "layer_norm_rms_eps": config.rms_norm_eps,
        "rope_dimension_count": shape.head_dim,
        "rope_freq_base": _rope_parameters(config)["rope_theta"],
    }
    return fields | extra_fields


def _rope_parameters(config: Any) -> dict[str, Any]:
    """The rotary embedding of layers without a window: rope_theta, rope_type and the numbers of that type."""
    parameters: dict[str, Any] = config.rope_parameters.get("full_attention", config.rope_parameters)
    return parameters


def _rope_factors(meta_model: Model, shape: Shape) -> dict[str, np.ndarray]:
    """The tensor (d/2,) that llama.cpp divides the rotary frequencies by, under its name in the file.

    It is {} where the frequencies are not scaled.
    """
    config = meta_model.config
    parameters = _rope_parameters(config)
    if parameters.get("rope_type", "default") == "default":
        return {}
    rotary: Any = LlamaRotaryEmbedding  # it takes any config that has rotary parameters
    scaled = rotary(config=config).inv_freq
    exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
    default = parameters["rope_theta"] ** -exponents
    return {"rope_freqs.weight": (default / scaled).numpy()}
