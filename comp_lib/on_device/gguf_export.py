"""A model folder as one GGUF file, for llama.cpp and whatever is built on it.

The tensors pass one by one, in pieces of a few megabytes, from safetensors into the file: however large the model,
little of it is in memory. Two things differ between the two formats.

*Rotary positions.* transformers turns the pairs (x_i, x_{i + d/2}) of a head of size d, llama.cpp's `llama` the
neighbours (x_2i, x_{2i+1}). Attention only sees dot products of queries and keys, which do not change when both are
reordered alike; so the rows of q_proj and k_proj, and their biases, are interleaved head by head:

    row 2i     of the file = row i       of the folder,
    row 2i + 1 of the file = row i + d/2 of the folder.

Scaled frequencies (Llama 3's, linear) become a tensor of factors, rope_freqs_i = default_i / scaled_i.

*Widths.* `llama` has one for all layers; widths that differ from layer to layer become llama.cpp's `deci`, which
computes the same thing. A block-quantised type cuts each row into blocks of 32 and takes no other widths.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from safetensors import safe_open
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from ..errors import InputError, nearest
from ..families import family_called
from ..models.load import open_model
from ..models.skeleton import skeleton
from ..report import Progress, no_progress
from ..shape import Shape
from ..system.atomic import check_room, resolved, staged, tidy
from ..system.tensor_files import TensorFiles
from .gguf_tokenizer import add_tokenizer

TYPES = {"f32": Type.F32, "f16": Type.F16, "q8_0": Type.Q8_0, "q4_0": Type.Q4_0, "q4_1": Type.Q4_1}
PIECE = 4 << 20  # weights converted at a time
SMALL = 16 << 20  # bytes, generously, of all that is not weights: mostly the tokenizer
TABLES = ("model.embed_tokens.weight", "lm_head.weight")


@dataclass(frozen=True)
class _Tensor:
    """One tensor on its way: where it is, and what it is to become."""

    shard: Path
    key: str  # in the shard
    name: str  # in the file
    shape: tuple[int, ...]
    kind: Type
    head_dim: int | None  # of the heads whose rows are to be interleaved

    @property
    def nbytes(self) -> int:
        block, size = gguf.GGML_QUANT_SIZES[self.kind]
        return prod(self.shape) // block * size

    def tofile(self, file: Any) -> None:
        """Write the converted tensor; with `nbytes`, all that GGUFWriter.write_tensor_data asks of an array."""
        for piece in self._pieces():
            gguf.quants.quantize(piece, self.kind).tofile(file)

    def _pieces(self) -> Iterator[np.ndarray]:
        whole = self.head_dim or 1  # rows that must not be parted
        rows = max(1, PIECE // prod(self.shape[1:]) // whole) * whole
        for start in range(0, self.shape[0], rows):
            with safe_open(self.shard, framework="pt") as file:  # opened anew, so that its pages are given back
                piece = file.get_slice(self.key)[start : start + rows].float().numpy()
            limit = np.finfo(np.float16 if self.kind == Type.F16 else np.float32).max
            if not np.abs(piece).max(initial=0.0) <= limit:  # NaN is not, either
                got = f"NaN or more than {limit:g} in {self.key}: export another type, or save the model again"
                raise InputError(f"expected weights that {self.kind.name.lower()} can hold, got {got}")
            yield piece if self.head_dim is None else interleave(piece, self.head_dim)


def interleave(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows (h d, ...) of whole heads from transformers' order to llama.cpp's: halves become neighbours."""
    halves = rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def export_gguf(
    model: str | Path, file: str | Path, kind: str = "f16", *, overwrite: bool = False, progress: Progress = no_progress
) -> Path:
    """Write `model` (a folder, a .gguf file or "smollm2-135m") as the GGUF file `file`, and return its path.

    `kind` is one of TYPES, of the matrices: vectors stay f32, and with a 4-bit kind the embeddings and the head become
    q8_0, as in most files of that kind. The file appears complete or not at all.
    Raises InputError, before anything is written, for what llama.cpp or the type cannot hold, for a file that is there
    already, and for a folder or disk that cannot take it; later only for weights that are not finite.
    """
    target = _check(file, kind, overwrite, model)
    folder, config, tokenizer = open_model(model)
    shape, expected = _described(config)
    _check_family(config)
    _check_widths(shape, kind)
    tensors: list[Any] = _tensors(folder, config, shape, expected, kind)  # arrays to GGUFWriter
    writer = gguf.GGUFWriter(None, _architecture(config, shape))
    _add_model(writer, config, shape, target.stem, kind)
    factors = _rope_factors(config, shape)
    add_tokenizer(writer, tokenizer, config.vocab_size)
    for tensor in tensors:
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.nbytes, tensor.kind)
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    needed = sum(tensor.nbytes for tensor in tensors) + SMALL
    check_room(target.parent, needed, target.name, "make room, choose another place, or a smaller type")
    with staged(target) as partial, contextlib.closing(writer):
        writer.write_header_to_file(partial)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for done, tensor in enumerate(tensors, 1):
            writer.write_tensor_data(tensor)
            progress("exporting", done, len(tensors))
        if factors is not None:
            writer.write_tensor_data(factors)
    return Path(file).expanduser()


