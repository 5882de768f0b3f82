"""A model in files, which is never in memory as a whole: a `Decoder` that reads its layers one by one.

A layer is read from its file each time it is asked for. Of the embedding only the rows that a text needs are
read, and of the head a piece at a time. So everything that walks from layer to layer runs on it as on a model
in memory: block influence, loss increase, FLAP, COMP itself. Shapes come from a meta model, a model without
numbers that transformers builds from the config.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from ...decoder.decoder import Decoder
from ...decoder.run import embed, head
from ...decoder.shape import Shape
from ...decoder.structure import backbone_of, layers_of
from ...decoder.tokens import check_below_vocabulary
from ...decoder.types import Device, Layer, Model
from ...decoder.weight_names import EMBEDDING, HEAD
from ..tensors import StoredTensors

TOKENS_OF_A_PIECE = 4096  # tokens of the vocabulary whose part of the head is in memory at once


class ModelOnDisk(Decoder):
    """A model folder, or a GGUF file, as a `Decoder`."""

    def __init__(self, meta_model: Model, files: StoredTensors) -> None:
        """Read the numbers of `meta_model` from `files`, in the dtype of `meta_model`."""
        self.meta_model = meta_model
        self.files = files
        self.shape = Shape.of(meta_model)
        self._norm = self._read_module(backbone_of(meta_model).norm, "model.norm.")
        self._head: nn.Linear | None = None  # see `_remembered_head`

    @property
    def structure(self) -> Model:
        return self.meta_model

    @property
    def config(self) -> PreTrainedConfig:
        return self.meta_model.config

    @property
    def dtype(self) -> torch.dtype:
        return self.meta_model.dtype

    def layer(self, index: int, device: Device) -> Layer:
        self._forget_head()  # which may be larger than a layer
        layer = self._read_module(layers_of(self.meta_model)[index], f"model.layers.{index}.")
        return layer.to(device)

    def embed(self, ids: Tensor) -> Tensor:
        check_below_vocabulary(ids, self.config.vocab_size)
        tokens, positions = ids.unique(return_inverse=True)
        rows = self.files.read(EMBEDDING, self.dtype, tokens)
        table = copy.copy(backbone_of(self.meta_model).embed_tokens)
        weight = nn.Parameter(rows, requires_grad=False)
        vars(table).update(_parameters={"weight": weight}, padding_idx=None)
        return embed(self.meta_model, positions, table)

    def norm(self, states: Tensor) -> Tensor:
        normed: Tensor = self._norm(states)
        return normed

    def logits(self, states: Tensor) -> Tensor:
        return head(self.meta_model, states, self._remembered_head())

    def head_pieces(self) -> Iterator[tuple[int, nn.Linear]]:
        return self._read_head(TOKENS_OF_A_PIECE)

    def _remembered_head(self) -> nn.Linear:
        """All of the head: read when it is first asked for, and then kept until `_forget_head`."""
        if self._head is None:
            ((_, self._head),) = self._read_head(self.config.vocab_size)
        return self._head

    def _forget_head(self) -> None:
        """Let the memory of the head go."""
        self._head = None

    def _read_head(self, size: int) -> Iterator[tuple[int, nn.Linear]]:
        """The head in pieces of `size` tokens, each as its first token and its linear."""
        output: Any = self.meta_model.lm_head
        tied = output.weight is backbone_of(self.meta_model).embed_tokens.weight
        name = EMBEDDING if tied else HEAD
        for rows in torch.arange(self.files.shapes[name][0]).split(size):
            weight = nn.Parameter(self.files.read(name, self.dtype, rows), requires_grad=False)
            piece = nn.Linear(weight.shape[1], len(weight), bias=False, device="meta")
            piece.weight = weight
            yield int(rows[0]), piece

    def _read_module(self, module: nn.Module, prefix: str) -> nn.Module:
        """A copy of a module of the meta model, with the numbers from the files."""
        shared = {id(self.config): self.config}  # the copy has the same config
        module = copy.deepcopy(module, shared)
        tensors = {name: self.files.read(prefix + name, self.dtype) for name in module.state_dict()}
        module.load_state_dict(tensors, assign=True)
        return module
