"""Large products of float32 data: no more operations than they need, and their sums in float64.

The processor multiplies float32 twice as fast as float64, and what comes out is as exact as what went in if the sums
are short. So terms are multiplied in float32 in parts, of a batch of tokens or of at most TERMS, and the parts are
added in float64: an entry x_s . y_t is off by less than 1e-6 ||x_s|| ||y_t|| (tested, also on data that are nearly
alike).
"""

from __future__ import annotations

from collections.abc import Iterator

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
        corner = product[start:stop, start:stop]
        corner.copy_(corner.tril() + corner.tril(-1).T)  # not every library makes one of two equal halves
        product[start:stop, stop:] = product[stop:, start:stop].T
    return product


def between_rows(x: Tensor, y: Tensor, divisor: Tensor | None = None, kept: Tensor | None = None) -> Tensor:
    """X Y^T (T, T'), float64, for float32 X (T, n) and Y (T', n), of the inputs `kept` (k,) if they are given.

    divisor (k,), float32: each input of X and of Y is divided by its own first. No copy of X or Y is made as a whole.
    """
    total = torch.zeros(len(x), len(y), dtype=torch.float64, device=x.device)
    for part in panels(x.shape[1] if kept is None else len(kept), TERMS):
        inputs = part if kept is None else kept[part]
        scale = 1.0 if divisor is None else divisor[part]
        left = x[:, inputs] / scale
        right = left if y is x else y[:, inputs] / scale
        total += left @ right.T
    return total


def panels(count: int, width: int) -> Iterator[slice]:
    """Slices of at most `width` that make up `count`."""
    return (slice(start, min(start + width, count)) for start in range(0, count, width))
