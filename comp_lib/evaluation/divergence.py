"""The Kullback-Leibler divergence: how far the predictions of one model are from those of another.

    KL(p || q) = sum_v p(v) (log p(v) - log q(v)) >= 0          nats, v over the vocabulary

It is zero only where both predict the same.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def divergence_terms(log_p: Tensor, log_q: Tensor) -> Tensor:
    """p(v) (log p(v) - log q(v)) for log p and log q (..., V), in their shape.

    Callers sum over the vocabulary, and over tokens, in the order that suits them.
    """
    return F.kl_div(log_q, log_p, reduction="none", log_target=True)
