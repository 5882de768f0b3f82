"""K-quants: types of llama.cpp with blocks of 256 weights, made by its own quantiser, which xllamacpp brings.

A file of such a kind mixes types: more bits where errors cost most. What becomes which is llama.cpp's rule, in its
order (our reading of `llama-quantize`, and what the files of others have):

    the table that the head reads    q6_k
    attn_v and ffn_down              one step up in the first and the last eighth of the layers, and in a third of
                                     those between (`q4_k_m`, `q5_k_m`)
    everything else                  the type that gives the kind its name
    rows that 256 does not divide    a type with blocks of 32 instead, somewhat larger: q5_0, q5_1, q8_0

The last line lets a narrow *stream* pass, which pruning cannot choose. A number of *neurons* that 256 does not divide
is refused in `gguf_export`: there pruning has the choice.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from ..errors import InputError
from .llama_cpp import check_installed

KINDS = {"q4_k_m": Type.Q4_K, "q5_k_m": Type.Q5_K, "q6_k": Type.Q6_K}
UP = {"q4_k_m": Type.Q6_K, "q5_k_m": Type.Q6_K, "q6_k": Type.Q6_K}  # where errors cost most
FUSED = {"q4_k_m": Type.Q5_K, "q5_k_m": Type.Q6_K, "q6_k": Type.Q6_K}  # queries, keys and values in one matrix
INSTEAD = {Type.Q4_K: Type.Q5_0, Type.Q5_K: Type.Q5_1, Type.Q6_K: Type.Q8_0}  # for rows of other lengths
BLOCK, SMALL_BLOCK = 256, 32


def mixture(shapes: Mapping[str, tuple[int, ...]], kind: str) -> dict[str, Type]:
    """Type of each tensor of a GGUF file of that kind, one of KINDS: its name -> (rows, length of a row) -> type."""
    head = "output.weight" if "output.weight" in shapes else "token_embd.weight"
    alike = Counter(_part(name) for name in shapes)
    seen: Counter[str] = Counter()
    types = {}
    for name, shape in shapes.items():
        part = _part(name)
        if len(shape) == 1:
            types[name] = Type.F32
            continue
        wanted = KINDS[kind]
        if name == head:
            wanted = Type.Q6_K
        elif part == "attn_qkv":
            wanted = FUSED[kind]
        elif part in ("attn_v", "ffn_down"):
            wanted = UP[kind] if more_bits(seen[part], alike[part]) else wanted
        seen[part] += 1
        types[name] = wanted if shape[-1] % BLOCK == 0 else INSTEAD[wanted]
    return types


def others(file: Path) -> str:
    """How many matrices of a GGUF file of one of KINDS have a smaller block, by type; "" where all fit."""
    kinds = [tensor.tensor_type for tensor in gguf.GGUFReader(file).tensors]
    counts = Counter(kind for kind in kinds if kind in INSTEAD.values())
    return ", ".join(f"{count} {kind.name.lower()}" for kind, count in counts.items())


def _part(name: str) -> str:
    """Of "blk.3.ffn_down.weight" the "ffn_down"; the parts stand in the order of their layers."""
    return name.split(".")[2] if name.startswith("blk.") else name


def more_bits(place: int, count: int) -> bool:
    """Whether the matrix at this place, of `count` of its sort, is one where errors cost most.

    >>> [place for place in range(16) if more_bits(place, 16)]
    [0, 1, 4, 7, 10, 13, 14, 15]
    """
    eighth = count // 8
    return place < eighth or place >= 7 * count // 8 or (place - eighth) % 3 == 2


def quantised(rows: np.ndarray, kind: Type) -> np.ndarray:
    """float32 (rows, n) as the bytes that llama.cpp makes of them. Raises InputError as `check_quantiser` does."""
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    if kind == Type.F32:
        return rows
    block, size = gguf.GGML_QUANT_SIZES[kind]
    out = np.empty((len(rows), rows.shape[1] // block * size), np.uint8)
    pointers = rows.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p)
    written = _quantiser()(kind.value, *pointers, 0, len(rows), rows.shape[1], None)
    if written != out.nbytes:
        raise RuntimeError(f"expected {out.nbytes} bytes from llama.cpp's quantiser, got {written}")
    return out


def check_quantiser() -> None:
    """Raises InputError unless xllamacpp is there and shows its quantiser."""
    check_installed()
    _quantiser()


@cache
def _quantiser() -> Any:
    import xllamacpp

    library: Any = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
    try:
        function = library.ggml_quantize_chunk
    except AttributeError as error:
        todo = "export --type f16, and use llama.cpp's llama-quantize"
        raise InputError(f"expected an xllamacpp that shows its quantiser, got one that hides it: {todo}") from error
    function.restype = ctypes.c_size_t
    function.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,  # (rows, n) in float32
        ctypes.c_void_p,
        ctypes.c_int64,  # the first number
        ctypes.c_int64,  # rows
        ctypes.c_int64,  # n
        ctypes.c_void_p,  # importance of each input; here none
    ]
    return function
