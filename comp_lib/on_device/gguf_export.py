"""A model folder as one GGUF file, for llama.cpp and whatever is built on it.

The tensors pass one by one, in pieces of a few megabytes: however large the model, little of it is in memory. Two
things differ between the two formats.

*Rotary positions.* transformers turns the pairs (x_i, x_{i + d/2}) of a head of size d, llama.cpp's `llama` the
neighbours (x_2i, x_{2i+1}). Attention only sees dot products of queries and keys, which do not change when both are
reordered alike; so the rows of q_proj and k_proj, and their biases, are interleaved head by head:

    row 2i of the file = row i of the folder,     row 2i + 1 of the file = row i + d/2 of the folder.

Scaled frequencies (Llama 3's, linear) become a tensor of factors, rope_freqs_i = default_i / scaled_i.

*Widths.* `llama` has one for all layers; widths that differ from layer to layer become llama.cpp's `deci`, which
computes the same thing, and knows layers without attention. A block-quantised type cuts each row into
blocks of 32 and takes no other widths; of the K-quants (`k_quants`), with their blocks of 256, neurons alone are asked
to fit.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from safetensors import safe_open
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from ..errors import InputError, suggestion
from ..families import family_of
from ..families.protocol import Family, Model
from ..models.load import open_model
from ..models.reading import check_shapes
from ..models.save import SMALL_FILES
from ..models.skeleton import skeleton
from ..report import Progress, no_progress
from ..shape import Shape
from ..system.atomic import check_room, same, staged
from ..system.outputs import check_output, starts_with
from ..system.tensor_files import TensorFiles
from . import k_quants
from .gguf_tokenizer import tokenizer_metadata

PLAIN = {"f32": Type.F32, "f16": Type.F16, "q8_0": Type.Q8_0, "q4_0": Type.Q4_0, "q4_1": Type.Q4_1}
TYPES = PLAIN | k_quants.KINDS
HALF = float(np.finfo(np.float16).max)
# Largest weight that a type can hold. The scale of a block is a half: its largest weight / 127 or / 8, or its smallest.
LIMITS = {Type.F16: HALF, Type.Q8_0: 127 * HALF, Type.Q4_0: 8 * HALF, Type.Q4_1: HALF}
PIECE = 4 << 20  # weights converted at a time
TABLES = ("model.embed_tokens.weight", "lm_head.weight")


@dataclass(frozen=True)
class _Tensor:
    """One tensor on its way: where it is, and what it is to become."""

    shard: Path
    key: str  # in the shard
    shape: tuple[int, ...]
    kind: Type
    head_dim: int | None  # of the heads whose rows are to be interleaved
    shift: float  # added to its numbers
    by_llama_cpp: bool  # who quantises

    @property
    def nbytes(self) -> int:
        block, size = gguf.GGML_QUANT_SIZES[self.kind]
        return prod(self.shape) // block * size

    def tofile(self, file: Any) -> None:
        """Write the converted tensor; with `nbytes`, all that GGUFWriter.write_tensor_data asks of an array."""
        whole = self.head_dim or 1  # rows that must not be parted
        rows = max(1, PIECE // prod(self.shape[1:]) // whole) * whole
        limit = LIMITS.get(self.kind, float(np.finfo(np.float32).max))
        for start in range(0, self.shape[0], rows):
            with safe_open(self.shard, framework="pt") as shard:  # opened anew, so that its pages are given back
                piece = shard.get_slice(self.key)[start : start + rows].float().numpy()
            if not np.abs(piece).max(initial=0.0) <= limit:  # NaN is not, either
                got = f"NaN or more than {limit:g} in {self.key}: export another type, or save the model again"
                raise InputError(f"expected weights that {self.kind.name.lower()} can hold, got {got}")
            piece += np.float32(self.shift)
            piece = piece if self.head_dim is None else interleave(piece, self.head_dim)
            quantise = k_quants.quantised if self.by_llama_cpp and piece.ndim > 1 else gguf.quants.quantize
            quantise(piece, self.kind).tofile(file)


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
    already, and for a folder or disk that cannot take it; later only for weights that are not finite, or too large for
    the type.
    """
    target = _check(file, kind, overwrite, model)
    if kind in k_quants.KINDS:
        k_quants.check_quantiser()
    folder, config, tokenizer = open_model(model)
    outline = skeleton(config)
    shape, family = Shape.of(outline), family_of(outline)
    architecture = family.gguf if shape.uniform else family.gguf_per_layer or family.gguf
    if (reason := family.gguf_refusal(config)) is not None:
        got = f"{config.model_type} with {reason}: use the folder itself"
        raise InputError(f"expected a model that llama.cpp runs, got {got}")
    _check_runs(config, shape, family)
    _check_widths(shape, kind)
    tensors: dict[str, Any] = {**_tensors(folder, outline, architecture, kind), **_rope_factors(outline, shape)}
    metadata = _metadata(outline, target.stem, kind) | tokenizer_metadata(tokenizer, config.vocab_size)
    needed = sum(tensor.nbytes for tensor in tensors.values()) + SMALL_FILES
    check_room(target.parent, needed, target.name, "make room, choose another place, or a smaller type")
    with staged(target) as partial, contextlib.closing(gguf.GGUFWriter(None, architecture)) as writer:
        for field, value in metadata.items():
            getattr(writer, f"add_{field}")(value)
        for name, tensor in tensors.items():
            held = getattr(tensor, "kind", Type.F32)  # the factors are an array
            writer.add_tensor_info(name, tensor.shape, np.dtype(np.float32), tensor.nbytes, held)
        writer.write_header_to_file(partial)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for done, tensor in enumerate(tensors.values(), 1):
            writer.write_tensor_data(tensor)
            progress("exporting", done, len(tensors))
    return Path(file).expanduser()


