"""Tensors in safetensors, one at a time: each is mapped, copied and let go, so that one is in memory, never a file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import InputError
from . import hashes
from .untrusted import read_object, short

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
FLOATS = ("F64", "F32", "BF16", "F16")  # what weights may be stored as
PIECE = 16 << 20  # bytes read at a time
SMALL = (".json", ".jinja", ".model", ".txt")  # endings of what is not weights, and decides the result too


def weight_files(folder: Path) -> list[Path]:
    """The safetensors that hold the weights of a model folder: the ones that transformers would read.

    One `model.safetensors` goes before an index. Raises InputError: neither, a broken index, a shard that the index
    looks for in another folder.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    index = folder / INDEX
    if not index.exists():
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth"))
        got = f"{', '.join(pickles[:3]) or 'none'}; pickles can run code and are not read"
        advice = "save the model with save_pretrained first"
        raise InputError(f"expected weights as *.safetensors in {str(folder)!r}, got {got}: {advice}")
    shards = read_object(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise InputError(f"expected a weight_map in {index}, got {short(shards)}; fetch or save the model again")
    for name in shards.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise InputError(f"expected names of *.safetensors beside {index}, got {short(name)}; save the model again")
    files = [folder / name for name in sorted(set(shards.values()))]
    if missing := [file.name for file in files if not os.path.isfile(file)]:
        raise InputError(f"expected the files that {index} names, got no {missing[0]!r}; fetch or save the model again")
    return files


class TensorFiles:
    """The tensors of a model folder, by name."""

    def __init__(self, folder: str | Path) -> None:
        """Raises InputError: no safetensors, one that is missing or cut off, a tensor twice or not of floats."""
        self.place = Path(folder)
        self.files = weight_files(self.place)
        self.where: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for path in self.files:
            with _opened(path) as file:
                self._list(path, file)

    def _list(self, path: Path, file: Any) -> None:
        for name in file.keys():  # noqa: SIM118  not a dictionary
            part = file.get_slice(name)
            if name in self.where or part.get_dtype() not in FLOATS:
                got = f"a second one in {path.name}" if name in self.where else f"{part.get_dtype()} in {path.name}"
                raise InputError(f"expected {name} once and in {', '.join(FLOATS)}, got {got}; save the model again")
            self.where[name], self.shapes[name] = path, tuple(part.get_shape())

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """The tensor, in memory of its own. Raises InputError for a NaN or an infinity in it."""
        with _opened(self.where[name]) as file:
            return finite(name, file.get_tensor(name).to(dtype, copy=True), self.place)

    @cached_property
    def spans(self) -> dict[str, tuple[int, int]]:
        """First byte of each tensor in its file, and bytes: the headers once more, for who reads layer by layer."""
        return {name: span for path in self.files for name, span in spans(path).items()}

    def prefetch(self, prefix: str) -> None:
        """Those tensors will be read soon, see `read_ahead`."""
        for name in self.spans:
            if name.startswith(prefix):
                read_ahead(self.where[name], *self.spans[name])

    def rows(self, name: str, index: Tensor, dtype: torch.dtype) -> Tensor:
        """Rows of a matrix: index (k,) -> (k, columns)."""
        rows = torch.empty(len(index), *self.shapes[name][1:], dtype=dtype)
        for part in index.argsort().split(rows_in(PIECE // 16, self.shapes[name], dtype)):
            with _opened(self.where[name]) as file:  # the system maps 16 pages where one is read
                rows[part] = file.get_tensor(name)[index[part]].to(dtype)
        return finite(name, rows)

    def pieces(self, name: str, dtype: torch.dtype) -> Iterator[Tensor]:
        """The tensor in pieces of whole rows. Raises InputError for a NaN or an infinity in one."""
        step = rows_in(PIECE, self.shapes[name], dtype)
        for start in range(0, self.shapes[name][0], step):
            with _opened(self.where[name]) as file:
                piece = file.get_slice(name)[start : start + step].to(dtype, copy=True)
            yield finite(name, piece, self.place)

    def fingerprint(self) -> str:
        """A short name for the content of the folder: weights, config and tokenizer, all of each."""
        small = [path for path in self.place.iterdir() if path.suffix in SMALL and path.is_file()]
        return hashes.of_value({path.name: hashes.of_file(path) for path in sorted({*self.files, *small})})[:16]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file, its header and the size that this gives checked. Raises InputError for one that is broken."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise InputError(f"expected complete safetensors, got {path}: {error}; fetch or save it again") from error


def spans(path: Path) -> dict[str, tuple[int, int]]:
    """First byte and number of bytes of each tensor in a safetensors file that has been checked."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        fields = json.loads(stream.read(length))
    fields.pop("__metadata__", None)
    places = {name: field["data_offsets"] for name, field in fields.items()}
    return {name: (8 + length + start, end - start) for name, (start, end) in places.items()}


def read_ahead(path: Path, start: int, length: int) -> None:
    """Let the system fetch a part of a file from the disk while something else is computed.

    To its own memory, where it has room: none of it is this process's until it reads it.
    """
    if hasattr(os, "posix_fadvise"):  # not on macOS and Windows
        with path.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), start, length, os.POSIX_FADV_WILLNEED)


def rows_in(size: int, shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """How many rows of a tensor of this shape are `size` bytes: at least one."""
    return max(1, size // max(1, torch.Size(shape[1:]).numel() * dtype.itemsize))


def finite(name: str, tensor: Tensor, place: str | Path = "") -> Tensor:
    """`tensor`. Raises InputError that names it and its `place` when there is a NaN or an infinity in it."""
    low, high = torch.aminmax(tensor)  # without a second tensor of this size
    if not (torch.isfinite(low) and torch.isfinite(high)):
        got = f"NaN or infinity in {name}{f' of {place}' if place else ''}"
        raise InputError(f"expected finite weights, got {got}; fetch or save the model again")
    return tensor


def as_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU, to read into or to write from.

    >>> as_bytes(torch.ones(2)).nbytes
    8
    """
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data
