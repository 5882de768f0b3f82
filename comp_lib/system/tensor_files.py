"""Tensors in safetensors, one at a time: each is mapped, copied and let go, so that one is in memory, never a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ..errors import InputError, refusing
from . import hashes

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
FLOATS = ("F64", "F32", "BF16", "F16")  # what weights may be stored as
ROWS = 256  # of a matrix that are read at once
SMALL = (".json", ".jinja", ".model", ".txt")  # endings of what is not weights, and decides the result too
AGAIN = "fetch or save it again"


def read_object(path: Path) -> dict[str, Any]:
    """What a JSON file says. Raises InputError unless it is an object in an ordinary file."""
    with refusing("a file with an object in JSON", str(path), AGAIN):
        if not path.is_file():  # a pipe would let the reader wait for ever
            raise ValueError("none")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__}")
        return content


def weight_files(folder: Path) -> list[Path]:
    """The safetensors that hold the weights of a model folder: the ones that transformers would read.

    One `model.safetensors` goes before an index. Raises InputError: neither, or an index that names anything but
    safetensors beside it.
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
    names = sorted(set(map(str, shards.values()))) if isinstance(shards, dict) else []
    for name in names or [""]:
        if Path(name).name != name or not name.endswith(".safetensors") or not (folder / name).is_file():
            expected = f"a weight_map in {index} that names *.safetensors beside it"
            raise InputError(f"expected {expected}, got {name[:100]!r}; fetch or save the model again")
    return [folder / name for name in names]


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
                for name in file.keys():  # noqa: SIM118  not a dictionary
                    part = file.get_slice(name)
                    if name in self.where or part.get_dtype() not in FLOATS:
                        got = f"{'a second one' if name in self.where else part.get_dtype()} in {path}; {AGAIN}"
                        raise InputError(f"expected {name} once and in {', '.join(FLOATS)}, got {got}")
                    self.where[name], self.shapes[name] = path, tuple(part.get_shape())

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """The tensor, in memory of its own. Raises InputError for a NaN or an infinity in it."""
        with _opened(self.where[name]) as file:
            return finite(name, file.get_tensor(name).to(dtype, copy=True), self.place)

    def rows(self, name: str, index: Tensor, dtype: torch.dtype) -> Tensor:
        """Rows of a matrix: index (k,) -> (k, columns)."""
        rows = torch.empty(len(index), *self.shapes[name][1:], dtype=dtype)
        for part in index.argsort().split(ROWS):
            with _opened(self.where[name]) as file:  # the system maps 16 pages where one is read
                rows[part] = file.get_tensor(name)[index[part]].to(dtype)
        return finite(name, rows)

    def fingerprint(self) -> str:
        """A short name for the content of the folder: weights, config and tokenizer, all of each."""
        small = [path for path in self.place.iterdir() if path.suffix in SMALL and path.is_file()]
        return hashes.of_value({path.name: hashes.of_file(path) for path in sorted({*self.files, *small})})[:16]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file, its header and the size that this gives checked. Raises InputError for one that is broken."""
    with refusing("complete safetensors", str(path), AGAIN), safe_open(path, framework="pt") as file:
        yield file


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