def check_type(kind: str) -> None:
    """Raises InputError unless matrices can be stored as `kind`."""
    if kind not in TYPES:
        raise InputError(f"expected a type among {', '.join(TYPES)}, got {kind!r}: {suggestion(kind, TYPES)}")


def _check(file: str | Path, kind: str, overwrite: bool, model: str | Path) -> Path:
    check_type(kind)
    if same(file, model):
        raise InputError(f"expected a file apart from the model, got {file}: choose another name")
    target = check_output(file, starts_with(b"GGUF"), what="a GGUF file")
    if target.exists() and not overwrite:
        raise InputError(f"expected a new file, got {file}, which is there: choose another name or say --overwrite")
    return target


def _check_runs(config: Any, shape: Shape, family: Family) -> None:
    """Raises InputError for what the family's architecture in llama.cpp does not read from a file, or refuses."""
    activation = getattr(config, "hidden_activation", None) or config.hidden_act  # Gemma has its own word
    if activation not in family.gguf_activations:
        wanted = f"the activation {family.gguf_activations[0]}, the only one that llama.cpp has here"
        raise InputError(f"expected {wanted}, got {activation}: not exported")
    rotation, known = family.rope_settings(config).get("rope_type", "default"), family.gguf_rope
    if rotation not in known:
        wanted = f"rope scaling that llama.cpp's {family.gguf} reads ({', '.join(known)})"
        raise InputError(f"expected {wanted}, got {rotation}: not exported")
    if not shape.kv_groups[0]:
        raise InputError(
            "expected attention in the first layer, whose heads llama.cpp counts on, got none: not exported"
        )
    if not all(shape.neurons):
        layer = shape.neurons.index(0)
        got = f"none in layer {layer}: llama.cpp would leave out its attention too; not exported"
        raise InputError(f"expected an MLP in each layer, got {got}")
    width = shape.kv_groups[0] * shape.group_heads * shape.head_dim
    if family.gguf_square and width != shape.hidden:
        wanted = f"heads that are together as wide as the stream, {shape.hidden}, as llama.cpp's {family.gguf} has them"
        raise InputError(f"expected {wanted}, got {width}: not exported; prune with all KV groups kept")


