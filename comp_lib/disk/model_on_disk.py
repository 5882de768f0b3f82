"""A model that is read layer by layer, and never there as a whole.

`Streamed` answers where a model in memory would: `config`, `model.layers`, `model.embed_tokens`, `model.rotary_emb`,
`model.norm`, `lm_head`. A layer is read from its file each time it is asked for, of the embedding only the rows that
the text needs; so all that walks from layer to layer (block influence, loss increase, FLAP, COMP itself) runs on it as
it stands. Shapes come from a skeleton without numbers, built by transformers from the config.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..calibration.stream import embed, rotary, sequence_losses, through
from ..families import family_of
from ..families.protocol import Layer, Model
from ..models.load import open_model
from ..models.skeleton import EMBEDDING, HEAD
from ..report import Progress, no_progress
from ..shape import Shape
from ..system.files import TensorFiles, as_bytes

if TYPE_CHECKING:
    from ..models.gguf_files import GgufTensors


class Streamed:
    """A model folder, or a GGUF file, as a model."""

    def __init__(self, outline: Model, files: TensorFiles | GgufTensors) -> None:
        """outline: a skeleton in the dtype that `files` are to be read as."""
        self.skeleton, self.files, self.config, self.dtype = outline, files, outline.config, outline.dtype
        self.shape = Shape.of(self.skeleton)
        self.tied = self.skeleton.lm_head.weight is self.skeleton.model.embed_tokens.weight
        self.head: nn.Linear | None = None
        self.model = SimpleNamespace(
            layers=_Layers(self),
            embed_tokens=_Embedding(self),
            rotary_emb=self.skeleton.model.rotary_emb,  # its numbers are in no file
            norm=self._load(self.skeleton.model.norm, "model.norm."),
        )

    @property
    def lm_head(self) -> nn.Linear:
        """Kept until a layer is asked for: it answers in parts, and may be as large as one."""
        if self.head is None:
            weight = self.files.read(EMBEDDING if self.tied else HEAD, self.dtype)
            self.head = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
            self.head.weight = nn.Parameter(weight, requires_grad=False)
        return self.head

    def _load(self, module: nn.Module, prefix: str) -> nn.Module:
        """A copy of a module of the skeleton, with the numbers from the files."""
        same = {id(config): config for config in (self.config, self.skeleton.config)}
        module = copy.deepcopy(module, same)
        tensors = {name: self.files.read(prefix + name, self.dtype) for name in module.state_dict()}
        module.load_state_dict(tensors, assign=True)
        return module


class _Layers:
    def __init__(self, owner: Streamed) -> None:
        self.owner = owner

    def __len__(self) -> int:
        return len(self.owner.skeleton.model.layers)

    def __iter__(self) -> Iterator[Layer]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Layer:
        self.owner.head = None
        return self.owner._load(self.owner.skeleton.model.layers[index], f"model.layers.{index}.")


class _Embedding:
    """Looks up tokens in the file."""

    weight = torch.empty(0)  # says where the result is

    def __init__(self, owner: Streamed) -> None:
        self.owner = owner

    def __call__(self, ids: Tensor) -> Tensor:
        different, places = ids.unique(return_inverse=True)
        return self.owner.files.read(EMBEDDING, self.owner.dtype, different)[places]


def open_streamed(name: str | Path, dtype: str = "float32") -> tuple[Streamed, Any]:
    """The model of that name to be read layer by layer, and its tokenizer. Raises InputError as `load_model` does."""
    outline, files, tokenizer = open_model(name, dtype)
    return Streamed(outline, files), tokenizer


@torch.no_grad()
def losses(
    model: Streamed, ids: Tensor, device: str = "cpu", progress: Progress = no_progress, what: str = "measuring"
) -> Tensor:
    """Mean next-token loss of each sequence, nats: ids (S, L) -> (S,). One layer at a time, the head in pieces."""
    hidden, family = embed(model, ids), family_of(model)
    rope, layers = rotary(model, ids.shape[1], device, hidden.dtype), family.layers(model)
    for index in range(len(layers)):
        hidden = through(layers[index].to(device), hidden, rope, device)
        progress(what, index + 1, len(layers))
    return sequence_losses(model, hidden, ids).double()


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
