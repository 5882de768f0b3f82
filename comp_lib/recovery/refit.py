"""What a recovery returns: the weights of the blocks that stay."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Refit:
    """The new form of one output linear with inputs X and weights W."""

    kept: Tensor
    """The KV groups or neurons that stay, ascending (k,)."""
    weight: Tensor | None = None
    """The new weights V (n, m), zero where an input went; None: the old ones."""
    bias_change: Tensor | None = None
    """The change of the bias (m,), which is added to it; None: no change."""
    error: float = 0.0
    """||X W - X V||^2 / ||X W||^2, with the bias where there is one."""
    ridge: float | None = None
    """The lambda with which the weights were solved; None: they were not solved."""
