"""How far a mean over sequences can be trusted: its 95% interval.

The unit that varies is a sequence, since the tokens of one sequence are anything but independent. For n
sequences,

    n < 8     no interval: the deviation of so few numbers says next to nothing
    8 <= n    mean -+ t s / sqrt(n), t Student's with n - 1 degrees of freedom, s the sample's deviation

Two models judged on the same sequences are compared *paired*: the interval is that of the mean of the
differences, sequence by sequence. Some texts are hard for every model; in the differences that cancels, and
the interval is many times narrower than what the two models' own intervals suggest.

The mean over several kinds of text weighs kinds alike, and only sequences vary, within each kind. With v_k =
s_k^2 / n_k, the variance of the mean of kind k, the interval of the mean over K kinds is

    mean -+ t sqrt(sum_k v_k) / K,  t Student's with (sum_k v_k)^2 / sum_k (v_k^2 / (n_k - 1)) degrees

of freedom, as Satterthwaite (Biometrics Bulletin 2, 1946) and Welch have it for kinds that deviate unlike
each other. For one kind these are n - 1. With very few sequences of each kind the interval is mostly too
wide: with 2 of each of 8 kinds that deviate alike it holds the truth 98 times in 100. On why what differs
between kinds does not count: Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.2.

An interval tells what other sequences of the same texts would give, nothing about other texts or calibration
samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from ..utils.errors import InputError

MIN_VALUES = 8  # fewest values that give an interval
UPPER_PROBABILITY = 0.975  # of Student's t below the upper bound: 2.5% lie above it, and 2.5% below the lower

Interval = tuple[float, float]
NO_INTERVAL: Interval = (np.nan, np.nan)  # what tables of numbers hold where there is no interval


def confidence_interval(values: Sequence[float] | np.ndarray) -> Interval:
    """Bounds between which the mean of `values` (n,) lies with 95% confidence.

    Raises InputError for fewer than MIN_VALUES values, or values that are not finite.

    >>> low, high = confidence_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])  # mean 4.5
    >>> round(low, 2), round(high, 2)
    (2.45, 6.55)
    """
    values = np.asarray(values, dtype=np.float64)
    low, high = confidence_intervals(values[None])[0].tolist()
    if np.isnan(low):
        raise InputError(
            expected=f"at least {MIN_VALUES} finite values for an interval",
            got=f"{len(values)}, of which {np.isfinite(values).sum()} are finite",
            hint="measure more windows",
        )
    return low, high


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """The 95% interval of each measure; None: it was not measured, or in too few sequences."""

    loss: Interval | None = None
    """Of the loss, nats per token."""
    dense_loss: Interval | None = None
    """Of the loss of the parent, nats per token."""
    increase: Interval | None = None
    """Of the increase of the loss, nats per token; both models are judged on the same sequences."""
    kl: Interval | None = None
    """Of the KL divergence from the parent, nats per token."""
    top1_agreement: Interval | None = None
    """Of the share of positions at which both models put the same token first, 0 to 1."""

    @classmethod
    def of(cls, kinds: Sequence[Mapping[str, Sequence[float]]]) -> Intervals:
        """The intervals of the mean over kinds.

        kinds: a mapping for each kind, from the name of a measure to its values.
        """
        tables = [np.array(list(columns.values())) for columns in kinds]  # (measures, n) of each kind
        bounds = confidence_intervals(*tables).tolist()
        return cls(
            **{
                measure: (low, high)
                for measure, (low, high) in zip(kinds[0], bounds, strict=True)
                if not np.isnan(low)
            }
        )


def confidence_intervals(*kinds: np.ndarray) -> np.ndarray:
    """Intervals of the mean over kinds of each row: (k, n) of each kind -> (k, 2).

    A row has NaN where it has no interval: its values are not finite, or too few. They are too few where they
    deviate from the means of their kinds with less freedom than MIN_VALUES values of one kind.
    """
    counts = np.array([values.shape[1] for values in kinds])
    if counts.min() < 2 or sum(counts - 1) < MIN_VALUES - 1:
        return np.tile(NO_INTERVAL, (len(kinds[0]), 1))
    finite = [np.where(np.isfinite(values), values, np.nan) for values in kinds]
    mean = np.mean([values.mean(1) for values in finite], 0)
    # (kinds, k): the variance of the mean of each kind
    variances = np.array([values.var(1, ddof=1) / values.shape[1] for values in finite])
    half_width = _t_quantile(variances, counts) * np.sqrt(variances.sum(0)) / len(kinds)
    return np.stack([mean - half_width, mean + half_width], 1)


def _t_quantile(variances: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """97.5% quantile of Student's t with Satterthwaite's degrees of freedom, for each row: (k,).

    variances: of the mean of each kind (kinds, k). counts: of the values of each kind (kinds,).
    """
    squares = (variances**2 / (counts - 1)[:, None]).sum(0)
    # where no value deviates any degrees will do: the interval has no width
    degrees = np.divide(variances.sum(0) ** 2, squares, out=np.ones_like(squares), where=squares != 0)
    return np.asarray(stdtrit(degrees, UPPER_PROBABILITY))
