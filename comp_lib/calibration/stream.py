"""Hidden states of a calibration set, carried through a decoder one layer at a time.

Pruning needs what flows *into* a layer, and nothing of the layers around it. So the hidden states of all calibration
sequences, h (S, L, d), are the only thing that lives through the whole run; a layer is copied to the compute device,
used, and let go (our reading of the paper's "layers loaded one at a time"). `families.layer` has its two steps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..families.frame import Rope, embed, head, rotary
from ..families.layer import attention_step, mlp_step
from ..families.protocol import Device, Layer, Model

__all__ = [
    "attention_step",
    "batches",
    "embed",
    "mlp_step",
    "rotary",
    "sequence_losses",
    "through",
    "to_device",
]

BATCH_TOKENS = 2048  # in flight at once: large enough for the processor, small beside the hidden states
LOGITS = 1 << 22  # numbers of an answer at once: tokens times vocabulary
Step = Callable[[Layer, Tensor], tuple[Tensor, Tensor]]
"""One of the two residual steps, the `Rope` given: (layer, stream (B, L, d)) -> new stream, dense inputs."""


def batches(count: int, length: int) -> Iterator[slice]:
    """Slices over `count` sequences of `length` tokens, at most BATCH_TOKENS, but one sequence, each.

    >>> list(batches(count=3, length=1024))
    [slice(0, 2, None), slice(2, 3, None)]
    """
    step = max(1, BATCH_TOKENS // length)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def to_device(layer: Layer, device: Device, own: bool = False) -> Layer:
    """A second `layer`, on `device`, to operate on: the original stays as it is.

    Where it is on that device already the two share their tensors, since surgery replaces tensors and never writes;
    with `own` they do not, so that the original's memory (perhaps a memory map of the whole layer) can be let go.
    """
    tensors, there = (
        [*layer.parameters(), *layer.buffers()],
        torch.empty(0, device=device).device,
    )  # "cuda" is "cuda:0"
    same = {id(module.config): module.config for module in layer.modules() if hasattr(module, "config")}
    if not own and all(tensor.device == there for tensor in tensors):
        same |= {id(tensor): tensor for tensor in tensors}
    return copy.deepcopy(layer, same).to(there)  # the config is one for all layers


def through(layer: Layer, hidden: Tensor, rope: Rope, device: Device) -> Tensor:
    """All sequences through one layer on `device`: h (S, L, d) -> a new h' (S, L, d) where h is."""
    out = torch.empty_like(hidden)
    for rows in batches(*hidden.shape[:2]):
        out[rows] = mlp_step(layer, attention_step(layer, hidden[rows].to(device), rope)[0])[0]
    return out


def sequence_losses(model: Model, hidden: Tensor, ids: Tensor) -> Tensor:
    """Mean next-token loss of each sequence, nats per token, from the last layer's output: (S, L, d) -> (S,).

    The vocabulary is wide, so logits z exist for some tokens and for a piece of the head at a time, piece by piece in
    -log p(x) = log sum_v exp(z_v) - z_x.
    """
    states, following = hidden[:, :-1].flatten(0, 1), ids[:, 1:].flatten().to(hidden.device)
    whole, own = (
        torch.full(following.shape, -torch.inf, device=hidden.device),
        torch.zeros_like(following).float(),
    )
    pieces = model.head_pieces() if hasattr(model, "skeleton") else [(0, model.get_output_embeddings())]
    for first, piece in pieces:  # first token of each
        for part in torch.arange(len(states), device=hidden.device).split(
            max(1, LOGITS // piece.out_features)
        ):
            logits = head(
                model, model.model.norm(states[part]), piece
            ).float()  # (tokens, piece of the vocabulary)
            whole[part] = torch.logaddexp(whole[part], logits.logsumexp(-1))
            place = following[part] - first
            inside = (place >= 0) & (place < logits.shape[1])
            own[part[inside]] = logits[inside, place[inside]]
    return (whole - own).view(len(ids), -1).mean(1)
