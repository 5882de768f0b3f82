"""A decoder as the method reads it: its embedding, each layer by itself, and its head.

`ModelInMemory` is a model of transformers; `from_disk.model_on_disk.ModelOnDisk` reads a layer from its file
each time it is asked for. Whatever walks from layer to layer (`walk`, `comp.prune_layers`) takes both.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from .run import embed, head
from .structure import backbone_of, layers_of
from .types import Device, Layer, Model


class Decoder(ABC):
    """A model as the method needs it.

    d is the width of its residual stream. A subclass defines all that is here.
    """

    @property
    @abstractmethod
    def structure(self) -> Model:
        """The model's modules; those of a model on disk are on the device meta, without numbers."""

    @property
    @abstractmethod
    def config(self) -> PreTrainedConfig:
        """The fields of its config.json."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The dtype of its weights and hidden states."""

    @abstractmethod
    def layer(self, index: int, device: Device) -> Layer:
        """A copy of decoder layer `index` on `device`, on which surgery leaves the model as it is."""

    @abstractmethod
    def embed(self, ids: Tensor) -> Tensor:
        """Hidden states before the first layer: ids (S, L) -> (S, L, d)."""

    @abstractmethod
    def norm(self, states: Tensor) -> Tensor:
        """The norm after the last layer: (..., d) -> (..., d)."""

    @abstractmethod
    def logits(self, states: Tensor) -> Tensor:
        """The head, on states after the norm: (..., d) -> (..., vocabulary)."""

    @abstractmethod
    def head_pieces(self) -> Iterator[tuple[int, nn.Linear]]:
        """The pieces in which the head is read, each as its first token and its linear."""


class ModelInMemory(Decoder):
    """A model of transformers as a `Decoder`."""

    def __init__(self, model: Model, *, give_up_layers: bool = False) -> None:
        """Wrap `model`.

        give_up_layers: whether `layer` returns a copy that shares no tensor with the model. Then the memory
            of the model's own layer, perhaps a memory map of all of it, can be let go.
        """
        self.model = model
        self.give_up_layers = give_up_layers

    @property
    def structure(self) -> Model:
        return self.model

    @property
    def config(self) -> PreTrainedConfig:
        return self.model.config

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    def layer(self, index: int, device: Device) -> Layer:
        layer = copy_layer(layers_of(self.model)[index], device, share_tensors=not self.give_up_layers)
        return layer.eval()  # with dropout a layer would compute something else each time

    def embed(self, ids: Tensor) -> Tensor:
        return embed(self.model, ids)

    def norm(self, states: Tensor) -> Tensor:
        normed: Tensor = backbone_of(self.model).norm(states)
        return normed

    def logits(self, states: Tensor) -> Tensor:
        return head(self.model, states)

    def head_pieces(self) -> Iterator[tuple[int, nn.Linear]]:
        output: Any = self.model.get_output_embeddings()
        yield 0, output


def as_decoder(model: Model | Decoder) -> Decoder:
    """`model` as a `Decoder`, unless it is one already."""
    return model if isinstance(model, Decoder) else ModelInMemory(model)


def copy_layer(layer: Layer, device: Device, *, share_tensors: bool = True) -> Layer:
    """A copy of `layer` on `device`, on which surgery can be done.

    If the original is on that device already, the two share their tensors, unless `share_tensors` is False.
    Sharing is safe, because surgery replaces tensors and never writes to them.
    """
    tensors = [*layer.parameters(), *layer.buffers()]
    target = torch.empty(0, device=device).device  # "cuda" is "cuda:0"
    shared = dict[int, Any]()  # id -> object that the copy has in common with the original
    for module in layer.modules():
        if hasattr(module, "config"):  # all layers have the same one
            shared[id(module.config)] = module.config
    if share_tensors and all(tensor.device == target for tensor in tensors):
        shared |= {id(tensor): tensor for tensor in tensors}
    return copy.deepcopy(layer, shared).to(target)
