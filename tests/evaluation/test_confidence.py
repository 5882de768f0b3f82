"""Intervals against scipy's, their coverage, by hand, and where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from comp_lib.evaluation.confidence import MIN_VALUES, Intervals, confidence_interval, confidence_intervals
from comp_lib.utils.errors import InputError


@pytest.mark.parametrize("count", [*range(MIN_VALUES, 20), 400])
def test_it_is_students_interval(count):
    values = np.random.default_rng(count).gamma(1.0, size=count)
    theirs = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))
    assert confidence_interval(values) == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("count", [MIN_VALUES, 40])
def test_nineteen_of_twenty_intervals_hold_the_truth(count):
    random = np.random.default_rng(3)
    hits = 0
    for _ in range(300):
        low, high = confidence_interval(random.normal(1.0, 1.0, size=count))
        hits += low <= 1.0 <= high
    assert 0.90 <= hits / 300 <= 0.98


@pytest.mark.parametrize("values", [[], [1.0] * 7, [1.0] * 8 + [math.nan], [1.0] * 20 + [math.inf]])
def test_of_fewer_than_eight_values_or_what_is_no_number_it_is_refused(values):
    with pytest.raises(
        InputError, match=f"expected at least 8 finite values for an interval, got {len(values)}, of"
    ):
        confidence_interval(values)
    assert Intervals.of([{"loss": values}]) == Intervals()


def test_rows_are_as_one_by_one_and_equal_values_leave_no_doubt():
    values = np.random.default_rng(5).normal(size=(4, 20))
    values[1] = 2.5
    values[2, 3] = math.nan
    bounds = confidence_intervals(values)
    assert bounds[0] == pytest.approx(confidence_interval(values[0]))
    assert bounds[1] == pytest.approx((2.5, 2.5))
    assert np.isnan(bounds[2]).all()
    assert bounds[3] == pytest.approx(confidence_interval(values[3]))


# --- several kinds ------------------------------------------------------------------------------------------


def test_of_large_kinds_what_differs_between_them_does_not_count():
    """By the normal approximation of the variance within kinds."""
    random = np.random.default_rng(6)
    kinds = [random.normal(mean, 1.0, size=(1, 60)) for mean in (0.0, 10.0, 20.0)]
    error = sum(values.var() / 60 for values in kinds) ** 0.5 / 3
    middle = np.mean([values.mean() for values in kinds])
    (bounds,) = confidence_intervals(*kinds)
    assert bounds == pytest.approx((middle - 1.96 * error, middle + 1.96 * error), abs=0.02)


def test_of_two_kinds_it_is_welchs_interval():
    """scipy's interval of the difference of two means, of which one is turned round; ours is half as wide."""
    random = np.random.default_rng(7)
    few = random.normal(1.0, 3.0, size=5)
    many = random.normal(2.0, 0.5, size=11)
    theirs = stats.ttest_ind(few, -many, equal_var=False).confidence_interval(0.95)
    assert confidence_intervals(few[None], many[None]) == pytest.approx(np.array([theirs]) / 2, rel=1e-9)


@pytest.mark.parametrize("deviations", [[1.0] * 8, [1.0] * 7 + [3.0], [0.3] * 7 + [5.0]])
def test_nineteen_of_twenty_intervals_of_kinds_hold_the_truth_however_unlike_they_deviate(deviations):
    random = np.random.default_rng(8)
    kinds = [random.normal(2.0, deviation, size=(2000, 8)) for deviation in deviations]
    low, high = confidence_intervals(*kinds).T
    assert 0.935 <= np.mean((low <= 2.0) & (high >= 2.0)) <= 0.965


def test_of_kinds_too_few_values_have_none():
    kinds = [np.random.default_rng(number).normal(size=(2, 3)) for number in range(4)]
    assert not np.isnan(confidence_intervals(*kinds)).any()
    # three kinds have six degrees of freedom, as seven windows of one text have
    assert np.isnan(confidence_intervals(*kinds[:3])).all()
    assert np.isnan(confidence_intervals(*kinds, np.ones((2, 1)))).all()


def test_kinds_without_any_deviation_leave_no_doubt():
    assert confidence_intervals(np.full((1, 5), 2.0), np.full((1, 5), 4.0)) == pytest.approx(
        np.array([[3.0, 3.0]])
    )
