"""Tensors in files, one at a time: read without the rest, written without a second copy.

`TensorFiles` reads safetensors. Each tensor is mapped, copied and let go, so that what is resident is one tensor, never
a file. `Layout` knows where each tensor of a new model will be before there is any, so that they can be written one by
one, in pieces.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from ..errors import InputError
from . import hashes

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
CODES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
LARGEST = 5e9  # bytes of a file, as users of the Hub expect
PIECE = 16 << 20  # bytes read, written or hashed at a time
SAMPLES = 16  # pieces of 64 kB of each file that enter the fingerprint


class Range(NamedTuple):
    """A part of a file, and what is in it."""

    file: str
    start: int
    length: int
    sha256: str


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


def finite(name: str, tensor: Tensor) -> Tensor:
    """`tensor`. Raises InputError that names it when there is a NaN or an infinity in it."""
    low, high = torch.aminmax(tensor)  # without a second tensor of this size
    if not (torch.isfinite(low) and torch.isfinite(high)):
        raise InputError(f"expected finite weights, got NaN or infinity in {name}; fetch or save the model again")
    return tensor


def as_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU, to read into or to write from."""
    return memoryview(tensor.contiguous().view(-1).view(torch.uint8).numpy())


class Layout:
    """Where each tensor of a model will be on disk, known before any of its numbers is.

    One `model.safetensors` up to `largest` bytes, else numbered shards of at most that size (unless one tensor is
    larger) and an index. So tensors can be written in any order, each straight to its place.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, largest: float = LARGEST) -> None:
        """shapes: in the order of the file."""
        self.dtype, self.sizes = dtype, {name: torch.Size(s).numel() * dtype.itemsize for name, s in shapes.items()}
        shards: list[dict[str, tuple[int, ...]]] = [{}]
        used = 0
        for name, shape in shapes.items():
            if shards[-1] and used + self.sizes[name] > largest:
                shards.append({})
                used = 0
            shards[-1][name] = shape
            used += self.sizes[name]
        count = len(shards)
        self.headers: dict[str, bytes] = {}  # file -> what stands before its numbers
        self.places: dict[str, tuple[str, int]] = {}  # tensor -> file, first byte
        for number, shard in enumerate(shards, 1):
            file = SINGLE if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"
            self.headers[file] = self._header(shard)
            start = len(self.headers[file])
            for name in shard:
                self.places[name] = file, start
                start += self.sizes[name]

    def _header(self, shard: Mapping[str, tuple[int, ...]]) -> bytes:
        fields: dict[str, object] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, shape in shard.items():
            start, end = end, end + self.sizes[name]
            fields[name] = {"dtype": CODES[self.dtype], "shape": list(shape), "data_offsets": [start, end]}
        text = json.dumps(fields, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    def file_sizes(self) -> dict[str, int]:
        """Bytes of each file."""
        sizes = {file: len(header) for file, header in self.headers.items()}
        for name, (file, _) in self.places.items():
            sizes[file] += self.sizes[name]
        return sizes

    def create(self, folder: Path) -> list[Range]:
        """The files, with zeros for numbers, and the index where there is one. Returns where the headers are."""
        for file, size in self.file_sizes().items():
            with (folder / file).open("wb") as stream:
                stream.write(self.headers[file])
                stream.truncate(size)
                _sync(stream)
        if len(self.headers) > 1:
            index = {
                "metadata": {"total_size": sum(self.sizes.values())},
                "weight_map": {name: file for name, (file, _) in sorted(self.places.items())},
            }
            (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        return [Range(file, 0, len(header), hashes.of_bytes(header)) for file, header in self.headers.items()]

    def write(self, folder: Path, tensors: Mapping[str, Iterable[Tensor]]) -> list[Range]:
        """Write tensors, which come in pieces of whole rows, to their places, and let them reach the disk.

        Returns what was written where.
        """
        written = []
        for name, pieces in tensors.items():
            file, start = self.places[name]
            digest = hashlib.sha256()
            with (folder / file).open("r+b") as stream:
                stream.seek(start)
                for piece in pieces:
                    rows = max(1, PIECE * len(piece) // max(piece.nbytes, 1))
                    for part in piece.split(rows):
                        block = as_bytes(part.to("cpu", self.dtype))
                        digest.update(block)
                        stream.write(block)
                if stream.tell() - start != self.sizes[name]:
                    raise ValueError(f"expected {self.sizes[name]} bytes of {name}, got {stream.tell() - start}")
                _sync(stream)
            written.append(Range(file, start, self.sizes[name], digest.hexdigest()))
        return written


def _sync(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())
