"""What layer statistics say: the order of the layers, the harm that a proxy hides, the token that is out of proportion.

A proxy's rank can be far off without consequence, where many layers are nearly alike. What counts is the harm that it
hides: that of the layer, less the harm that its place in the proxy's order promises,

    hidden_l = harm_l - sorted(harm)[rank of l by the proxy]      nats per token

(our measure; zero for a proxy that orders the layers rightly). `lessons.layer_importance` measures the values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError


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

    @property
    def harm_error(self) -> Tensor:
        """Standard error of `mean_harm` over the sequences, (n,), nats per token; zero for a single sequence."""
        sequences = self.harm.shape[1]
        return self.harm.std(1) / sequences**0.5 if sequences > 1 else torch.zeros(len(self.harm))


def ranks(values: Tensor) -> Tensor:
    """0 for the smallest of (n,), n - 1 for the largest."""
    return torch.argsort(torch.argsort(values, stable=True), stable=True)


def rank_gap(proxy: Tensor, harm: Tensor) -> Tensor:
    """Places by which the proxy puts each layer too low (+) or too high (-): (n,) integers."""
    return ranks(harm) - ranks(proxy)


def hidden_harm(proxy: Tensor, harm: Tensor) -> Tensor:
    """Harm (n,) beyond what a layer's place in the proxy's order promises, in the units of `harm`; negative: less."""
    return harm - harm.sort().values[ranks(proxy)]


def flat_cosine(cosine: Tensor, norms: Tensor) -> Tensor:
    """Cosine of all tokens' states as one long vector, (n,), from cosine (n, S, L) and norms (n + 1, S, L).

    A trap: the tokens count by the square of their norms, so that a massive one speaks for all.
    """
    before, after = norms[:-1].double(), norms[1:].double()
    products = (cosine * before * after).sum((1, 2))
    return products / (before.square().sum((1, 2)) * after.square().sum((1, 2))).sqrt()


def massive(norms: Tensor) -> tuple[int, int, int, float]:
    """Where the stream is largest against its surroundings: norms (n + 1, S, L) -> (layer that wrote it, s, t, factor).

    `factor` is the norm of that token over the median of its sequence at the same depth. The writer is the layer by
    which the token grew most. Raises InputError for norms of another shape.
    """
    if norms.ndim != 3 or norms.shape[0] < 2:
        raise InputError(f"expected norms of shape (layers + 1, sequences, length), got {tuple(norms.shape)}")
    relative = norms / norms.median(dim=-1, keepdim=True).values
    _, sequence, position = (int(i) for i in torch.unravel_index(relative.argmax(), norms.shape))
    growth = norms[:, sequence, position].diff()
    return int(growth.argmax()), sequence, position, float(relative.max())
