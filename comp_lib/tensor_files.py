"""Tensors in files, one at a time: read without the rest, written without a second copy.

`TensorFiles` reads safetensors. Each tensor is mapped, copied and let go, so that what is resident is one tensor, never
a file. `write` makes a safetensors file from tensors that come in pieces, and returns when it has reached the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from .errors import InputError

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
CODES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
PIECE = 16 << 20  # bytes read, written or hashed at a time
SAMPLES = 16  # pieces of 64 kB of each file that enter the fingerprint


class TensorFiles:
    """The tensors of a model folder, by name."""

    def __init__(self, folder: str | Path) -> None:
        """Raises InputError when there are no safetensors, or one that the index names is not there."""
        self.folder = Path(folder)
        if (self.folder / INDEX).is_file():
            names = set(json.loads((self.folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
        else:
            names = {SINGLE}
        self.files = [self.folder / name for name in sorted(names)]
        self.where: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for path in self.files:
            if not path.is_file():
                raise InputError(f"expected {path.name} in {self.folder}, got none; fetch or save the model again")
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  not a dictionary
                    self.where[name], self.shapes[name] = path, tuple(file.get_slice(name).get_shape())

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """The tensor, in memory of its own. Raises InputError for a NaN or an infinity in it."""
        with safe_open(self.where[name], framework="pt") as file:
            tensor = file.get_tensor(name).to(dtype, copy=True)
        return finite(name, tensor)

    def rows(self, name: str, index: Tensor, dtype: torch.dtype) -> Tensor:
        """Rows of a matrix: index (k,) -> (k, columns)."""
        found = torch.empty(len(index), *self.shapes[name][1:], dtype=dtype)
        order = index.argsort()
        for part in order.split(max(1, PIECE // found[0].nbytes // 16)):  # the system maps 16 pages where one is read
            with safe_open(self.where[name], framework="pt") as file:
                found[part] = file.get_tensor(name)[index[part]].to(dtype)
        return finite(name, found)

    def pieces(self, name: str, dtype: torch.dtype) -> Iterator[Tensor]:
        """The tensor in pieces of whole rows."""
        shape = self.shapes[name]
        row = max(1, int(torch.Size(shape[1:]).numel()) * dtype.itemsize)
        step = max(1, PIECE // row)
        for start in range(0, shape[0], step):
            with safe_open(self.where[name], framework="pt") as file:
                piece = file.get_slice(name)[start : start + step].to(dtype, copy=True)
            yield finite(name, piece)

    def fingerprint(self) -> str:
        """A short name for the content: sizes, headers, and samples all over each file."""
        digest = hashlib.sha256()
        for path in self.files:
            size = path.stat().st_size
            digest.update(f"{path.name}{size}".encode())
            with path.open("rb") as file:
                for place in range(SAMPLES):
                    file.seek(place * max(0, size - (1 << 16)) // (SAMPLES - 1))
                    digest.update(file.read(1 << 16))
        return digest.hexdigest()[:16]


def names_in(path: Path) -> list[str]:
    """Of the tensors in a safetensors file."""
    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def finite(name: str, tensor: Tensor) -> Tensor:
    """`tensor`. Raises InputError that names it when there is a NaN or an infinity in it."""
    low, high = torch.aminmax(tensor)  # without a second tensor of this size
    if not (torch.isfinite(low) and torch.isfinite(high)):
        raise InputError(f"expected finite weights, got NaN or infinity in {name}; fetch or save the model again")
    return tensor


def as_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU, to read into or to write from."""
    return memoryview(tensor.contiguous().view(-1).view(torch.uint8).numpy())


def write(
    path: Path, tensors: Mapping[str, tuple[tuple[int, ...], Iterable[Tensor]]], dtype: torch.dtype
) -> str:
    """A safetensors file of `tensors`: name -> shape and pieces, each cast to `dtype`. Returns its SHA-256."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, (shape, _) in tensors.items():
        start, end = end, end + torch.Size(shape).numel() * dtype.itemsize
        header[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for block in (len(text).to_bytes(8, "little"), text):
            digest.update(block)
            file.write(block)
        for _, pieces in tensors.values():
            for piece in pieces:
                rows = max(1, PIECE * len(piece) // max(piece.nbytes, 1))
                for part in piece.split(rows):
                    block = as_bytes(part.to("cpu", dtype))
                    digest.update(block)
                    file.write(block)
        file.flush()
        os.fsync(file.fileno())
        if file.tell() != 8 + len(text) + end:
            raise ValueError(f"expected {end} bytes of tensors in {path}, got {file.tell() - 8 - len(text)}")
    return digest.hexdigest()


def sha256(path: Path) -> str | None:
    """Of a file; None where there is none."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file) -> str:
    digest = hashlib.sha256()  # before Python 3.11
    while block := file.read(PIECE):
        digest.update(block)
    return digest.hexdigest()
