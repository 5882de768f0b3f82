"""How far a mean over sequences can be trusted: the bootstrap.

Of n values, n are drawn anew with replacement, RESAMPLES times; the middle 95% of the means so drawn is the interval
(Efron's percentile interval). What is drawn is whole sequences, since the tokens of one are anything but independent.

Two models judged on the same sequences are compared *paired*: the interval is that of the mean of the differences,
sequence by sequence. Some texts are hard for every model; in the differences that cancels, and the interval is many
times narrower than what the two models' own intervals suggest.

It tells what other sequences of the same text would give, nothing about other texts or other calibration samples; and
below about ten sequences it is too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 10_000
CHUNK = 100  # resamples at once


def bootstrap_interval(values: Sequence[float] | np.ndarray, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Bounds between which the mean of `values` (n,) lies at this level; both NaN unless there are 2 finite values.

    >>> low, high = bootstrap_interval([1.0, 2.0, 3.0, 4.0])  # mean 2.5
    >>> low, high
    (1.5, 3.5)
    """
    low, high = bootstrap_intervals(np.asarray(values, dtype=np.float64)[None], level, seed)[0].tolist()
    return low, high


def bootstrap_intervals(values: np.ndarray, level: float = 0.95, seed: int = 0) -> np.ndarray:
    """`bootstrap_interval` of each row of values (k, n), with the same draws for all: (k, 2)."""
    # scipy.stats.bootstrap holds all resamples at once, and renamed its seed between the versions that we allow
    values = np.asarray(values, dtype=np.float64)
    count, bounds = values.shape[1], np.full((len(values), 2), np.nan)
    usable = np.isfinite(values).all(1) & (count > 1)
    if usable.any():
        random, some, parts = np.random.default_rng(seed), values[usable], []
        for _ in range(0, RESAMPLES, CHUNK):
            drawn = random.integers(count, size=(CHUNK, count))
            parts.append(some[:, drawn].mean(2))
        bounds[usable] = np.quantile(np.concatenate(parts, 1), [(1 - level) / 2, (1 + level) / 2], axis=1).T
    return bounds
