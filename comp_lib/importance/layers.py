"""Layer importance: what the model loses with a whole layer.

There are two metrics:

* Block influence is 1 - the mean cosine between a layer's input and output. It is cheap: one pass. It takes a
  layer for unimportant if the layer turns the stream little. (This is the paper's coarse metric, also known
  from ShortGPT.)
* The loss increase is the rise of the calibration loss when the layer is left out: the harm itself. (Our
  addition.)

Prefixes are shared: to leave out layer l, only the layers after l are run again. So L layers cost about
L / 2 passes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..decoder import Decoder
from ..families.protocol import Device, Model
from ..progress import Progress, no_progress
from ..shape import Shape
from ..walk import batches, sequence_losses, walk


@torch.inference_mode()
def block_influence(
    model: Model | Decoder, ids: Tensor, device: Device = "cpu", progress: Progress = no_progress
) -> Tensor:
    """BI_l = 1 - mean_t cos(h_t, h'_t), (layers,), for ids (S, L): 0 where a layer only scales the stream."""
    layer_count = Shape.of(model).layers
    influence = []
    for visit in walk(model, ids, device):
        cosine_sum = 0.0  # over tokens
        for rows in batches(*ids.shape):
            before = visit.before[rows].float()
            after = visit.after[rows].float()
            cosine_sum += float(nn.functional.cosine_similarity(before, after, dim=-1).sum())
        influence.append(1.0 - cosine_sum / ids.numel())
        progress("block influence", visit.index + 1, layer_count)
    return torch.tensor(influence)


@torch.inference_mode()
def sequence_loss_increase(
    model: Model | Decoder, ids: Tensor, device: Device = "cpu", progress: Progress = no_progress
) -> Tensor:
    """Increase of each sequence's mean next-token loss when one layer is left out: (layers, S), nats.

    ids (S, L). The layers are on `device` one at a time, each once. Memory: the hidden states for each layer.
    """
    layer_count = Shape.of(model).layers
    hidden = torch.empty(0)
    without: list[Tensor] = []  # for each layer left out, the stream of the others so far
    for visit in walk(model, ids, device):
        without = [visit.through(stream) for stream in without]
        without.append(visit.before)
        hidden = visit.after
        progress("loss increase", visit.index + 1, layer_count)
    losses = torch.stack([sequence_losses(model, stream, ids) for stream in without])
    return (losses - sequence_losses(model, hidden, ids)).cpu()


def layers_to_drop(
    name: str,
    model: Model | Decoder,
    ids: Tensor,
    count: int,
    device: Device = "cpu",
    progress: Progress = no_progress,
) -> tuple[list[int], Tensor]:
    """The `count` least important layers on ids (S, L), and the importance of all (layers,).

    name: one of LAYER_METRICS.
    """
    if name == "block-influence":
        importance = block_influence(model, ids, device, progress)
    else:
        importance = sequence_loss_increase(model, ids, device, progress).mean(1)
    return torch.argsort(importance, stable=True)[:count].tolist(), importance
