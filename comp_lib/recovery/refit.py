"""What a recovery returns, and what all recoveries have in common: the error that they leave.

Each recovery is one function (`Recovery`), in the module that has its mathematics; `recovery.RECOVERIES`
names them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..importance.neurons import Problem, Selection


@dataclass(frozen=True)
class Refit:
    """What became of one dense layer."""

    kept: Tensor  # KV groups or neurons, ascending
    weight: Tensor | None = None  # V (n, m), zero where an input went; None: the layer stays as it is
    bias: Tensor | None = None  # (m,)
    error: float = 0.0  # ||X W - X V||^2 / ||X W||^2, with the bias where there is one
    ridge: float | None = None  # lambda with which the weights were solved


Recovery = Callable[[Problem, Selection], Refit]
"""Anything that can say what weights the blocks that stay get."""


def relative_error(error: float, energy: float) -> float:
    """||X W - X V||^2 / ||X W||^2 from both; 0 for a layer that sends nothing."""
    return error / energy if energy > 0.0 else 0.0
