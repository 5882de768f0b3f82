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
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import InputError
from . import hashes
from .atomic import fsync
from .untrusted import ordinary, read_object, short

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
CODES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
FLOATS = ("F64", "F32", "BF16", "F16")  # what weights may be stored as
LARGEST = "5GB"  # of a file, as users of the Hub expect
PIECE = 16 << 20  # bytes read, written or hashed at a time
SMALL = (".json", ".jinja", ".model", ".txt")  # endings of what is not weights, and decides the result too
Range = tuple[str, int, int, str]
"""A part of a file and what is in it: name of the file, first byte, number of bytes, SHA-256."""


def weight_files(folder: Path) -> list[Path]:
    """The safetensors that hold the weights of a model folder: the ones that transformers would read.

    One `model.safetensors` goes before an index. Raises InputError: neither, a broken index, a shard that is not there
    or that the index looks for in another folder.
    """
    if (folder / SINGLE).exists() or (folder / SINGLE).is_symlink():
        return [ordinary(folder / SINGLE)]
    index = folder / INDEX
    if not index.exists():
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth"))
        got = f"{', '.join(pickles[:3]) or 'none'}; pickles can run code and are not read"
        advice = "save the model with save_pretrained first"
        raise InputError(f"expected weights as *.safetensors in {str(folder)!r}, got {got}: {advice}")
    content = read_object(index)
    shards = content.get("weight_map")
    if not isinstance(content.get("metadata"), dict) or not isinstance(shards, dict) or not shards:
        raise InputError(f"expected metadata and a weight_map in {index}, got others; fetch or save the model again")
    for name in shards.values():
        if not isinstance(name, str) or "/" in name or "\\" in name or not name.endswith(".safetensors"):
            raise InputError(f"expected names of *.safetensors beside {index}, got {short(name)}; save the model again")
    return [ordinary(folder / name) for name in sorted(set(shards.values()))]


class TensorFiles:
    """The tensors of a model folder, by name."""

    def __init__(self, folder: str | Path) -> None:
        """Raises InputError: no safetensors, one that is missing or cut off, a tensor twice or not of floats."""
        self.folder = Path(folder)
        self.files = weight_files(self.folder)
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
            return finite(name, file.get_tensor(name).to(dtype, copy=True), self.folder)

    @cached_property
    def spans(self) -> dict[str, tuple[int, int]]:
        """First byte of each tensor in its file, and bytes: the headers once more, for who reads layer by layer."""
        return {name: span for path in self.files for name, span in spans(path).items()}

    def ahead(self, prefix: str) -> None:
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
            yield finite(name, piece, self.folder)

    def fingerprint(self) -> str:
        """A short name for the content of the folder: weights, config and tokenizer, all of each."""
        small = [path for path in self.folder.iterdir() if path.suffix in SMALL and path.is_file()]
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
        advice = "fetch or save the model again (what lies in the cache is made anew once it is deleted)"
        raise InputError(f"expected finite weights, got {got}; {advice}")
    return tensor


def cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """`tensor` as `dtype`. Raises InputError that names it when that cannot hold one of its values."""
    result = tensor.to(dtype)
    low, high = torch.aminmax(result)
    if not (torch.isfinite(low) and torch.isfinite(high)):
        wanted, most = str(dtype).removeprefix("torch."), torch.finfo(dtype).max
        got = f"NaN or more than {most:g} in {name}: choose --save-dtype bfloat16 or float32"
        raise InputError(f"expected weights that {wanted} can hold, got {got}")
    return result


def as_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU, to read into or to write from.

    >>> as_bytes(torch.ones(2)).nbytes
    8
    """
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data


class Layout:
    """Where each tensor of a model will be on disk, known before any of its numbers is.

    One `model.safetensors` up to LARGEST bytes, else numbered shards of at most that size (unless one tensor is larger)
    and an index: just as `save_pretrained` would do it. So tensors can be written in any order, each straight to its
    place.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> None:
        """shapes: in the order of the file."""
        self.dtype = dtype
        self.sizes = {name: torch.Size(shape).numel() * dtype.itemsize for name, shape in shapes.items()}
        self.headers: dict[str, bytes] = {}  # file -> what stands before its numbers
        self.places: dict[str, tuple[str, int]] = {}  # tensor -> file, first byte behind what stands there
        self.lengths: dict[str, int] = {}  # file -> its bytes
        options: dict[str, Any] = {"filename_pattern": "model{suffix}.safetensors", "max_shard_size": LARGEST}
        shards = split_state_dict_into_shards_factory(self.sizes, get_storage_size=int, **options)
        for file, names in shards.filename_to_tensors.items():
            fields: dict[str, object] = {"__metadata__": {"format": "pt"}}
            end = 0
            for name in names:
                start, end = end, end + self.sizes[name]
                fields[name] = {"dtype": CODES[dtype], "shape": list(shapes[name]), "data_offsets": [start, end]}
                self.places[name] = file, start
            text = json.dumps(fields, separators=(",", ":")).encode()
            text += b" " * (-len(text) % 8)
            self.headers[file] = len(text).to_bytes(8, "little") + text
            self.lengths[file] = len(self.headers[file]) + end

    def create(self, folder: Path) -> list[Range]:
        """The files, with zeros for numbers, and the index where there is one. Returns where the headers are."""
        for file, header in self.headers.items():
            with (folder / file).open("wb") as stream:
                stream.write(header)
                stream.truncate(self.lengths[file])
            fsync(folder / file)
        if len(self.headers) > 1:
            places = {name: file for name, (file, _) in sorted(self.places.items())}
            index = {"metadata": {"total_size": sum(self.sizes.values())}, "weight_map": places}
            (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        return [(file, 0, len(header), hashes.of_bytes(header)) for file, header in self.headers.items()]

    def write(self, folder: Path, tensors: Mapping[str, Iterable[Tensor]]) -> list[Range]:
        """Write tensors, which come in pieces of whole rows, to their places; see `reach_disk`.

        Returns what was written where. A thread beside hashes one piece while it is written and the next one is cast.
        """
        written: list[Range] = []
        with ThreadPoolExecutor(1) as beside:
            for name, pieces in tensors.items():
                file, start = self.places[name]
                start += len(self.headers[file])
                digest = hashlib.sha256()
                with (folder / file).open("r+b") as stream:
                    stream.seek(start)
                    hashed = beside.submit(digest.update, b"")
                    for piece in pieces:
                        for part in piece.split(rows_in(PIECE, piece.shape, piece.dtype)):
                            block = as_bytes(cast(name, part.cpu(), self.dtype))
                            hashed.result()
                            hashed = beside.submit(digest.update, block)
                            stream.write(block)
                    hashed.result()
                    length = stream.tell() - start
                if length != self.sizes[name]:
                    raise ValueError(f"expected {self.sizes[name]} bytes of {name}, got {length}")
                written.append((file, start, length, digest.hexdigest()))
        return written


def reach_disk(folder: Path, written: Iterable[Range]) -> None:
    """Wait until what was written in files of `folder` is on the disk, which may take longer than writing it."""
    for file in sorted({file for file, *_ in written}):
        fsync(folder / file)
