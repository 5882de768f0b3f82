"""What layer statistics say of one model on some tokens: the values, and the order of the layers by each.

`lessons.layer_importance` measures the values.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..evaluation.confidence import confidence_intervals


@dataclass(frozen=True)
class LayerStudy:
    """All layer statistics of one model on one set of tokens (S, L), on the CPU; n layers, k greedy rounds."""

    ids: Tensor  # (S, L)
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
        """95% interval of `mean_harm`, (n, 2), nats per token: over sequences; NaN for few of them."""
        return torch.from_numpy(confidence_intervals(self.harm.numpy()))


def ranks(values: Tensor) -> Tensor:
    """0 for the smallest of (n,), n - 1 for the largest."""
    return torch.argsort(torch.argsort(values, stable=True), stable=True)


def rank_gap(proxy: Tensor, harm: Tensor) -> Tensor:
    """Places by which the proxy puts each layer too low (+) or too high (-): (n,) integers."""
    return ranks(harm) - ranks(proxy)
