"""The rival of pruning: the whole model in fewer bits, judged on the same windows.

The matrices are rounded as a GGUF file of the type FEW_BITS would hold them. A file of the type MANY_BITS,
which costs next to nothing, is the size that both fewer bits and pruning start from.

A checkpoint that was in FEW_BITS before loses nothing by it once more, which says nothing about the cost of
4 bits. Its rows are turned by half a block first, so that each block holds two halves of what were two
blocks, of two scales: these numbers lie on no grid. (Our way out. Which columns share a block is arbitrary.)
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import gguf
from torch import Tensor

from ...checkpoints.gguf.write import TYPES, GgufType, as_stored, size_of_tensors, tensor_type
from ...decoder.types import Model
from ...utils.progress import Progress, no_progress, with_label
from .columns import load_or_compute
from .cost_frame import cache_key, compare_with_dense, rows_of

FEW_BITS: GgufType = "q4_1"
MANY_BITS: GgufType = "q8_0"
# Distance of the rounded weights from the weights, relative to these, below which the weights lay on the grid
# of FEW_BITS before: rounding to 16 numbers a block moves others by 5% to 10%.
ON_THE_GRID = 0.01


@dataclass(frozen=True)
class FewerBits:
    """The cost and the size of a whole model in the type FEW_BITS."""

    increase: float
    """Loss added on the mean of the kinds, nats per token."""
    low: float
    """Lower end of its 95% interval; NaN: there is none."""
    high: float
    """Upper end of the same interval."""
    megabytes: float
    """Size of the weights in the type FEW_BITS."""
    megabytes_before: float
    """Size of the weights in the type MANY_BITS."""
    moved: float
    """||rounded - weights|| / ||weights|| over all matrices of that type, before rows are turned."""

    @property
    def was_rounded(self) -> bool:
        """Whether the weights were in FEW_BITS before, so that the cost is that of turned rows."""
        return self.moved < ON_THE_GRID

    @property
    def equal_ratio(self) -> float:
        """Part of the decoder, 0 to 1, whose removal makes a file of MANY_BITS as small."""
        return 1 - _bytes_per_weight(FEW_BITS) / _bytes_per_weight(MANY_BITS)


def fewer_bits(
    model: Model, windows_by_text: Mapping[str, Tensor], progress: Progress = no_progress
) -> FewerBits | None:
    """Round the matrices of a copy of `model`, and judge it on the windows (S, L) of each kind; cached.

    It is None where the rows of a matrix are not complete blocks of the type. Memory: the model twice.
    """
    block_values, _ = gguf.GGML_QUANT_SIZES[TYPES[FEW_BITS]]
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    if any(len(shape) > 1 and shape[-1] % block_values for shape in shapes.values()):
        return None
    ids, window_shapes = cache_key(windows_by_text)

    def measure() -> dict[str, float]:
        rounded, moved = _round(model, progress)
        if moved < ON_THE_GRID:
            rounded, _ = _round(model, progress, turned_by=block_values // 2)
        judged = compare_with_dense(rounded, model, windows_by_text, with_label(FEW_BITS, progress))
        row = rows_of(judged)[-1]
        return {"moved": moved} | {name: row[name] for name in ("increase", "low", "high")}

    measured = load_or_compute("fewer-bits", model, ids, [FEW_BITS, window_shapes], measure)
    sizes = [size_of_tensors(shapes, kind) / 1e6 for kind in (FEW_BITS, MANY_BITS)]
    return FewerBits(**measured, megabytes=sizes[0], megabytes_before=sizes[1])


def _round(model: Model, progress: Progress, turned_by: int = 0) -> tuple[Model, float]:
    """A copy of the model with the numbers that a file of FEW_BITS holds, and how far they moved.

    turned_by: columns by which each row is turned before it is cut into blocks.
    """
    rounded = copy.deepcopy(model)
    parameters = list(rounded.named_parameters())
    squared_distance = 0.0
    squared_norm = 0.0
    for count, (name, weight) in enumerate(parameters, 1):
        turned = weight.data.roll(turned_by, -1)
        stored = as_stored(name, turned, FEW_BITS).roll(-turned_by, -1)
        if tensor_type(name, tuple(weight.shape), FEW_BITS) == TYPES[FEW_BITS]:
            squared_distance += float((stored - weight.data).double().square().sum())
            squared_norm += float(weight.data.double().square().sum())
        weight.data = stored
        progress(f"rounding to {FEW_BITS}", count, len(parameters))
    return rounded, (squared_distance / squared_norm) ** 0.5


def _bytes_per_weight(gguf_type: GgufType) -> float:
    """Bytes that a GGUF file takes for a weight of a matrix of that type."""
    block_values, block_bytes = gguf.GGML_QUANT_SIZES[TYPES[gguf_type]]
    return block_bytes / block_values
