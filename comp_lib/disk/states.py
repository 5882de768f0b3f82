"""Hidden states in a file, for texts that are wider than memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..system.hashes import as_bytes

PREFIX = "states-"  # of the names of such files


@dataclass(frozen=True)
class StatesFile:
    """Hidden states (S, L, d) in the file `path`: `states[rows]` reads, `states[rows] = values` writes."""

    path: Path
    shape: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def create(cls, folder: Path, shape: Sequence[int], dtype: torch.dtype) -> StatesFile:
        """States of zeros in a new file of `folder`."""
        names = (folder / f"{PREFIX}{number}" for number in itertools.count())
        path = next(path for path in names if not path.exists())
        with path.open("xb") as file:
            file.truncate(math.prod(shape) * dtype.itemsize)
        return cls(path, tuple(shape), dtype)

    def __getitem__(self, rows: slice) -> Tensor:
        start, stop, _ = rows.indices(self.shape[0])
        values = torch.empty(stop - start, *self.shape[1:], dtype=self.dtype)
        with self.path.open("rb") as file:
            file.seek(start * values[0].nbytes)
            if file.readinto(as_bytes(values)) != values.nbytes:
                raise ValueError(
                    f"expected {values.nbytes} bytes of hidden states, got an end of file in {self.path}"
                )
        return values

    def __setitem__(self, rows: slice, values: Tensor) -> None:
        values = values.to("cpu", self.dtype)
        start, _, _ = rows.indices(self.shape[0])
        with self.path.open("r+b") as file:
            file.seek(start * values[0].nbytes)
            file.write(as_bytes(values))
