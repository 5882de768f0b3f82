"""A model in files, which is never there as a whole: read layer by layer, written tensor by tensor.

`Streamed` answers where a model in memory would: `config`, `model.layers`, `model.norm`, `lm_head`. A layer is read
from its file each time it is asked for, of the embedding only the rows that a text needs, of the head a piece at a
time; so all that walks from layer to layer (block influence, loss increase, FLAP, COMP itself) runs on it as it stands.
Shapes come from a skeleton without numbers, built by transformers from the config.

A safetensors file is the length of its header (8 bytes), the header as JSON with the place of each tensor's bytes, and
the bytes. A plan says the shape of every tensor, so `lay_out` writes the header first, and each layer goes to its place
when it is done: in one file, or above LARGEST in numbered files with an index, as `save_pretrained` makes them.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from torch import Tensor, nn

from ..families.protocol import Layer, Model
from ..shape import Shape
from ..system.hashes import as_bytes
from ..system.tensors import EMBEDDING, HEAD, INDEX, LARGEST, TensorFiles

PIECE = 4096  # tokens of the vocabulary whose part of the head is in memory at once
STORED = {"torch.float64": "F64", "torch.float32": "F32", "torch.bfloat16": "BF16", "torch.float16": "F16"}


class Streamed:
    """A model folder, or a GGUF file, as a model."""

    def __init__(self, outline: Model, files: TensorFiles) -> None:
        """outline: a skeleton in the dtype that `files` are to be read as."""
        self.skeleton, self.files, self.config, self.dtype = outline, files, outline.config, outline.dtype
        self.shape = Shape.of(self.skeleton)
        self.tied = self.skeleton.lm_head.weight is self.skeleton.model.embed_tokens.weight
        self.head: nn.Linear | None = None
        self.model = SimpleNamespace(layers=self, norm=self._load(self.skeleton.model.norm, "model.norm."))

    def embedding(self, ids: Tensor) -> tuple[nn.Module, Tensor]:
        """The embedding of the tokens that are in `ids`, and where in it they are: as ids."""
        different, places = ids.unique(return_inverse=True)
        rows = nn.Parameter(self.files.read(EMBEDDING, self.dtype, different), requires_grad=False)
        table = copy.copy(self.skeleton.model.embed_tokens)
        vars(table).update(_parameters={"weight": rows}, padding_idx=None)
        return table, places

    def head_pieces(self, size: int = PIECE) -> Iterator[tuple[int, nn.Linear]]:
        """The head in pieces of so many tokens: the first token of each, and its linear."""
        name = EMBEDDING if self.tied else HEAD
        for rows in torch.arange(self.files.shapes[name][0]).split(size):
            weight = nn.Parameter(self.files.read(name, self.dtype, rows), requires_grad=False)
            piece = nn.Linear(weight.shape[1], len(weight), bias=False, device="meta")
            piece.weight = weight
            yield int(rows[0]), piece

    @property
    def lm_head(self) -> nn.Linear:
        """The whole of it, kept until a layer is asked for."""
        if self.head is None:
            ((_, self.head),) = self.head_pieces(self.config.vocab_size)
        return self.head

    def __len__(self) -> int:
        """Decoder layers."""
        return len(self.skeleton.model.layers)

    def __getitem__(self, index: int) -> Layer:
        """A decoder layer, with its numbers."""
        self.head = None
        return self._load(self.skeleton.model.layers[index], f"model.layers.{index}.")

    def _load(self, module: nn.Module, prefix: str) -> nn.Module:
        """A copy of a module of the skeleton, with the numbers from the files."""
        same = {id(config): config for config in (self.config, self.skeleton.config)}
        module = copy.deepcopy(module, same)
        tensors = {name: self.files.read(prefix + name, self.dtype) for name in module.state_dict()}
        module.load_state_dict(tensors, assign=True)
        return module


Places = dict[str, tuple[Path, int, int]]
"""Of each tensor its file, where its bytes begin there, and how many a row has."""


def lay_out(folder: Path, tensors: Mapping[str, Tensor]) -> Places:
    """Make files in `folder` for `tensors`, of which shapes and dtypes count; numbers that are in them stay."""
    places: Places = {}
    split = split_torch_state_dict_into_shards(dict(tensors), max_shard_size=LARGEST)
    for file, names in split.filename_to_tensors.items():
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        ends = [0]
        for name in names:
            ends.append(ends[-1] + tensors[name].nbytes)
            fields = {"dtype": STORED[str(tensors[name].dtype)], "shape": [*tensors[name].shape]}
            header[name] = fields | {"data_offsets": ends[-2:]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        path = folder / file
        with path.open("r+b" if path.exists() else "xb") as whole:
            whole.write(len(text).to_bytes(8, "little") + text)
            whole.truncate(8 + len(text) + ends[-1])
        for name, start in zip(names, ends, strict=False):
            places[name] = path, 8 + len(text) + start, tensors[name][0].nbytes
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": dict(sorted(split.tensor_to_filename.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    return places


def write(places: Places, name: str, rows: Tensor, first: int = 0) -> Path:
    """Put rows of a tensor where they belong, from row `first` on; returns the file: the disk may not have it yet."""
    path, start, row = places[name]
    with path.open("r+b") as file:
        file.seek(start + first * row)
        file.write(as_bytes(rows.cpu()))
    return path


@dataclass(frozen=True)
class States:
    """Hidden states (S, L, d) in the file `path`: `states[rows]` reads, `states[rows] = values` writes."""

    path: Path
    shape: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def create(cls, folder: Path, shape: tuple[int, ...], dtype: torch.dtype) -> States:
        """States of zeros in a new file of `folder`."""
        taken = (folder / f"states-{number}" for number in itertools.count())
        path = next(path for path in taken if not path.exists())
        with path.open("xb") as file:
            file.truncate(math.prod(shape) * dtype.itemsize)
        return cls(path, shape, dtype)

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
        with self.path.open("r+b") as file:
            file.seek(rows.indices(self.shape[0])[0] * values[0].nbytes)
            file.write(as_bytes(values))
