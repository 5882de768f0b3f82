"""Where the loop of `comp` puts finished layers: the interface `Sink`, and `MemorySink`.

`from_disk.sink` has the one that writes to disk. `decoder` has the other end of the loop: where layers
come from.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from ..decoder.structure import layers_of
from ..decoder.types import Layer, Model
from .prune_layer import CarriedState, States
from .report import LayerReport


class Sink(ABC):
    """A place for finished layers, and for the hidden states between them.

    A subclass defines all that is here.
    """

    @abstractmethod
    def new_states(self, shape: Sequence[int], /, *, dtype: torch.dtype) -> States:
        """Room for hidden states, as `torch.empty` makes it."""

    @abstractmethod
    def resume(self) -> tuple[CarriedState | None, list[LayerReport | None]]:
        """The state after the layers that an earlier run finished, and the reports of those layers.

        Without such a run they are None and an empty list.
        """

    @abstractmethod
    def put(self, index: int, layer: Layer, report: LayerReport | None, carried: CarriedState) -> None:
        """Take layer `index` of the parent and the state after it.

        A layer without a report is dropped.
        """


class MemorySink(Sink):
    """A sink that puts finished layers into `model`, each where the parent's layer was."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def new_states(self, shape: Sequence[int], /, *, dtype: torch.dtype) -> States:
        return torch.empty(tuple(shape), dtype=dtype)

    def resume(self) -> tuple[CarriedState | None, list[LayerReport | None]]:
        return None, []

    def put(self, index: int, layer: Layer, report: LayerReport | None, carried: CarriedState) -> None:
        if report is not None:
            layers = layers_of(self.model)
            original = layers[index]
            layers[index] = layer.to(next(original.parameters()).device).train(original.training)
