"""Layer importance: what the model loses with a whole layer, or with its attention or MLP alone.

Three readings, from cheap to true:

* block influence, 1 - mean cosine between a layer's input and output: one pass, and a proxy (a layer that turns the
  stream little is taken for unimportant; the paper's coarse metric, also known from ShortGPT);
* loss increase: leave the layer out and measure the calibration loss (our addition: the harm itself);
* greedy: the loss increase again after each removal, since layers stand in for one another.

Prefixes are shared: leaving out layer l needs the layers after l only, so that L layers cost about L / 2 passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..calibration.stream import batches, embed, rotary, sequence_losses, through, to_device
from ..families import family_of
from ..families.protocol import Device, Model
from ..progress import Progress, no_progress

LAYER_METRICS = ("block-influence", "loss", "greedy")


@torch.inference_mode()
def block_influence(model: Model, ids: Tensor, device: Device = "cpu", progress: Progress = no_progress) -> Tensor:
    """BI_l = 1 - mean_t cos(h_t, h'_t) for ids (S, L): (layers,), 0 for a layer that only scales the stream."""
    hidden = embed(model, ids)
    rope = rotary(model, ids.shape[1], device, hidden.dtype)
    influence = []
    layers = family_of(model).layers(model)
    for index, layer in enumerate(layers):
        after = through(to_device(layer, device), hidden, rope, device)
        cosine = sum(
            float(nn.functional.cosine_similarity(hidden[rows].float(), after[rows].float(), dim=-1).sum())
            for rows in batches(*ids.shape)
        )
        influence.append(1.0 - cosine / ids.numel())
        hidden = after
        progress("block influence", index + 1, len(layers))
    return torch.tensor(influence)


@torch.inference_mode()
def sequence_loss_increase(
    model: Model, ids: Tensor, device: Device = "cpu", progress: Progress = no_progress, present: Sequence[int] = ()
) -> Tensor:
    """Increase of each sequence's mean next-token loss (nats) when one layer is left out: ids (S, L) -> (layers, S).

    With `present`, the other layers are taken as gone already; their entries are NaN.
    The layers are on `device` one at a time, each once; memory: the hidden states of ids for each layer.
    """
    layers = family_of(model).layers(model)
    present = present or range(len(layers))
    hidden = embed(model, ids)
    rope = rotary(model, ids.shape[1], device, hidden.dtype)
    without: dict[int, Tensor] = {}  # layer left out -> the stream of the others so far
    for place, index in enumerate(present):
        layer = to_device(layers[index], device)
        without = {other: through(layer, stream, rope, device) for other, stream in without.items()}
        without[index] = hidden
        hidden = through(layer, hidden, rope, device)
        progress("loss increase", place + 1, len(present))
    losses = torch.full((len(layers), len(ids)), torch.nan)
    for index, stream in without.items():
        losses[index] = sequence_losses(model, stream, ids)
    return losses - sequence_losses(model, hidden, ids).to(losses)


def loss_increase(
    model: Model, ids: Tensor, device: Device = "cpu", progress: Progress = no_progress, present: Sequence[int] = ()
) -> Tensor:
    """`sequence_loss_increase`, mean over the sequences: (layers,), nats per token."""
    return sequence_loss_increase(model, ids, device, progress, present).mean(1)


def greedy_order(loss: Callable[[Sequence[int]], Tensor], layers: int, count: int) -> list[int]:
    """The `count` layers to drop, in order, each the least harmful once those before are gone.

    loss(present): increase of the loss without each of the layers `present`, (layers,); what it says of others is void.
    """
    present, dropped = list(range(layers)), list[int]()
    for _ in range(count):
        dropped.append(min(present, key=loss(tuple(present)).tolist().__getitem__))
        present.remove(dropped[-1])
    return dropped


def layers_to_drop(
    name: str, model: Model, ids: Tensor, count: int, device: Device = "cpu", progress: Progress = no_progress
) -> tuple[list[int], Tensor]:
    """The `count` least important layers by one of LAYER_METRICS, and what all are worth (layers,), on ids (S, L)."""
    if name == "block-influence":
        importance = block_influence(model, ids, device, progress)
    else:
        importance = sequence_loss_increase(model, ids, device, progress).mean(1)
    if name == "greedy":
        layers = len(family_of(model).layers(model))

        def harm(present: Sequence[int]) -> Tensor:
            return importance if len(present) == layers else loss_increase(model, ids, device, progress, present)

        return greedy_order(harm, layers, count), importance
    return torch.argsort(importance, stable=True)[:count].tolist(), importance