def _check(file: str | Path, kind: str, overwrite: bool, model: str | Path) -> Path:
    if kind not in TYPES:
        raise InputError(f"expected a type among {', '.join(TYPES)}, got {kind!r}: {nearest(kind, TYPES)}")
    target = resolved(file)
    if not target.parent.is_dir() or not os.access(target.parent, os.W_OK | os.X_OK):
        raise InputError(f"expected a file in a folder that can be written to, got {file}: make the folder first")
    if target.is_dir():
        raise InputError(f"expected a file, got the folder {file}: name a file in it, such as {target.name}.gguf")
    if target.exists() and resolved(model) == target:
        raise InputError(f"expected a file apart from the model, got {file}: choose another name")
    if target.exists() and not overwrite:
        raise InputError(f"expected a new file, got {file}, which is there: choose another name or say --overwrite")
    tidy(target)
    return target


def _check_family(config: Any) -> None:
    if config.hidden_act not in family_called(config.model_type).gguf_activations:
        wanted = "the activation silu, the only one that llama.cpp has here"
        raise InputError(f"expected {wanted}, got {config.hidden_act}: not exported")


def _check_widths(shape: Shape, kind: str) -> None:
    """Raises InputError unless each row of each matrix is whole blocks of the type."""
    block, _ = gguf.GGML_QUANT_SIZES[TYPES[kind]]
    heads = {groups * shape.group_heads * shape.head_dim for groups in shape.kv_groups}
    for what, widths in (("stream", {shape.hidden}), ("neurons", set(shape.neurons)), ("heads' outputs", heads)):
        for width in sorted(widths):
            if width % block:
                below, above = width // block * block, -(-width // block) * block
                got = f"{width} {what} in a layer (nearest: {f'{below} or ' if below else ''}{above})"
                hint = "prune with --target gguf-q4, or export --type f16"
                raise InputError(f"expected widths that {kind} can hold, multiples of {block}, got {got}: {hint}")


def _described(config: Any) -> tuple[Shape, dict[str, tuple[int, ...]]]:
    """Shape of the model that `config` describes, and the shapes of the tensors which it must have."""
    model = skeleton(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        del shapes["lm_head.weight"]
    return Shape.of(model), shapes


def _architecture(config: Any, shape: Shape) -> str:
    family = family_called(config.model_type)
    return family.gguf if shape.uniform else family.gguf_per_layer or family.gguf


def _tensors(folder: Path, config: Any, shape: Shape, expected: dict[str, tuple[int, ...]], kind: str) -> list[_Tensor]:
    """All tensors of the model, found in the folder and named for the file."""
    files = TensorFiles(folder)
    interleaved = family_called(config.model_type).gguf_interleaved
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[_architecture(config, shape).upper()], shape.layers)
    tensors = []
    for key, size in expected.items():
        actual = files.shapes.get(key)
        if actual != size:
            wanted = f"{key} of shape {size}, as config.json says"
            raise InputError(f"expected {wanted}, got {actual or 'none'} in {folder}: save the model again")
        module, _, suffix = key.rpartition(".")
        head_dim = shape.head_dim if module.rpartition(".")[2] in interleaved else None
        name = f"{names[module]}.{suffix}"
        tensors.append(_Tensor(files.where[key], key, name, size, tensor_type(key, size, kind), head_dim))
    return tensors


def tensor_type(key: str, size: tuple[int, ...], kind: str) -> Type:
    """What a tensor, called `key` in transformers, becomes in a file of that kind."""
    if len(size) == 1:
        return Type.F32
    return Type.Q8_0 if key in TABLES and kind.startswith("q4") else TYPES[kind]


def _add_model(writer: gguf.GGUFWriter, config: Any, shape: Shape, name: str, kind: str) -> None:
    def described(widths: tuple[int, ...]) -> int | list[int]:
        return widths[0] if shape.uniform else list(widths)

    file_type = gguf.LlamaFileType[f"{'ALL' if kind == 'f32' else 'MOSTLY'}_{kind.upper()}"]
    window = family_called(config.model_type).window(config)  # llama.cpp has none for these families
    context = config.max_position_embeddings
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(min(window or context, context))
    writer.add_vocab_size(config.vocab_size)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(described(shape.neurons))
    writer.add_head_count(described(tuple(groups * shape.group_heads for groups in shape.kv_groups)))
    writer.add_head_count_kv(described(shape.kv_groups))
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])


def _rope_factors(config: Any, shape: Shape) -> np.ndarray | None:
    """What llama.cpp divides the rotary frequencies by (d/2,), or None where there is nothing to scale."""
    kind = config.rope_parameters.get("rope_type", "default")
    if kind == "default":
        return None
    if kind not in ("linear", "llama3"):
        raise InputError(f"expected rope scaling of type linear or llama3, or none, got {kind}: not exported")
    scaled = LlamaRotaryEmbedding(config=config).inv_freq
    exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
    factors: np.ndarray = (config.rope_parameters["rope_theta"] ** -exponents / scaled).numpy()
    return factors