def _check_widths(shape: Shape, kind: str) -> None:
    """Raises InputError unless each row of each matrix is whole blocks of the type."""
    block, _ = gguf.GGML_QUANT_SIZES[TYPES[kind]]
    others, hint = block, "prune with --target gguf-q4, or export --type f16"
    if kind in k_quants.KINDS:
        others, hint = k_quants.SMALL_BLOCK, f"prune with --multiple {block}, or export --type q8_0"
    heads = {groups * shape.group_heads * shape.head_dim for groups in shape.kv_groups}
    asked = (
        ("stream", others, {shape.hidden}),
        ("neurons", block, set(shape.neurons)),
        ("heads' outputs", others, heads),
    )
    for what, multiple, widths in asked:
        for width in sorted(widths):
            if width % multiple:
                below, above = width // multiple * multiple, -(-width // multiple) * multiple
                got = f"{width} {what} in a layer (nearest: {f'{below} or ' if below else ''}{above})"
                hint = "export --type f16" if what == "stream" else hint  # pruning leaves it as it is
                raise InputError(f"expected widths that {kind} can hold, multiples of {multiple}, got {got}: {hint}")


def _tensors(folder: Path, outline: Model, architecture: str, kind: str) -> dict[str, _Tensor]:
    """All tensors that the model must have, found in the folder and named for the file."""
    files, shape, family = TensorFiles(folder), Shape.of(outline), family_of(outline)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], shape.layers)
    check_shapes(outline, files.shapes, folder)
    tensors = {}
    for key, tensor in outline.state_dict().items():
        size = tuple(tensor.shape)
        if key == "lm_head.weight" and outline.config.tie_word_embeddings:
            continue
        module, _, suffix = key.rpartition(".")
        head_dim = shape.head_dim if module.rpartition(".")[2] in family.gguf_interleaved else None
        shift = family.gguf_norm_shift if module.endswith("norm") else 0.0
        held, theirs = tensor_type(key, size, kind), kind in k_quants.KINDS
        tensors[f"{names[module]}.{suffix}"] = _Tensor(files.where[key], key, size, held, head_dim, shift, theirs)
    if kind in k_quants.KINDS:
        types = k_quants.mixture({name: tensor.shape for name, tensor in tensors.items()}, kind)
        tensors = {name: replace(tensor, kind=types[name]) for name, tensor in tensors.items()}
    return tensors


def tensor_type(key: str, size: tuple[int, ...], kind: str) -> Type:
    """What a tensor, called `key` in transformers, becomes in a file of that kind."""
    if len(size) == 1:
        return Type.F32
    return Type.Q8_0 if key in TABLES and kind.startswith("q4") else TYPES[kind]


def _metadata(outline: Model, name: str, kind: str) -> dict[str, Any]:
    """What the file says of the model: NAME -> value, for `add_NAME` of GGUFWriter."""
    config, shape, family = outline.config, Shape.of(outline), family_of(outline)
    context = config.max_position_embeddings
    own = family.gguf_fields(config)
    window = context if "sliding_window" in own else family.window(config) or context  # most have none in llama.cpp
    heads = tuple(groups * shape.group_heads for groups in shape.kv_groups)
    file_type = gguf.LlamaFileType[f"{'ALL' if kind == 'f32' else 'MOSTLY'}_{kind.upper()}"]
    file = {"type": gguf.GGUFType.MODEL, "name": name, "file_type": file_type}
    file |= {"quantization_version": gguf.GGML_QUANT_VERSION, "context_length": min(window, context)}
    sizes = {"vocab_size": config.vocab_size, "embedding_length": shape.hidden, "block_count": shape.layers}
    layers = {"feed_forward_length": shape.neurons, "head_count": heads, "head_count_kv": shape.kv_groups}
    widths = {field: values[0] if shape.uniform else list(values) for field, values in layers.items()}
    head = {"key_length": shape.head_dim, "value_length": shape.head_dim, "layer_norm_rms_eps": config.rms_norm_eps}
    theta = family.rope_settings(config)["rope_theta"]
    rotary = {"rope_dimension_count": shape.head_dim, "rope_freq_base": theta}
    return file | sizes | widths | head | rotary | own


def _rope_factors(outline: Model, shape: Shape) -> dict[str, np.ndarray]:
    """What llama.cpp divides the rotary frequencies by (d/2,), as a tensor of the file; none if nothing is scaled."""
    config, settings = outline.config, family_of(outline).rope_settings(outline.config)
    kind = settings.get("rope_type", "default")
    if kind == "default":
        return {}
    scaled = LlamaRotaryEmbedding(config=config).inv_freq
    exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
    return {"rope_freqs.weight": (settings["rope_theta"] ** -exponents / scaled).numpy()}
