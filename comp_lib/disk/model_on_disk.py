"""A model that is read layer by layer, and never there as a whole.

`Streamed` answers where a model in memory would: `config`, `model.layers`, `model.embed_tokens`, `model.norm`,
`lm_head`. A layer is read from its file each time it is asked for, and embedding and head are let go then; so all that
walks from layer to layer (block influence, loss increase, FLAP, COMP itself) runs on it as it stands. Shapes come from
a skeleton without numbers, built by transformers from the config.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from ..calibration.stream import embed, rotary, sequence_losses, through
from ..families import family_of
from ..families.protocol import Layer
from ..models.load import DTYPES, check_dtype, open_model, weights_of
from ..models.skeleton import EMBEDDING, HEAD, skeleton
from ..report import Progress, no_progress
from ..shape import Shape
from ..system.tensor_files import as_bytes


class Streamed:
    """A model folder, or a GGUF file, as a model."""

    def __init__(self, folder: str | Path, config: PreTrainedConfig, dtype: torch.dtype = torch.float32) -> None:
        """Raises InputError unless the files hold just the weights that the config describes."""
        self.config, self.dtype = config, dtype
        self.skeleton = skeleton(config, dtype)
        self.files = weights_of(Path(folder), self.skeleton)
        self.shape = Shape.of(self.skeleton)
        self.tied = self.skeleton.lm_head.weight is self.skeleton.model.embed_tokens.weight
        self.head: nn.Linear | None = None
        self.table: nn.Module | None = None
        self.model = _Backbone(self)

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


class _Backbone:
    def __init__(self, owner: Streamed) -> None:
        self.owner, self.layers = owner, _Layers(owner)
        self.norm = owner._load(owner.skeleton.model.norm, "model.norm.")

    @property
    def embed_tokens(self) -> nn.Module:
        """Kept until a layer is asked for, as the head is."""
        if self.owner.table is None:
            table = self.owner._load(self.owner.skeleton.model.embed_tokens, "model.embed_tokens.")
            self.owner.table = table.requires_grad_(False)
        return self.owner.table


class _Layers:
    def __init__(self, owner: Streamed) -> None:
        self.owner = owner

    def __len__(self) -> int:
        return len(self.owner.skeleton.model.layers)

    def __iter__(self) -> Iterator[Layer]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Layer:
        self.owner.head = self.owner.table = None
        return self.owner._load(self.owner.skeleton.model.layers[index], f"model.layers.{index}.")


def open_streamed(name: str | Path, dtype: str = "float32") -> tuple[Streamed, Any]:
    """The model of that name to be read layer by layer, and its tokenizer. Raises InputError as `load_model` does."""
    check_dtype(dtype)
    source, config, tokenizer = open_model(name)
    return Streamed(source, config, DTYPES[dtype]), tokenizer


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
