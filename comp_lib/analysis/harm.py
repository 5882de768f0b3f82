"""What the model loses without a part of a layer: only its attention, only its MLP, or all of it.

`importance.layers` leaves out whole layers; here one residual step goes and the other stays. Prefixes are shared as
there. Everything is measured window by window, so that an interval can be given.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..calibration.stream import Step, attention_step, batches, embed, mlp_step, rotary, sequence_losses, to_device
from ..calibration.stream import through as through_layer
from ..families import family_of
from ..families.protocol import Device, Model, Rope, Which
from ..importance.layers import greedy_order, sequence_loss_increase
from ..report import Progress, no_progress
from ..system import hashes
from .sample import Sample
from .store import entry, fingerprint, remembered


def layer_harm(
    model: Model, sample: Sample, present: Sequence[int] = (), device: Device = "cpu", progress: Progress = no_progress
) -> Tensor:
    """`importance.layers.sequence_loss_increase`, from the cache where it is there: (layers, S), nats per token."""
    present = () if len(present) == len(family_of(model).layers(model)) else present
    path = entry("harm", "harm", fingerprint(model), hashes.of_tensor(sample.ids), list(present))

    def harm() -> dict[str, Tensor]:
        return {"harm": sequence_loss_increase(model, sample.ids, device, progress, present)}

    return remembered(path, harm)["harm"]


def step_harm(
    model: Model, sample: Sample, which: Which, device: Device = "cpu", progress: Progress = no_progress
) -> Tensor:
    """Increase of each window's loss without one step of each layer, the other kept: (layers, S), nats per token."""
    path = entry("harm", which, fingerprint(model), hashes.of_tensor(sample.ids))

    def harm() -> dict[str, Tensor]:
        return {"harm": _without_steps(model, sample.ids, which, device, progress)}

    return remembered(path, harm)["harm"]


def greedy_harm(
    model: Model, sample: Sample, rounds: int, device: Device = "cpu", progress: Progress = no_progress
) -> tuple[list[int], list[Tensor]]:
    """The `rounds` layers to drop, in order, and in each round the harm of all, (layers, S), NaN for those gone."""
    seen = list[Tensor]()

    def loss(present: Sequence[int]) -> Tensor:
        seen.append(layer_harm(model, sample, present, device, progress))
        return seen[-1].mean(1)

    order, _ = greedy_order(loss, len(family_of(model).layers(model)), rounds)
    return order, seen


@torch.inference_mode()
def _without_steps(model: Model, ids: Tensor, which: Which, device: Device, progress: Progress) -> Tensor:
    """ids (S, L) -> (layers, S); memory: the hidden states of ids for each layer."""
    family = family_of(model)
    layers, hidden = family.layers(model), embed(model, ids)
    rope = rotary(model, ids.shape[1], device, hidden.dtype)
    without: list[Tensor] = []
    for index in range(len(layers)):
        layer = to_device(layers[index], device)
        without = [through_layer(layer, stream, rope, device) for stream in without]
        without.append(_other_step(layer, hidden, rope, which, device))
        hidden = through_layer(layer, hidden, rope, device)
        progress(f"harm without {which}", index + 1, len(layers))
    whole = sequence_losses(model, hidden, ids)
    return torch.stack([sequence_losses(model, stream, ids) - whole for stream in without])


def _other_step(layer: torch.nn.Module, hidden: Tensor, rope: Rope, which: Which, device: Device) -> Tensor:
    """All windows through the step of the layer that is not `which`."""

    def attention(layer: torch.nn.Module, states: Tensor) -> tuple[Tensor, Tensor]:
        return attention_step(layer, states, rope)

    step: Step = mlp_step if which == "attention" else attention
    out = torch.empty_like(hidden)
    for rows in batches(*hidden.shape[:2]):
        out[rows] = step(layer, hidden[rows].to(device))[0]
    return out
