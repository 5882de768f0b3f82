"""Tensors of a model, read from its files one at a time.

`StoredTensors` is the interface for all formats. `TensorFiles` reads a model folder, whose tensors are in
safetensors, which hold numbers and no code; each tensor is mapped, copied and let go.
`checkpoints.gguf.read.GgufTensors` reads a GGUF file.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from ..utils.errors import InputError, refusing
from ..utils.files import SAVE_AGAIN_HINT, read_object
from ..utils.hashes import hash_of_file, hash_of_value
from ..utils.numbers import check_finite

INDEX_FILE = "model.safetensors.index.json"
SINGLE = "model.safetensors"
LARGEST_FILE_BYTES = 5_000_000_000  # the largest file of weights that users of the Hub expect
# endings of the files of a folder that hold no weights, and decide the result too
SMALL_FILE_ENDINGS = (".json", ".jinja", ".model", ".txt")
# name of a type in a safetensors file -> its dtype: weights may be stored as these
STORED_TYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
PICKLE_ENDINGS = (".bin", ".pt", ".pth")
COMPLETE_SAFETENSORS = "complete safetensors"
# the most rows of a matrix that are read at a time: pages of a file count as memory until the file is closed
ROWS_AT_A_TIME = 512


def stored_type(dtype: torch.dtype) -> str:
    """The name of `dtype` in a safetensors file, a key of STORED_TYPES."""
    names = {known_dtype: name for name, known_dtype in STORED_TYPES.items()}
    return names[dtype]


class StoredTensors(ABC):
    """The tensors of a model in its files, by transformers' names."""

    path: Path
    """The model folder, or the one file that holds the model."""
    files: list[Path]
    """The files that hold the tensors."""
    shapes: dict[str, tuple[int, ...]]
    """Name of a tensor -> its shape."""
    stored_types: dict[str, str]
    """Name of a tensor -> name of the type in which the file has its numbers, as "F32"."""

    @abstractmethod
    def read(self, name: str, dtype: torch.dtype, rows: Tensor | None = None) -> Tensor:
        """The tensor, or only `rows` (k,) of a matrix as (k, columns), in memory of its own.

        Raises InputError for a NaN or an infinity in it.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """A short name for the content of the model, which changes with the content."""

    def usual_type(self, names: Iterable[str]) -> str:
        """The stored type that most of the numbers in the tensors of these `names` have."""
        numbers = Counter[str]()
        for name in names:
            numbers[self.stored_types[name]] += math.prod(self.shapes[name])
        ((usual, _),) = numbers.most_common(1)
        return usual


class TensorFiles(StoredTensors):
    """The tensors of a model folder, whose stored types are keys of STORED_TYPES."""

    def __init__(self, folder: str | Path) -> None:
        """Open the files that transformers would: `model.safetensors`, else those that the index names.

        Raises InputError where neither is there, and for a file that is missing or cut off.
        """
        self.path = Path(folder)
        self.files = _weight_files(self.path)
        self.file_of: dict[str, Path] = {}
        self.stored_types = {}
        self.shapes = {}
        for path in self.files:
            self._add_header(path)

    def _add_header(self, path: Path) -> None:
        """Note the tensors of a file."""
        with (
            refusing(COMPLETE_SAFETENSORS, str(path), SAVE_AGAIN_HINT),
            safe_open(path, framework="pt") as file,
        ):
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  not a dictionary
            types = {name: part.get_dtype() for name, part in slices.items()}
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
        for name in slices:
            if types[name] not in STORED_TYPES:
                raise InputError(
                    expected=f"weights as {', '.join(STORED_TYPES)}",
                    got=f"{name} as {types[name]} in {str(path)!r}",
                    hint="choose the model in its original type, or save it in one of these",
                )
            if name in self.file_of:
                raise InputError(
                    expected=COMPLETE_SAFETENSORS, got=f"{str(path)!r}: {name} twice", hint=SAVE_AGAIN_HINT
                )
            self.file_of[name] = path
        self.stored_types |= types
        self.shapes |= shapes

    def read(self, name: str, dtype: torch.dtype, rows: Tensor | None = None) -> Tensor:
        """The tensor, or its `rows` (k,) as (k, columns), in memory of its own.

        Raises InputError for a NaN or an infinity in it.
        """
        if rows is not None and len(rows) > ROWS_AT_A_TIME:
            return torch.cat([self.read(name, dtype, part) for part in rows.split(ROWS_AT_A_TIME)])
        path = self.file_of[name]
        with (
            refusing(COMPLETE_SAFETENSORS, str(path), SAVE_AGAIN_HINT),
            safe_open(path, framework="pt") as file,
        ):
            stored = file.get_tensor(name)
            tensor: Tensor
            if rows is None:
                tensor = stored.to(dtype, copy=True)
            else:
                tensor = stored[rows].to(dtype)
        check_finite(name, tensor)
        return tensor

    def fingerprint(self) -> str:
        """A short name for the content of the folder: weights, config and tokenizer, all of each."""
        small_files = [
            path for path in self.path.iterdir() if path.suffix in SMALL_FILE_ENDINGS and path.is_file()
        ]
        paths = sorted({*self.files, *small_files})
        return hash_of_value({path.name: hash_of_file(path) for path in paths})[:16]


def _weight_files(folder: Path) -> list[Path]:
    """`model.safetensors`, else the files that the index names."""
    single = folder / SINGLE
    index = folder / INDEX_FILE
    if single.is_file():
        return [single]
    if index.exists():
        return _files_of_index(index)
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_ENDINGS)
    names_of_pickles = ", ".join(pickles[:3]) or "none"
    raise InputError(
        expected=f"weights as *.safetensors in {str(folder)!r}",
        got=f"{names_of_pickles}; pickles can run code and are not read",
        hint="save the model with save_pretrained first",
    )


def _files_of_index(index: Path) -> list[Path]:
    """The files that the weight_map of an index names.

    Raises InputError unless they all lie beside it.
    """
    expected = "a weight_map that names files"
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise InputError(expected=expected, got=f"none in {str(index)!r}", hint=SAVE_AGAIN_HINT)
    folder = index.parent
    names = {str(name) for name in weight_map.values()}
    with refusing(expected, str(index), SAVE_AGAIN_HINT):  # a name can be longer than the system takes
        beside = all(Path(name).name == name and (folder / name).is_file() for name in names)
    if not beside:
        raise InputError(
            expected=expected,
            got=f"names in {str(index)!r} of something else than files beside it",
            hint=SAVE_AGAIN_HINT,
        )
    return sorted(folder / name for name in names)
