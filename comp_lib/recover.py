"""Recovery without gradients: what stays of a dense layer takes over what went, by one symmetric solve.

* Mask tuning (the paper's): one factor per neuron. m_K = argmin (1 - m)^T G (1 - m) + lambda sum_K G_ii (m_i - 1)^2.
  The fit is a trap when it is left alone: a few neurons that must imitate many take huge factors of either sign, which
  fit the calibration text and nothing else. The guard watches the variance of the mask and raises lambda until it is
  small. The mask is folded into the weights; nothing is left at run time.
* Least squares (beyond the paper, same statistics): all weights of the survivors are free,
  V_K = (C_KK + r I)^-1 (B_K + r W_K), r = lambda mean(diag C). With B = C W the target is the layer's own output
  ("self"); with B from outside it is whatever the dense model's residual stream misses at this depth ("dense").
* Bias (FLAP's, An et al. 2023): what went is replaced by its mean, b = mean(x)_gone W_gone, added to the output.

The first two are our derivation; all are tested against brute force.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .importance.condition import spd_inverse

MAX_VARIANCE = 0.05  # of a tuned mask; more means that a few neurons imitate many


@dataclass(frozen=True)
class Mask:
    """A tuned mask over the inputs that stay."""

    values: Tensor  # (k,), float64
    ridge: float  # lambda with which the guard let it pass

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    @property
    def variance(self) -> float:
        return float(self.values.var(unbiased=False))


def solve_mask(gram: Tensor, kept: Tensor, ridge: float) -> Tensor:
    """The mask problem for a given lambda: G (n, n), kept inputs (k,) -> m_K (k,). No guard: see `tune_mask`.

    Stationary point: (G_KK + lambda D) m = G_K: 1 + lambda D 1, with D = diag(G_KK).
    """
    inner = gram[kept][:, kept]
    energy = inner.diagonal()
    # A dead neuron (no energy) keeps its factor of 1: at 0 it would hold the variance up whatever lambda is.
    dead = torch.finfo(energy.dtype).eps * float(energy.mean().clamp_min(1e-200))
    penalty = ridge * energy.clamp_min(dead)
    right = gram[kept].sum(1) + penalty
    inverse, _ = spd_inverse(inner + torch.diag(penalty))
    return inverse @ right


def tune_mask(gram: Tensor, kept: Tensor, ridge: float = 1e-2, max_variance: float = MAX_VARIANCE) -> Mask:
    """Mask tuning under the guard: lambda grows fourfold until the variance of the mask is at most `max_variance`."""
    if max_variance <= 0.0:
        raise ValueError(f"expected a positive bound on the variance, got {max_variance}")
    while True:
        mask = Mask(solve_mask(gram, kept, ridge), ridge)
        if mask.variance <= max_variance:
            return mask
        ridge *= 4.0


def fold_mask(weight: Tensor, kept: Tensor, mask: Mask) -> Tensor:
    """V (n, m): rows of `weight` (n, m) times the mask, zero where an input went."""
    folded = torch.zeros_like(weight)
    folded[kept] = weight[kept] * mask.values[:, None]
    return folded


def only(weight: Tensor, kept: Tensor) -> Tensor:
    """V (n, m) without any recovery: `weight` (n, m), zero where an input went."""
    left = torch.zeros_like(weight)
    left[kept] = weight[kept]
    return left


def least_squares(xtx: Tensor, target: Tensor, weight: Tensor, kept: Tensor, ridge: float) -> tuple[Tensor, float]:
    """V (n, m) minimising ||Y* - X V||^2 + r ||V - W||^2 over the kept rows, and the r really used.

    xtx: C (n, n); target: B = X^T Y* (n, m); weight: W (n, m); kept (k,); ridge: relative to mean(diag C).
    """
    ridge = ridge * float(xtx.diagonal().mean())
    inverse, ridge = spd_inverse(xtx[kept][:, kept], ridge)
    fitted = torch.zeros_like(weight)
    fitted[kept] = inverse @ (target[kept] + ridge * weight[kept])
    return fitted, ridge


def mean_bias(mean: Tensor, weight: Tensor, kept: Tensor) -> Tensor:
    """b (m,): the mean contribution of the inputs that went; mean (n,), weight: W (n, m), kept (k,)."""
    gone = mean.clone()
    gone[kept] = 0.0
    return gone @ weight
