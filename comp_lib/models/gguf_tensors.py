"""The tensors of a GGUF file under the names of transformers, one at a time: nothing is converted beforehand.

The same interface as `tensor_files.TensorFiles`. Blocks of a row are expanded to floats when they are read, and the
pages of the mapped file are given back at once. llama.cpp pairs the two halves of a rotary head in another order, so
the rows of q and k are put back as transformers has them.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy
import torch
from torch import Tensor
from transformers import PreTrainedConfig

from ..errors import InputError
from ..families import family_called
from ..system import hashes
from ..system.tensor_files import PIECE, finite
from .gguf_file import check_rope, metadata, open_gguf


class GgufTensors:
    """The tensors of the model in a GGUF file, by transformers' names for `names`."""

    def __init__(self, path: str | Path, config: PreTrainedConfig, names: list[str]) -> None:
        """Raises InputError: not complete, rope scaling, or a tensor that none of `names` (of all weights) means."""
        self.path, self.config = Path(path), config
        self.folder, self.files = self.path.parent, [self.path]
        self.reader = open_gguf(self.path)
        check_rope(self.reader, self.path.name)
        self.interleaved = family_called(config.model_type).gguf_interleaved
        architecture = metadata(self.reader, gguf.Keys.General.ARCHITECTURE)
        arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
        known = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
        there = {tensor.name: tensor for tensor in self.reader.tensors}
        stored = {name: known.get_name(name, try_suffixes=(".weight", ".bias")) for name in names}
        self.tensors = {name: there.pop(key) for name, key in stored.items() if key in there}
        if there:
            got = f"{len(there)} unexpected in {self.path.name} ({', '.join(sorted(there)[:3])})"
            raise InputError(
                f"expected the weights that its metadata describe, got {got}; use the same model as safetensors"
            )
        self.shapes = {name: tuple(map(int, reversed(t.shape))) for name, t in self.tensors.items()}

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """The tensor, in memory of its own. Raises InputError for a NaN or an infinity in it."""
        values = self._expand(name, slice(None), dtype)
        part = name.split(".")[-2]
        if part not in self.interleaved:
            return values
        heads = getattr(self.config, self.interleaved[part])
        pairs = values.reshape(heads, len(values) // heads // 2, 2, -1)
        return pairs.transpose(1, 2).reshape(values.shape)

    def rows(self, name: str, index: Tensor, dtype: torch.dtype) -> Tensor:
        """Rows of a matrix other than q and k: index (k,) -> (k, columns)."""
        return self._expand(name, index.numpy(), dtype)

    def pieces(self, name: str, dtype: torch.dtype) -> Iterator[Tensor]:
        """The tensor, no q or k, in pieces of whole rows."""
        shape = self.shapes[name]
        step = max(1, PIECE // (4 * torch.Size(shape[1:]).numel()))
        return (self._expand(name, slice(start, start + step), dtype) for start in range(0, shape[0], step))

    def fingerprint(self) -> str:
        """A short name for the content: the whole of it, for such files are small."""
        return str(hashes.of_file(self.path))[:16]

    def _expand(self, name: str, rows: Any, dtype: torch.dtype) -> Tensor:
        """Those rows (what numpy takes as an index) as plain numbers."""
        tensor = self.tensors[name]
        values = numpy.array(gguf.dequantize(tensor.data[rows], tensor.tensor_type), dtype=numpy.float32)
        mapped = getattr(self.reader.data, "_mmap", None)
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)  # pages that were read count as this process's until they are given back
        return finite(name, torch.from_numpy(values).to(dtype))
