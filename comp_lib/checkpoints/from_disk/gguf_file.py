"""A pruned model as one .gguf file: the type of its matrices, and what is refused before any work.

The matrices keep the type of the parent's where it can be written, else they get the nearest type above it:
the one with the next more bits for a weight. So q4_k becomes q4_1, which has sixteen steps in blocks of 32 as
q4_k has, and q5_k and q6_k become q8_0. There is one exception: bf16 becomes f16, which takes as many bytes.
It holds each number of bf16 between 6e-5 and 65,504 as it is, and no model is known that needs larger ones;
f32 would make a pruned file larger than its parent.

Until the file is written, numbers are f32 (for f16: f16), so they are rounded once, to the file's type.
A matrix that pruning does not touch then keeps its bits: a block that was read from a type is the same block
again when it is written in it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf
import torch
from transformers import PreTrainedTokenizerBase

from ...decoder.shape import Shape
from ...hybrid_granularity.uniform import GGUF_BLOCK
from ...pruning.methods import method_of
from ...pruning.settings import CompleteSettings
from ...utils.errors import InputError
from ...utils.files import check_room, resolve
from ..gguf.write import TYPES, GgufType, check_exportable, checked_new_gguf_file
from ..tensors import StoredTensors
from .model_on_disk import ModelOnDisk

PADDED_HINT = "or prune into a folder, and export that with --padded"


def is_gguf_name(out: str | Path) -> bool:
    """Whether the pruned model is to be a GGUF file: its name ends in .gguf."""
    return Path(out).suffix == ".gguf"


def matrix_type(files: StoredTensors) -> str:
    """The type as which most of the numbers in the matrices of the layers are stored, such as "Q8_0"."""
    matrices = [name for name, shape in files.shapes.items() if ".layers." in name and len(shape) == 2]
    return files.usual_type(matrices)


def gguf_type_above(stored: str, dtype: torch.dtype) -> GgufType:
    """The type of a pruned file, one of TYPES, whose parent's matrices are `stored`, such as "Q6_K".

    dtype: in which the model computes; no number takes more bytes than that.

    >>> [gguf_type_above(stored, torch.float32) for stored in ("Q8_0", "Q4_K", "Q6_K", "BF16")]
    ['q8_0', 'q4_1', 'q8_0', 'f16']
    """
    wanted = "F16" if stored == "BF16" else stored
    bits = _bits(gguf.GGMLQuantizationType[wanted])
    same = [name for name in TYPES if name == wanted.lower()]
    above = [name for name, written_type in TYPES.items() if _bits(written_type) > bits]
    gguf_type: GgufType = min(same or above, key=lambda name: _bits(TYPES[name]), default="f32")
    if gguf_type == "f32" and dtype.itemsize < torch.float32.itemsize:
        return "f16"
    return gguf_type


def _bits(stored: gguf.GGMLQuantizationType) -> float:
    """How many bits a weight of this type takes."""
    block_values, block_bytes = gguf.GGML_QUANT_SIZES[stored]
    return 8 * block_bytes / block_values


def working_dtype(gguf_type: GgufType) -> torch.dtype:
    """The dtype of the numbers until a file of type `gguf_type` is written."""
    return torch.float16 if gguf_type == "f16" else torch.float32


def with_fitting_multiple(
    settings: CompleteSettings, shape: Shape, gguf_type: GgufType, *, ratio_known: bool
) -> CompleteSettings:
    """The settings with a multiple that rows of the type `gguf_type` can have.

    Args:
        shape: of the parent.
        ratio_known: whether the ratio of the settings is the one of the run; else it is sought later, and the
            multiple suits any ratio.

    Raises InputError for another multiple that somebody asked for.
    """
    block_values, _ = gguf.GGML_QUANT_SIZES[TYPES[gguf_type]]
    if settings.multiple is not None and settings.multiple % block_values != 0:
        raise InputError(
            expected=f"a multiple of {block_values}, for a file of the type {gguf_type}",
            got=f"the multiple {settings.multiple}",
            hint="leave it out, or prune into a folder",
        )
    if block_values == 1 or settings.multiple is not None:
        return settings
    if ratio_known and settings.plan_request(shape).multiple % block_values == 0:
        return settings
    return replace(settings, multiple=GGUF_BLOCK)


def check_result_fits(
    model: ModelOnDisk, tokenizer: PreTrainedTokenizerBase, settings: CompleteSettings, gguf_type: GgufType
) -> None:
    """Check that what these settings make of `model` can be written with matrices of the type `gguf_type`.

    The widths are not known yet. So the narrowest layers and, where widths may differ, the most different
    ones are tried.

    Raises InputError where one of these models could not be written.
    """
    shape = model.shape
    check_exportable(model.structure, shape, tokenizer, gguf_type)  # the parent itself
    method = method_of(settings.method)
    if method.whole_layers_only:
        return
    block_values, _ = gguf.GGML_QUANT_SIZES[TYPES[gguf_type]]
    if block_values > 1 and method.names_what_stays:
        raise InputError(
            expected=(
                f"a method whose widths are multiples of {block_values}, for a file of the type {gguf_type}"
            ),
            got=settings.method,
            hint="choose another, or prune into a folder",
        )
    groups = [count if settings.kv_groups is None else settings.kv_groups for count in shape.kv_groups]
    neurons = [min(settings.plan_request(shape).multiple, width) for width in shape.neurons]
    if settings.widths != "uniform" or not method.narrows_alike or not shape.uniform:
        neurons[0] = shape.neurons[0]
        if method.removes_groups:
            groups[0] = max(groups[0] - 1, 1)
    pruned_shape = shape.with_widths(neurons, groups)
    try:
        check_exportable(model.structure, pruned_shape, tokenizer, gguf_type)
    except InputError as error:
        hint = "prune into a folder"
        if not pruned_shape.uniform:
            way_out = "--preset stock gives one" if method.narrows_alike else "choose another method"
            hint = f"{way_out}; {PADDED_HINT}"
        raise InputError(expected=error.expected, got=error.got, hint=hint) from error


def check_gguf_target(
    out: str | Path, gguf_type: GgufType, needed_bytes: int, source: Path, *, overwrite: bool
) -> None:
    """Check that the file `out` can be written.

    Args:
        out: the file.
        gguf_type: the type of its matrices.
        needed_bytes: all that the run writes.
        source: the file or folder of the parent.
        overwrite: whether a file of that name may be replaced.

    Raises InputError where it cannot be written, and for the parent itself.
    """
    target = checked_new_gguf_file(out, gguf_type, overwrite)
    if target == resolve(source):
        raise InputError(expected="a file apart from the model", got=out, hint="choose another name")
    check_room(target.parent, needed_bytes, out)
