"""A decoder as the method reads it: what stands before its layers, each layer by itself, and what stands
behind.

`InMemory` is a model of transformers; `disk.model_on_disk.OnDisk` reads a layer from its file each time it is
asked for. Whatever walks from layer to layer (`walk`, `comp.prune_layers`) takes both.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from .families.find import backbone_of, layers_of
from .families.protocol import Device, Layer, Model
from .families.run import embed, head


@runtime_checkable
class Decoder(Protocol):
    """What the method needs of a model: d is the width of its residual stream."""

    @property
    def structure(self) -> Model:
        """The modules of the model, with their numbers or without (on the device meta)."""

    @property
    def config(self) -> PreTrainedConfig:
        """The fields of its config.json."""

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights and hidden states."""

    def layer(self, index: int, device: Device) -> Layer:
        """Decoder layer `index` on `device`, to operate on: surgery on it leaves the model as it is."""

    def embed(self, ids: Tensor) -> Tensor:
        """Hidden states before the first layer: ids (S, L) -> (S, L, d)."""

    def norm(self, states: Tensor) -> Tensor:
        """The norm behind the last layer: (..., d) -> (..., d)."""

    def logits(self, states: Tensor) -> Tensor:
        """What the head says of states behind the norm: (..., d) -> (..., vocabulary)."""

    def head_pieces(self) -> Iterator[tuple[int, nn.Linear]]:
        """The head, in as many pieces as it is read in: the first token of each, and its linear."""


class InMemory(Decoder):
    """A model of transformers as a `Decoder`."""

    def __init__(self, model: Model, *, give_up_layers: bool = False) -> None:
        """give_up_layers: whether a layer that is asked for shares no tensor with the model, so that the
        memory of the model's own (perhaps a memory map of the whole layer) can be let go.
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
        return layer.eval()  # dropout would make of a layer another one each time

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
    """`model` as a `Decoder`; one that is a `Decoder` already is returned."""
    return model if isinstance(model, Decoder) else InMemory(model)


def copy_layer(layer: Layer, device: Device, *, share_tensors: bool = True) -> Layer:
    """A second `layer` on `device`, on which surgery can be done: the original stays as it is.

    Where it is on that device already the two share their tensors, since surgery replaces tensors and never
    writes; without `share_tensors` they do not.
    """
    tensors = [*layer.parameters(), *layer.buffers()]
    target = torch.empty(0, device=device).device  # "cuda" is "cuda:0"
    shared = dict[int, Any]()  # what the copy has in common with the original, by its id
    for module in layer.modules():
        if hasattr(module, "config"):  # one for all layers
            shared[id(module.config)] = module.config
    if share_tensors and all(tensor.device == target for tensor in tensors):
        shared |= {id(tensor): tensor for tensor in tensors}
    return copy.deepcopy(layer, shared).to(target)
