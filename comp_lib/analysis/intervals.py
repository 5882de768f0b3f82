"""Intervals of many means at once: what `evaluation.confidence.bootstrap_interval` gives, for each row of a matrix.

A frame has hundreds of rows with the same number of windows; the same draws serve them all.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..evaluation.confidence import RESAMPLES


def intervals(values: Tensor, level: float = 0.95, seed: int = 0) -> list[tuple[float, float]]:
    """Bounds of the mean of each row of values (k, n); NaN for a row with fewer than 2 finite values or an infinity.

    The draws are those of `bootstrap_interval`, so the bounds are the same up to rounding.
    """
    rows = values.double().cpu().numpy()
    count = rows.shape[1]
    if count < 2:
        return [(math.nan, math.nan)] * len(rows)
    drawn = np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))
    often = np.zeros((RESAMPLES, count))
    np.add.at(often, (np.arange(RESAMPLES)[:, None], drawn), 1.0 / count)
    usable = np.isfinite(rows).all(1)
    bounds: NDArray[np.float64] = np.full((len(rows), 2), np.nan)
    if usable.any():
        quantiles = np.quantile(often @ rows[usable].T, [(1 - level) / 2, (1 + level) / 2], axis=0)
        bounds[usable] = quantiles.T
    return [(float(low), float(high)) for low, high in bounds]
