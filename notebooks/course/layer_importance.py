"""Layer statistics for notebooks and widgets: what each layer does to the stream, and what its loss does to the model.

    turn    1 - cos(h_t, h'_t) of every token in every layer; block influence is its mean over the tokens
    norm    ||h_t|| before the first layer and after each: massive activations stand out
    harm    increase of the loss, nats per token, when one layer is left out; for each sequence, so that the
            spread over sequences says how far a difference between two layers can be trusted
    rounds  the same harm with 0, 1, 2 ... layers gone already, each time the least harmful one: greedy removal

Lesson 01 defines all of it in its cells, in the plain way; harm is that of the check-up (`analysis.harm`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from comp_lib.analysis.columns import ALL, Sample
from comp_lib.analysis.harm import layer_harm
from comp_lib.calibration.stream import sequence_losses, through
from comp_lib.errors import InputError
from comp_lib.evaluation.confidence import confidence_intervals
from comp_lib.families import family_of
from comp_lib.families.protocol import Model, Which
from comp_lib.importance.layers import greedy_order
from comp_lib.shape import Shape

from .cache import Tensors, cached
from .dense_stream import walk_to, watched


@dataclass(frozen=True)
class LayerStudy:
    """All layer statistics of one model on one set of tokens (S, L), on the CPU; n layers, k greedy rounds."""

    influence: Tensor  # (n,) block influence
    cosine: Tensor  # (n, S, L) between a token's state before and after the layer
    norms: Tensor  # (n + 1, S, L) of the residual stream, before layer 0 and after each layer
    harm: Tensor  # (n, S) nats per token, each layer left out of the whole model
    rounds: Tensor  # (k, n) nats per token on all tokens, NaN for layers gone before that round
    order: tuple[int, ...]  # the k layers that greedy removal drops, first one first

    @property
    def mean_harm(self) -> Tensor:
        """Loss increase on all tokens, (n,), nats per token."""
        return self.harm.mean(1)

    @cached_property
    def harm_interval(self) -> Tensor:
        """95% interval of `mean_harm`, (n, 2), nats per token; NaN below 8 sequences."""
        return torch.from_numpy(confidence_intervals(self.harm.numpy()))


def layer_study(model: Model, ids: Tensor, greedy: int = 3) -> LayerStudy:
    """All statistics for ids (S, L), from the cache where they are there; `greedy` layers are removed one by one.

    Raises InputError if that would leave no layer.
    """
    layers, sample = Shape.of(model).layers, Sample(ids, (ALL,) * len(ids))
    if not 0 <= greedy < layers:
        raise InputError(f"expected 0 to {layers - 1} layers to remove, got {greedy}: ask for fewer")
    order, harms = greedy_harm(model, sample, greedy)
    # sequences are of one length: the mean of their losses is the loss on all tokens
    rounds = torch.stack([torch.empty(layers), *(harm.mean(1) for harm in harms)])[1:]
    found = stream_statistics(model, ids)
    return LayerStudy(harm=layer_harm(model, sample), rounds=rounds, order=tuple(order), **found)


@cached
def stream_statistics(model: Model, ids: Tensor) -> Tensors:
    """influence (n,), cosine (n, S, L) and norms (n + 1, S, L) of the dense model for ids (S, L): one pass."""
    hidden, rope = walk_to(model, ids, 0)  # (S, L, d)
    cosine, norms = [], [hidden.float().norm(dim=-1)]
    for layer in family_of(model).layers(model):
        before, hidden = hidden, through(layer, hidden, rope, hidden.device)
        cosine.append(nn.functional.cosine_similarity(before.float(), hidden.float(), dim=-1))
        norms.append(hidden.float().norm(dim=-1))
    turned = torch.stack(cosine)
    return {"influence": 1.0 - turned.mean((1, 2)), "cosine": turned, "norms": torch.stack(norms)}


@cached
def step_harm(model: Model, sample: Sample, which: Which) -> Tensor:
    """Increase of each window's loss without one step of each layer, the other kept: (layers, S), nats per token."""
    other: Which = "mlp" if which == "attention" else "attention"
    hidden, rope = walk_to(model, sample.ids, 0)  # (S, L, d)
    streams: list[Tensor] = []  # each without that step of one layer, as far as the walk has come
    for layer in family_of(model).layers(model):
        streams = [through(layer, stream, rope, stream.device) for stream in streams]
        streams.append(torch.cat([stream for stream, _ in watched(layer, other, hidden, rope)]))
        hidden = through(layer, hidden, rope, hidden.device)
    dense, *without = (sequence_losses(model, stream, sample.ids) for stream in (hidden, *streams))
    return torch.stack(without) - dense


def greedy_harm(model: Model, sample: Sample, rounds: int) -> tuple[list[int], list[Tensor]]:
    """The `rounds` layers to drop, in order, and in each round the harm of all, (layers, S), NaN for those gone."""
    seen = list[Tensor]()

    def loss(present: Sequence[int]) -> Tensor:
        seen.append(layer_harm(model, sample, present))
        return seen[-1].mean(1)

    return greedy_order(loss, Shape.of(model).layers, rounds), seen


def ranks(values: Tensor) -> Tensor:
    """0 for the smallest of (n,), n - 1 for the largest."""
    return torch.argsort(torch.argsort(values, stable=True), stable=True)


def rank_gap(proxy: Tensor, harm: Tensor) -> Tensor:
    """Places by which the proxy puts each layer too low (+) or too high (-): (n,) integers."""
    return ranks(harm) - ranks(proxy)
