"""Layer statistics for notebooks and widgets: what each layer does to the stream, and to the model's loss.

    turn    1 - cos(h_t, h'_t) of every token in every layer; block influence is its mean over the tokens
    norm    ||h_t|| before the first layer and after each: massive activations stand out
    harm    increase of the loss, nats per token, when one layer is left out; for each sequence, so that the
            spread over sequences says how far a difference between two layers can be trusted

Lesson 01 defines all three in its cells, in the plain way. The harm is the one of the check-up
(`analysis.frames`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from comp_lib.analysis.columns import ALL, Sample
from comp_lib.analysis.frames import layer_harm
from comp_lib.evaluation.confidence import confidence_intervals
from comp_lib.families.find import layers_of
from comp_lib.families.protocol import Model
from comp_lib.walk import through

from .cache import Tensors, cached
from .dense_stream import walk_to


@dataclass(frozen=True)
class LayerStudy:
    """All layer statistics of one model on one set of tokens (S, L), on the CPU; n layers."""

    influence: Tensor  # (n,) block influence
    cosine: Tensor  # (n, S, L) between a token's state before and after the layer
    norms: Tensor  # (n + 1, S, L) of the residual stream, before layer 0 and after each layer
    harm: Tensor  # (n, S) nats per token, each layer left out of the whole model

    @property
    def mean_harm(self) -> Tensor:
        """Loss increase on all tokens, (n,), nats per token."""
        return self.harm.mean(1)

    @cached_property
    def harm_interval(self) -> Tensor:
        """95% interval of `mean_harm`, (n, 2), nats per token; NaN below 8 sequences."""
        return torch.from_numpy(confidence_intervals(self.harm.double().numpy()))


def layer_study(model: Model, ids: Tensor) -> LayerStudy:
    """All statistics for ids (S, L), from the cache if it has them."""
    harm = layer_harm(model, Sample(ids, (ALL,) * len(ids)))
    return LayerStudy(harm=harm, **stream_statistics(model, ids))


@cached
def stream_statistics(model: Model, ids: Tensor) -> Tensors:
    """influence (n,), cosine (n, S, L), norms (n + 1, S, L) of the dense model for ids (S, L): one pass."""
    hidden, rope = walk_to(model, ids, 0)  # (S, L, d)
    cosine, norms = [], [hidden.float().norm(dim=-1)]
    for layer in layers_of(model):
        before, hidden = hidden, through(layer, hidden, rope, hidden.device)
        cosine.append(nn.functional.cosine_similarity(before.float(), hidden.float(), dim=-1))
        norms.append(hidden.float().norm(dim=-1))
    turned = torch.stack(cosine)
    return {"influence": 1.0 - turned.mean((1, 2)), "cosine": turned, "norms": torch.stack(norms)}


def ranks(values: Tensor) -> Tensor:
    """The rank of each of the values (n,): 0 for the smallest, n - 1 for the largest."""
    return torch.argsort(torch.argsort(values, stable=True), stable=True)


def rank_gap(proxy: Tensor, harm: Tensor) -> Tensor:
    """By how many ranks the proxy puts each layer too low (+) or too high (-): (n,) integers."""
    return ranks(harm) - ranks(proxy)
