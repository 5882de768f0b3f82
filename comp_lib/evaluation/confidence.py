"""How far a mean over sequences can be trusted: its 95% interval.

What varies is whole sequences, since the tokens of one are anything but independent. Of n of them,

    n < 8          no interval: a deviation of so few numbers says next to nothing
    8 <= n < 16    mean -+ t s / sqrt(n)     Student's t with n - 1 degrees of freedom, s the sample's deviation
    16 <= n        the bootstrap: n values are drawn anew with replacement, RESAMPLES times; the middle 95% of the means
                   so drawn is the interval (Efron's percentile interval), which of fewer values is too narrow

Two models judged on the same sequences are compared *paired*: the interval is that of the mean of the differences,
sequence by sequence. Some texts are hard for every model; in the differences that cancels, and the interval is many
times narrower than what the two models' own intervals suggest.

It tells what other sequences of the same text would give, nothing about other texts or other calibration samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import InputError

FEWEST, MANY = 8, 16  # values that an interval needs; values from which it is bootstrapped
T = (2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448)  # 97.5% quantile, 7 to 14 degrees of freedom
TAILS = (0.025, 0.975)
RESAMPLES = 10_000
CHUNK = 100  # resamples at once

Interval = tuple[float, float]
UNKNOWN: Interval = (np.nan, np.nan)  # of what has none, in tables of numbers


def confidence_interval(values: Sequence[float] | np.ndarray, seed: int = 0) -> Interval:
    """Bounds between which the mean of `values` (n,) lies with 95% confidence.

    Raises InputError for fewer than FEWEST values, or values that are not finite.

    >>> low, high = confidence_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])  # mean 4.5
    >>> round(low, 2), round(high, 2)
    (2.45, 6.55)
    """
    found = interval_or_none(values, seed)
    if found is None:
        usable = int(np.isfinite(np.asarray(values, dtype=np.float64)).sum())
        got = f"{usable} of {len(values)}: measure more windows"
        raise InputError(f"expected at least {FEWEST} values for an interval, all of them finite, got {got}")
    return found


def interval_or_none(values: Sequence[float] | np.ndarray, seed: int = 0) -> Interval | None:
    """`confidence_interval`, or None where that refuses."""
    low, high = confidence_intervals(np.asarray(values, dtype=np.float64)[None], seed)[0].tolist()
    return None if np.isnan(low) else (low, high)


def confidence_intervals(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """`confidence_interval` of each row of values (k, n), with the same draws for all: (k, 2).

    A row of which there is none, too short or not finite, has NaN.
    """
    values = np.asarray(values, dtype=np.float64)
    count, bounds = values.shape[1], np.tile(UNKNOWN, (len(values), 1))
    usable = np.isfinite(values).all(1) & (count >= FEWEST)
    if not usable.any():
        return bounds
    some = values[usable]
    if count < MANY:
        mean, half = some.mean(1), T[count - FEWEST] * some.std(1, ddof=1) / count**0.5
        bounds[usable] = np.stack([mean - half, mean + half], 1)
    else:
        bounds[usable] = np.quantile(resampled_means(some, np.random.default_rng(seed)), TAILS, axis=1).T
    return bounds


def resampled_means(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Means of each row of values (k, n) over n places drawn with replacement: (k, RESAMPLES)."""
    # scipy.stats.bootstrap holds all resamples at once
    count, parts = values.shape[1], []
    for _ in range(0, RESAMPLES, CHUNK):
        parts.append(values[:, random.integers(count, size=(CHUNK, count))].mean(2))
    return np.concatenate(parts, 1)
