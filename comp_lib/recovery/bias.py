"""Recovery that leaves the weights alone: nothing, or a bias.

FLAP (An et al. 2023) puts the mean of what went in its place: b = mean(x)_gone W_gone, added to the layer's output.
"""

from __future__ import annotations

import torch
from torch import Tensor


def mean_bias(mean: Tensor, weight: Tensor, kept: Tensor) -> Tensor:
    """b (m,): the mean contribution of the inputs that went; mean (n,), weight: W (n, m), kept (k,)."""
    gone = mean.clone()
    gone[kept] = 0.0
    return gone @ weight.to(gone)


def unchanged(weight: Tensor, kept: Tensor) -> Tensor:
    """V (n, m) without any recovery: `weight` (n, m), zero where an input went."""
    left = torch.zeros_like(weight)
    left[kept] = weight[kept]
    return left
