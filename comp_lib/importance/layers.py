"""Layer importance: the worth of a whole layer to the model.

There are two metrics, which LAYER_METRICS has by name:

* Block influence is 1 - the mean cosine between a layer's input and output. It is cheap: one pass. It takes a
  layer for unimportant if the layer turns the stream little. (This is the paper's coarse metric, also known
  from ShortGPT.)
* The loss increase is the rise of the calibration loss when the layer is left out: the harm itself. (Our
  addition.)

Prefixes are shared: to leave out layer l, only the layers after l are run again. So L layers cost about
L / 2 passes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..decoder.decoder import Decoder
from ..decoder.shape import Shape
from ..decoder.types import Device, Model
from ..decoder.walk import batches, sequence_losses, walk
from ..utils.progress import Progress, no_progress


def cosine_distance(states: Tensor, other_states: Tensor) -> Tensor:
    """1 - mean cosine between two streams (S, L, d), for each sequence (S,), float64."""
    cosines = nn.functional.cosine_similarity(states.float(), other_states.float(), dim=-1)
    return 1.0 - cosines.mean(1).double()


@torch.inference_mode()
def block_influence(
    model: Model | Decoder, ids: Tensor, device: Device = "cpu", progress: Progress = no_progress
) -> Tensor:
    """BI_l = 1 - mean_t cos(h_t, h'_t), (layers,), for ids (S, L): 0 where a layer only scales the stream."""
    layer_count = Shape.of(model).layer_count
    influence = []
    for visit in walk(model, ids, device):
        distance_sum = 0.0  # over sequences
        for rows in batches(*ids.shape):
            distance_sum += float(cosine_distance(visit.before[rows], visit.after[rows]).sum())
        influence.append(distance_sum / len(ids))
        progress("block influence", visit.index + 1, layer_count)
    return torch.tensor(influence)


@torch.inference_mode()
def sequence_loss_increase(
    model: Model | Decoder, ids: Tensor, device: Device = "cpu", progress: Progress = no_progress
) -> Tensor:
    """Increase of each sequence's mean next-token loss when one layer is left out: (layers, S), nats.

    ids (S, L). The layers are on `device` one at a time, each once. Memory: the hidden states for each layer.
    """
    layer_count = Shape.of(model).layer_count
    hidden = torch.empty(0)
    without: list[Tensor] = []  # for each layer left out, the stream of the others so far
    for visit in walk(model, ids, device):
        without = [visit.send_through(stream) for stream in without]
        without.append(visit.before)
        hidden = visit.after
        progress("loss increase", visit.index + 1, layer_count)
    losses = []
    for stream in without:
        losses.append(sequence_losses(model, stream, ids))
        progress("loss without a layer", len(losses), layer_count)
    return (torch.stack(losses) - sequence_losses(model, hidden, ids)).cpu()


def loss_increase(
    model: Model | Decoder, ids: Tensor, device: Device = "cpu", progress: Progress = no_progress
) -> Tensor:
    """Increase of the mean next-token loss when one layer is left out, (layers,), nats, for ids (S, L)."""
    return sequence_loss_increase(model, ids, device, progress).mean(1)


LayerMetric = Callable[[Model | Decoder, Tensor, Device, Progress], Tensor]
"""A function that computes the importance of each layer (layers,)."""

LAYER_METRICS: dict[str, LayerMetric] = {"block-influence": block_influence, "loss": loss_increase}
"""All metrics of layers by name, for `Settings.layer_metric`. LAYER_METRIC_NAMES has their names."""


def layers_to_drop(
    name: str,
    model: Model | Decoder,
    ids: Tensor,
    count: int,
    device: Device = "cpu",
    progress: Progress = no_progress,
) -> tuple[list[int], Tensor]:
    """The `count` least important layers on ids (S, L), and the importance of all (layers,).

    name: a key of LAYER_METRICS.
    """
    importance = LAYER_METRICS[name](model, ids, device, progress)
    return torch.argsort(importance, stable=True)[:count].tolist(), importance
