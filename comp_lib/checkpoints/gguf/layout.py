"""Which tensors a GGUF file has for a model, and which rows of which tensors of the model each of them is.

A tensor of the file is one or more pieces of tensors of the model, one below the other. Most are one piece: a
whole tensor under another name. An architecture of another family (see `architectures`) wants a matrix cut,
joined, or multiplied by a number. Each step can be undone, so `read` takes the model from the same pieces.

*Rotary positions.* transformers turns the pairs (x_i, x_{i + d/2}) of a head of size d, some architectures of
llama.cpp the neighbours (x_2i, x_{2i+1}). Attention only sees dot products of queries and keys, which do not
change when both are reordered alike; so the rows of q_proj and k_proj, and their biases, are interleaved head
by head:

    row 2i of the file = row i of the model,     row 2i + 1 of the file = row i + d/2 of the model.
"""

from __future__ import annotations

from dataclasses import dataclass

import gguf
import numpy as np

from ...decoder.shape import Shape
from ...decoder.types import Model
from ...decoder.weight_names import EMBEDDING, HEAD, weight_shapes
from .architectures import OUTPUT_HEAD, QUERIES, Architecture


@dataclass(frozen=True)
class Piece:
    """Rows of a tensor of the model, as a tensor of the file has them."""

    source: str
    """Name of the tensor in the model."""
    start: int
    """The first of its rows."""
    rows: int
    """How many rows it is."""
    head_dim: int | None = None
    """Size of the heads whose rows are interleaved; None: no row is."""
    shift: float = 0.0
    """Number that is added to each weight."""
    factor: float = 1.0
    """Number that each weight is multiplied by, after that."""

    def to_file(self, values: np.ndarray) -> np.ndarray:
        """The numbers (rows, ...) of the model, as the file has them."""
        if self.shift != 0 or self.factor != 1:
            values = (values + np.float32(self.shift)) * np.float32(self.factor)
        return values if self.head_dim is None else interleave(values, self.head_dim)

    def from_file(self, values: np.ndarray) -> np.ndarray:
        """The numbers (rows, ...) of the file, as the model has them: the inverse of `to_file`."""
        if self.head_dim is not None:
            values = separate_halves(values, self.head_dim)
        if self.shift != 0 or self.factor != 1:
            values = values / np.float32(self.factor) - np.float32(self.shift)
        return values


@dataclass(frozen=True)
class Layout:
    """A tensor of the file."""

    shape: tuple[int, ...]
    """Its sizes in the order of torch."""
    pieces: tuple[Piece, ...]
    """The rows of the model that it consists of, the upper ones first."""


def layouts_of(meta_model: Model, architecture: Architecture) -> dict[str, Layout]:
    """All tensors of a file of `meta_model` in an architecture of llama.cpp, by their names in the file."""
    shape = Shape.of(meta_model)
    sizes = weight_shapes(meta_model)
    factors = architecture.factors(meta_model.config)
    whole_of = {part: whole for whole, parts in architecture.joined.items() for part in parts}
    pieces_of: dict[str, list[Piece]] = {}  # tensor of the file, as transformers would call it -> its pieces
    for source, size in sizes.items():
        module, _, suffix = source.rpartition(".")
        path, dot, name = module.rpartition(".")
        start = 0
        for part, rows in _cut(name, size[0], architecture, shape).items():
            piece = Piece(
                source,
                start,
                rows,
                head_dim=shape.head_dim if part in architecture.interleaved else None,
                shift=architecture.norm_shift if part.endswith("norm") else 0.0,
                factor=factors.get(part, 1.0),
            )
            target = f"{path}{dot}{whole_of.get(part, part)}.{suffix}"
            pieces_of.setdefault(target, []).append(piece)
            start += rows
    if HEAD not in sizes and OUTPUT_HEAD in factors:  # tied in the model, another table in the file
        pieces_of[HEAD] = [Piece(EMBEDDING, 0, sizes[EMBEDDING][0], factor=factors[OUTPUT_HEAD])]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.name.upper()], shape.layer_count)
    layouts = {}
    for target, pieces in pieces_of.items():
        module, _, suffix = target.rpartition(".")
        rows = sum(piece.rows for piece in pieces)
        layouts[f"{names[module]}.{suffix}"] = Layout((rows, *sizes[pieces[0].source][1:]), tuple(pieces))
    return layouts


def _cut(name: str, rows: int, architecture: Architecture, shape: Shape) -> dict[str, int]:
    """The matrices of the file that the matrix `name` of the model is cut into -> their numbers of rows."""
    if name not in architecture.cut:
        return {name: rows}
    parts = architecture.cut[name]
    shares = [shape.group_heads if part == QUERIES else 1 for part in parts]  # all others are equally large
    return {part: rows * share // sum(shares) for part, share in zip(parts, shares, strict=True)}


def interleave(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows (h d, ...) of all heads of size d = `head_dim` from transformers' order to llama.cpp's.

    Row i of the first half of a head and row i of the second half become neighbours.
    """
    halves = rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def separate_halves(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows (h d, ...) of all heads from llama.cpp's order to transformers': the inverse of `interleave`."""
    pairs = rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)
