"""Recovery without gradients: what stays of a dense layer takes over what went, by one symmetric solve.

* Mask tuning (the paper's): one factor per neuron. m_K = argmin (1 - m)^T G (1 - m) + lambda sum_K G_ii (m_i - 1)^2.
  The fit is a trap when it is left alone: a few neurons that must imitate many take huge factors of either sign, which
  fit the calibration text and nothing else. The guard watches the variance of the mask and raises lambda until it is
  small. The mask is folded into the weights; nothing is left at run time.
* Least squares (beyond the paper, same statistics): all weights of the survivors are free,
  V_K = (C_KK + D_KK)^-1 (B_K + D_KK W_K), D = lambda diag(C): the same pull towards "change nothing", in proportion to
  each neuron's own energy. With B = C W the target is the layer's own output ("self"); with B from outside it is
  whatever the dense model's residual stream misses at this depth ("dense").
* Bias (FLAP's, An et al. 2023): what went is replaced by its mean, b = mean(x)_gone W_gone, added to the output.

The first two are our derivation; all are tested against brute force.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .importance.condition import penalty, spd_factor

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

    Stationary point: (G_KK + D) m = G_K: 1 + D 1, with D = lambda diag(G_KK): least squares with one output, W = 1.
    """
    ones = torch.ones(len(gram), 1, dtype=gram.dtype, device=gram.device)
    return least_squares(gram, gram.sum(1, keepdim=True), ones, kept, ridge)[kept, 0]


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


def least_squares(xtx: Tensor, target: Tensor, weight: Tensor, kept: Tensor, ridge: float) -> Tensor:
    """V (n, m) minimising ||Y* - X V||^2 + sum_i D_ii ||v_i - w_i||^2 over the kept rows, D = lambda diag(C).

    xtx: C (n, n); target: B = X^T Y* (n, m); weight: W (n, m); kept (k,); ridge: lambda, relative to each input's own
    energy. Rescaling an input (x_i -> c x_i, w_i -> w_i / c) rescales its v_i alike and changes nothing else.
    """
    held = penalty(xtx.diagonal(), ridge)[kept]
    factor, added = spd_factor(xtx[kept][:, kept] + torch.diag(held))
    fitted = torch.zeros_like(weight)
    fitted[kept] = torch.cholesky_solve(target[kept] + (held + added)[:, None] * weight[kept], factor)
    return fitted


def mean_bias(mean: Tensor, weight: Tensor, kept: Tensor) -> Tensor:
    """b (m,): the mean contribution of the inputs that went; mean (n,), weight: W (n, m), kept (k,)."""
    gone = mean.clone()
    gone[kept] = 0.0
    return gone @ weight.to(gone)
