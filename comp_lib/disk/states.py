"""Hidden states of a calibration set on disk instead of in memory.

16,384 calibration tokens of a 7B model are 268 MB, twice that with the dense model's stream beside it. `States` looks
like the tensor (S, L, d) that the walk reads and writes sequence by sequence, and keeps it in a file. It reads into
ordinary memory instead of mapping the file, since mapped pages count as this process's own; what the system keeps in
its file cache does not, and is given back when it is needed elsewhere.

Nothing is written twice: a step reads one file and writes the next, so that the files of the last finished layer are
still whole when the process dies.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from torch import Tensor

from ..system.tensor_files import as_bytes


class States:
    """Hidden states (S, L, d) in the file `path`: `states[rows]` reads, `states[rows] = values` writes."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.path, self.shape, self.dtype = path, tuple(shape), dtype

    @classmethod
    def create(cls, folder: Path, shape: tuple[int, ...], dtype: torch.dtype) -> States:
        """States of zeros in a new file of `folder`."""
        taken = (folder / f"states-{number}" for number in itertools.count())
        path = next(path for path in taken if not path.exists())
        with path.open("xb") as file:
            file.truncate(shape[0] * shape[1] * shape[2] * dtype.itemsize)
        return cls(path, shape, dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Tensor:
        start, stop, _ = rows.indices(len(self))
        values = torch.empty(stop - start, *self.shape[1:], dtype=self.dtype)
        with self.path.open("rb") as file:
            file.seek(self._offset(start))
            if file.readinto(as_bytes(values)) != values.nbytes:
                raise ValueError(f"expected {values.nbytes} bytes of hidden states, got an end of file in {self.path}")
        return values

    def __setitem__(self, rows: slice, values: Tensor) -> None:
        with self.path.open("r+b") as file:
            file.seek(self._offset(rows.indices(len(self))[0]))
            file.write(as_bytes(values.to("cpu", self.dtype)))

    def _offset(self, row: int) -> int:
        return row * self.shape[1] * self.shape[2] * self.dtype.itemsize
