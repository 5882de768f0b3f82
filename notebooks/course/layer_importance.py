"""Layer statistics for notebooks and widgets: what each layer does to the stream, and to the model's loss.

    turn    1 - cos(h_t, h'_t) of every token in every layer; block influence is its mean over the tokens
    norm    ||h_t|| before the first layer and after each: massive activations stand out
    harm    increase of the loss, nats per token, when one layer is left out; for each sequence, so that the
            spread over sequences says how far a difference between two layers can be trusted

Lesson 01 defines all three in its cells, in the plain way. The harm is the one of the check-up
(`checkup.frames`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from comp_lib.decoder.types import Model
from comp_lib.decoder.walk import walk
from comp_lib.evaluation.confidence import confidence_intervals
from comp_lib.reports.checkup.columns import ALL_KINDS, Sample
from comp_lib.reports.checkup.frames import layer_loss_increase

from .cache import Tensors, cached


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
    harm = layer_loss_increase(model, Sample(ids, (ALL_KINDS,) * len(ids)))
    return LayerStudy(harm=harm, **stream_statistics(model, ids))


@cached
def stream_statistics(model: Model, ids: Tensor) -> Tensors:
    """influence (n,), cosine (n, S, L), norms (n + 1, S, L) of the dense model for ids (S, L): one pass."""
    cosines = []
    norms = []
    for visit in walk(model, ids, model.device):
        before = visit.before.float()  # (S, L, d)
        after = visit.after.float()
        cosines.append(cosine_similarity(before, after, dim=-1))
        norms.append(before.norm(dim=-1))
    norms.append(after.norm(dim=-1))  # behind the last layer
    cosine = torch.stack(cosines)
    return {"influence": 1.0 - cosine.mean((1, 2)), "cosine": cosine, "norms": torch.stack(norms)}


def attention_maps(model: Model, ids: Tensor) -> Tensor:
    """Mean over heads, (n, S, L, L): layer, text, position that looks, position that is looked at."""
    usual = model.config._attn_implementation
    model.set_attn_implementation("eager")  # the one that returns its maps
    try:
        maps = model(input_ids=ids, output_attentions=True, use_cache=False).attentions
    finally:
        model.set_attn_implementation(usual)
    return torch.stack([each_layer.mean(1) for each_layer in maps])


def ranks(values: Tensor) -> Tensor:
    """The rank of each of the values (n,): 0 for the smallest, n - 1 for the largest."""
    return torch.argsort(torch.argsort(values, stable=True), stable=True)


def rank_gap(proxy: Tensor, harm: Tensor) -> Tensor:
    """By how many ranks the proxy puts each layer too low (+) or too high (-): (n,) integers."""
    return ranks(harm) - ranks(proxy)
