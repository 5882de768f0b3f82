"""Layer importance: what the model loses with a whole layer.

Two readings, from cheap to true:

* block influence, 1 - mean cosine between a layer's input and output: one pass, and a proxy (a layer that turns the
  stream little is taken for unimportant; the paper's coarse metric, also known from ShortGPT);
* loss increase: leave the layer out and measure the calibration loss (our addition: the harm itself).

Prefixes are shared: leaving out layer l needs the layers after l only, so that L layers cost about L / 2 passes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..calibration.stream import batches, embed, rotary, sequence_losses, through, to_device
from ..families import layers_of
from ..families.protocol import Device, Model
from ..progress import Progress, no_progress


@torch.inference_mode()
def block_influence(
    model: Model, ids: Tensor, device: Device = "cpu", progress: Progress = no_progress
) -> Tensor:
    """BI_l = 1 - mean_t cos(h_t, h'_t) for ids (S, L): (layers,), 0 for a layer that only scales the stream."""
    hidden = embed(model, ids)
    rope = rotary(model, ids.shape[1], device, hidden.dtype)
    influence = []
    layers = layers_of(model)
    for index in range(len(layers)):
        after = through(to_device(layers[index], device), hidden, rope, device)  # no name keeps the layer
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
    model: Model, ids: Tensor, device: Device = "cpu", progress: Progress = no_progress
) -> Tensor:
    """Increase of each sequence's mean next-token loss (nats) when one layer is left out: ids (S, L) -> (layers, S).

    The layers are on `device` one at a time, each once; memory: the hidden states of ids for each layer.
    """
    layers = layers_of(model)
    hidden = embed(model, ids)
    rope = rotary(model, ids.shape[1], device, hidden.dtype)
    without: list[Tensor] = []  # for each layer left out, the stream of the others so far
    for index in range(len(layers)):
        layer = to_device(layers[index], device)
        for place, stream in enumerate(without):
            without[place] = through(layer, stream, rope, device)
        without.append(hidden)
        hidden = through(layer, hidden, rope, device)
        del layer  # before the next one is read
        progress("loss increase", index + 1, len(layers))
    losses = torch.stack([sequence_losses(model, stream, ids) for stream in without])
    return (losses - sequence_losses(model, hidden, ids)).cpu()


def layers_to_drop(
    name: str, model: Model, ids: Tensor, count: int, device: Device = "cpu", progress: Progress = no_progress
) -> tuple[list[int], Tensor]:
    """The `count` least important layers by one of LAYER_METRICS, and what all are worth (layers,), on ids (S, L)."""
    if name == "block-influence":
        importance = block_influence(model, ids, device, progress)
    else:
        importance = sequence_loss_increase(model, ids, device, progress).mean(1)
    return torch.argsort(importance, stable=True)[:count].tolist(), importance
