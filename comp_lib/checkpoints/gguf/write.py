"""A model folder as one GGUF file, for llama.cpp and all that is built on it.

The tensors are converted one by one, so that little of a large model is in memory. `architectures` says
which architecture of llama.cpp takes the model, `layout` which tensors the file then has. Some types cut each
row into blocks of 32: they take multiples of 32 alone. The config.json of the model goes with the file, under
a key that llama.cpp skips: `read` makes the same model of it again.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType
from transformers import PreTrainedTokenizerBase

from ...decoder.families import TYPE_PREFIX
from ...decoder.shape import Shape
from ...decoder.types import Model
from ...decoder.weight_names import EMBEDDING, HEAD
from ...utils.arguments import suggestion
from ...utils.errors import InputError
from ...utils.files import check_room, checked_new_file, stage
from ...utils.progress import Progress, no_progress
from ..tensors import StoredTensors
from .architectures import choose_architecture
from .layout import Layout, Piece, layouts_of
from .metadata import add_fields, model_fields, scaled_rope
from .read import CONFIG_KEY, ROWS_AT_ONCE
from .tokenizer import name_for_llama_cpp, tokenizer_metadata

GgufType = Literal["f32", "f16", "q8_0", "q4_0", "q4_1"]
"""A type in which matrices can be written."""
TYPES: dict[GgufType, GGMLQuantizationType] = {
    "f32": GGMLQuantizationType.F32,
    "f16": GGMLQuantizationType.F16,
    "q8_0": GGMLQuantizationType.Q8_0,
    "q4_0": GGMLQuantizationType.Q4_0,
    "q4_1": GGMLQuantizationType.Q4_1,
}
FIELDS_OF_A_FOLDER = ("dtype", "auto_map", "_name_or_path")  # of a config.json, and untrue of a file
# the largest weight that a type other than f32 can hold: the scale of a block is a float16, too
LARGEST_HALF = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class _ExportedTensor:
    """A tensor of the file, and how it is made from tensors of the model."""

    layout: Layout
    gguf_type: GGMLQuantizationType
    """Type of the numbers in the file."""

    @property
    def n_bytes(self) -> int:
        """Its size in the file."""
        block_values, block_bytes = gguf.GGML_QUANT_SIZES[self.gguf_type]
        return prod(self.layout.shape) // block_values * block_bytes

    def convert(self, files: StoredTensors) -> np.ndarray:
        """Read the tensor from `files`, and return it as the GGUF file stores it.

        Raises InputError for numbers that are too large or not finite.
        """
        stored = []
        for piece in self.layout.pieces:
            for values in self._read(piece, files):
                numbers = piece.to_file(values)
                if (
                    self.gguf_type != GGMLQuantizationType.F32
                    and np.abs(numbers).max(initial=0.0) > LARGEST_HALF
                ):
                    raise InputError(
                        expected=f"weights that {self.gguf_type.name.lower()} can hold",
                        got=f"more than {LARGEST_HALF:g} in {piece.source}",
                        hint="export with the type f32",
                    )
                stored.append(gguf.quants.quantize(numbers, self.gguf_type))
        return np.concatenate(stored)

    def _read(self, piece: Piece, files: StoredTensors) -> Iterator[np.ndarray]:
        """The rows of a piece in float32: ROWS_AT_ONCE of a matrix, all where the file interleaves them."""
        stop = piece.start + piece.rows
        if len(self.layout.shape) == 1 or piece.head_dim is not None or piece.rows <= ROWS_AT_ONCE:
            yield files.read(piece.source, torch.float32).numpy()[piece.start : stop]
            return
        for rows in torch.arange(piece.start, stop).split(ROWS_AT_ONCE):
            yield files.read(piece.source, torch.float32, rows).numpy()


def checked_new_gguf_file(file: str | Path, gguf_type: GgufType, overwrite: bool = False) -> Path:
    """The path of a GGUF file to write, without links.

    Raises InputError for a `gguf_type` that is not one of TYPES, a name with another ending, a file that is
    there already unless it is to `overwrite`, and a folder that cannot be written to.
    """
    if not isinstance(gguf_type, str) or gguf_type not in TYPES:
        hint = suggestion(str(gguf_type), TYPES)
        raise InputError(expected=f"a type among {', '.join(TYPES)}", got=repr(gguf_type), hint=hint)
    target = checked_new_file(file, overwrite)
    if target.suffix != ".gguf":
        raise InputError(expected="a name that ends in .gguf", got=file, hint="choose another name")
    return target


def write_gguf(
    target: Path,
    meta_model: Model,
    files: StoredTensors,
    tokenizer: PreTrainedTokenizerBase,
    gguf_type: GgufType,
    progress: Progress = no_progress,
) -> None:
    """Write a model as a GGUF file, which appears complete or not at all.

    Args:
        target: the file, as `checked_new_gguf_file` returned it.
        meta_model: the model without its numbers.
        files: the weights of the model.
        tokenizer: the tokenizer of the model.
        gguf_type: the type of the matrices, one of TYPES.
        progress: called after each tensor.

    Raises InputError, before anything is written, for what llama.cpp or the type cannot hold, and for a disk
    that cannot take the file. Only weights that are not finite, or too large for the type, are refused later.
    """
    config = meta_model.config
    shape = Shape.of(meta_model)
    architecture = choose_architecture(config, shape)
    _check_widths(shape, gguf_type)
    tensors = {
        name: _ExportedTensor(layout, tensor_type(layout.pieces[0].source, layout.shape, gguf_type))
        for name, layout in layouts_of(meta_model, architecture).items()
    }
    rope_fields, factors = scaled_rope(meta_model, architecture)
    metadata = _general_fields(config, tokenizer, gguf_type) | model_fields(meta_model, architecture)
    metadata |= rope_fields | tokenizer_metadata(tokenizer, config.vocab_size)
    needed_bytes = sum(tensor.n_bytes for tensor in tensors.values())
    check_room(target.parent, needed_bytes, target.name)
    with stage(target) as partial, contextlib.closing(gguf.GGUFWriter(None, architecture.name)) as writer:
        add_fields(writer, metadata)
        writer.add_string(CONFIG_KEY, _config_text(config))
        for name, tensor in tensors.items():
            shape_in_file = tensor.layout.shape
            writer.add_tensor_info(
                name, shape_in_file, np.dtype(np.float32), tensor.n_bytes, tensor.gguf_type
            )
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


def check_exportable(
    model: Model, shape: Shape, tokenizer: PreTrainedTokenizerBase, gguf_type: GgufType
) -> None:
    """Check that `model` could be written as a GGUF file, with the widths that `shape` says.

    Args:
        model: its config counts, and none of its numbers.
        gguf_type: the type of the matrices, one of TYPES.

    Raises InputError for what llama.cpp or the type cannot hold.
    """
    choose_architecture(model.config, shape)
    _check_widths(shape, gguf_type)
    tokenizer_metadata(tokenizer, model.config.vocab_size)


def _check_widths(shape: Shape, gguf_type: GgufType) -> None:
    """Check that each row of each matrix is a number of complete blocks of the type `gguf_type`.

    Raises InputError for a width that is no multiple of the block.
    """
    block_values, _ = gguf.GGML_QUANT_SIZES[TYPES[gguf_type]]
    heads_widths = [groups * shape.group_heads * shape.head_dim for groups in shape.kv_groups]
    widths_of = {"stream": [shape.hidden_size], "neurons": shape.neurons, "heads' outputs": heads_widths}
    for width_name, widths in widths_of.items():
        refused = [width for width in widths if width % block_values]
        if refused:
            hint = "export with the type f16"
            if width_name == "neurons":  # a multiple sets no other widths
                hint = f"prune with a multiple of {block_values}, or {hint}"
            raise InputError(
                expected=f"widths that {gguf_type} can hold, multiples of {block_values}",
                got=f"{min(refused)} {width_name} in a layer",
                hint=hint,
            )


def tensor_type(name: str, size: tuple[int, ...], gguf_type: GgufType) -> GGMLQuantizationType:
    """The type of the tensor `name` of transformers in a file of type `gguf_type`."""
    if len(size) == 1:
        return GGMLQuantizationType.F32
    if name in (EMBEDDING, HEAD) and gguf_type.startswith("q4"):
        return GGMLQuantizationType.Q8_0
    return TYPES[gguf_type]


def size_of_tensors(shapes: Mapping[str, tuple[int, ...]], gguf_type: GgufType) -> int:
    """Bytes of tensors of these shapes, by their names in transformers, in a file of type `gguf_type`."""
    total = 0
    for name, shape in shapes.items():
        block_values, block_bytes = gguf.GGML_QUANT_SIZES[tensor_type(name, shape, gguf_type)]
        total += prod(shape) // block_values * block_bytes
    return total


def as_stored(name: str, weight: torch.Tensor, gguf_type: GgufType) -> torch.Tensor:
    """The numbers that a file of type `gguf_type` holds of `weight`, the tensor `name` of transformers."""
    stored_as = tensor_type(name, tuple(weight.shape), gguf_type)
    if stored_as == GGMLQuantizationType.F32:
        return weight
    blocks = gguf.quants.quantize(weight.detach().float().cpu().numpy(), stored_as)
    return torch.from_numpy(gguf.quants.dequantize(blocks, stored_as)).to(weight)


def _general_fields(config: Any, tokenizer: PreTrainedTokenizerBase, gguf_type: GgufType) -> dict[str, Any]:
    """What the file says of itself: NAME -> value, for `add_NAME` of GGUFWriter."""
    precision = "ALL" if gguf_type == "f32" else "MOSTLY"
    return {
        "type": gguf.GGUFType.MODEL,
        "name": name_for_llama_cpp(config.model_type.removeprefix(TYPE_PREFIX), tokenizer),
        "file_type": gguf.LlamaFileType[f"{precision}_{gguf_type.upper()}"],
        "quantization_version": gguf.GGML_QUANT_VERSION,
    }


def _config_text(config: Any) -> str:
    """The config.json of the model, as text."""
    fields = json.loads(config.to_json_string())
    return json.dumps({name: value for name, value in fields.items() if name not in FIELDS_OF_A_FOLDER})
