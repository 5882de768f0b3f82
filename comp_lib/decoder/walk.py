"""A text on its way through a decoder, layer by layer: what measures layers walks this way.

A measurement needs what flows *into* a layer, and nothing of the layers around it. So only the hidden states
of all sequences, h (S, L, d), are in memory from the start of a walk to its end. A layer is copied to the
compute device, used, and let go. (This is our reading of the paper's "layers loaded one at a time".)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..utils.numbers import check_numbers
from .decoder import Decoder, as_decoder
from .run import LayerArguments, attention_step, head, layer_arguments, mlp_step
from .structure import layers_of
from .types import Device, Layer, Model, Step

BATCH_TOKENS = 2048  # tokens that pass at once: enough for the processor, few beside the hidden states
LOGITS_AT_ONCE = 1 << 22  # numbers in memory at once: tokens times vocabulary


def batches(count: int, length: int) -> Iterator[slice]:
    """Slices over `count` sequences of `length` tokens, with at most BATCH_TOKENS or one sequence in a slice.

    >>> list(batches(count=3, length=1024))
    [slice(0, 2, None), slice(2, 3, None)]
    """
    step = max(1, BATCH_TOKENS // length)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


@dataclass(frozen=True)
class PassedBatch:
    """B sequences that have passed one layer, with all that can be measured of them, on its device."""

    rows: slice
    """Which of all sequences they are."""
    before: Tensor
    """States before the layer (B, L, d)."""
    between: Tensor
    """States between its two steps (B, L, d)."""
    after: Tensor
    """States after it (B, L, d)."""
    inputs: dict[Step, Tensor]
    """What the output linear of each step read (B, L, n)."""


def passed_batches(
    layer: Layer, hidden: Tensor, arguments: LayerArguments, device: Device
) -> Iterator[PassedBatch]:
    """Send all sequences h (S, L, d) through one layer, which is on `device`, a batch at a time."""
    for rows in batches(*hidden.shape[:2]):
        before = hidden[rows].to(device)
        between, attention_inputs = attention_step(layer, before, arguments)
        after, mlp_inputs = mlp_step(layer, between)
        inputs: dict[Step, Tensor] = {"attention": attention_inputs, "mlp": mlp_inputs}
        yield PassedBatch(rows, before, between, after, inputs)


def send_through(layer: Layer, hidden: Tensor, arguments: LayerArguments, device: Device) -> Tensor:
    """Send all sequences through one layer on `device`: h (S, L, d) -> h' (S, L, d), on the device of h."""
    out = torch.empty_like(hidden)
    for batch in passed_batches(layer, hidden, arguments, device):
        out[batch.rows] = batch.after
    return out


class LayerVisit:
    """A text at one layer of a decoder."""

    def __init__(
        self, index: int, layer: Layer, before: Tensor, arguments: LayerArguments, device: Device
    ) -> None:
        """Let the text enter `layer`, number `index`, which is on `device`.

        before (S, L, d): the hidden states of the text that enter the layer.
        """
        self.index = index
        self.layer = layer
        self.before = before
        self.arguments = arguments
        self.device = device
        self._after: Tensor | None = None

    def send_through(self, hidden: Tensor) -> Tensor:
        """Send another text of the same length through this layer: (S, L, d) -> (S, L, d)."""
        return send_through(self.layer, hidden, self.arguments, self.device)

    def passed_batches(self) -> Iterator[PassedBatch]:
        """Send the text of the walk through this layer, a batch at a time; at the end `after` is there."""
        after = torch.empty_like(self.before)
        for batch in passed_batches(self.layer, self.before, self.arguments, self.device):
            after[batch.rows] = batch.after
            yield batch
        self._after = after

    @property
    def after(self) -> Tensor:
        """Hidden states that leave the layer (S, L, d), computed once.

        A caller that has computed them in another way sets them.
        """
        if self._after is None:
            self._after = self.send_through(self.before)
        return self._after

    @after.setter
    def after(self, states: Tensor) -> None:
        self._after = states


def walk(model: Model | Decoder, ids: Tensor, device: Device = "cpu") -> Iterator[LayerVisit]:
    """Walk the text ids (S, L) through all layers, one on `device` at a time.

    A visit ends when the next one is asked for. Its layer is let go then, before the next is read. So use
    `visit.layer`, and keep no other name for it. Where a walk is broken off, the text does not pass the last
    layer that was visited.
    """
    decoder = as_decoder(model)
    hidden = decoder.embed(ids)
    arguments = layer_arguments(decoder.structure, ids.shape[1], device, hidden.dtype)
    for index in range(len(layers_of(decoder.structure))):
        visit = LayerVisit(index, decoder.layer(index, device), hidden, arguments, device)
        yield visit
        hidden = visit.after
        del visit.layer


def sequence_losses(model: Model | Decoder, hidden: Tensor, ids: Tensor) -> Tensor:
    """Mean next-token loss of each sequence (S,), nats per token, from the last layer's output (S, L, d).

    The loss of a token x is -log p(x) = log sum_v exp(z_v) - z_x. The vocabulary is wide. So logits z exist
    only for some tokens and one piece of the head at a time, and both terms are gathered piece by piece.

    Raises NoNumber for a loss that is NaN or infinite.
    """
    decoder = as_decoder(model)
    states = hidden[:, :-1].flatten(0, 1)
    next_tokens = ids[:, 1:].flatten().to(hidden.device)
    log_sums = torch.full(next_tokens.shape, -torch.inf, device=hidden.device)  # log sum_v exp(z_v)
    next_logits = torch.zeros_like(next_tokens).float()  # z_x
    for first_token, piece in decoder.head_pieces():
        tokens_at_once = max(1, LOGITS_AT_ONCE // piece.out_features)
        for rows in torch.arange(len(states), device=hidden.device).split(tokens_at_once):
            normed = decoder.norm(states[rows])
            logits = head(decoder.structure, normed, piece).float()  # (tokens, piece of the vocabulary)
            log_sums[rows] = torch.logaddexp(log_sums[rows], logits.logsumexp(-1))
            columns = next_tokens[rows] - first_token
            inside = (columns >= 0) & (columns < logits.shape[1])
            next_logits[rows[inside]] = logits[inside, columns[inside]]
    losses = (log_sums - next_logits).view(len(ids), -1).mean(1)
    check_numbers("loss", losses)
    return losses
