"""Large products of float32 data: no more operations than they need, and their sums in float64.

The processor multiplies float32 twice as fast as float64, and what comes out is as exact as what went in if the sums
are short. So terms are multiplied in float32 in parts, of a batch of tokens or of at most TERMS, and the parts are
added in float64: an entry x_s . y_t is off by less than 1e-6 ||x_s|| ||y_t|| (tested, also on data that are nearly
alike).
"""

from __future__ import annotations

import torch
from torch import Tensor

TERMS = 1024  # of a sum in float32
BLOCK = 512  # columns of a symmetric product, of which one triangle is computed


def symmetric(x: Tensor) -> Tensor:
    """X^T X (n, n) in the precision of X (T, n), of which the lower triangle is computed, in blocks."""
    size = x.shape[1]
    if size < 2 * BLOCK:
        return x.T @ x
    product = x.new_empty(size, size)
    for start in range(0, size, BLOCK):
        stop = start + BLOCK
        torch.mm(x[:, start:].T, x[:, start:stop], out=product[start:, start:stop])
        product[start:stop, stop:] = product[stop:, start:stop].T
    return product


def between_rows(x: Tensor, y: Tensor) -> Tensor:
    """X Y^T (T, T'), float64, for float32 X (T, n) and Y (T', n)."""
    total = torch.zeros(len(x), len(y), dtype=torch.float64, device=x.device)
    for left, right in zip(x.split(TERMS, 1), y.split(TERMS, 1), strict=True):
        total += left @ right.T
    return total
