"""The bootstrap against a normal approximation, its coverage, and the cases where there is nothing to say."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
from scipy import stats

from comp_lib.evaluation import confidence, generation
from comp_lib.evaluation.confidence import bootstrap_interval


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_with_many_values_it_is_the_normal_interval(level):
    values = np.random.default_rng(1).normal(3.0, 2.0, size=2000)
    expected = stats.norm.interval(level, values.mean(), values.std() / len(values) ** 0.5)
    assert bootstrap_interval(values, level) == pytest.approx(expected, abs=0.01)


def test_it_is_scipys_percentile_interval():
    values = np.random.default_rng(2).gamma(1.0, size=15)  # few and skewed, where intervals differ from one another
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", random_state=np.random.default_rng(0)
    ).confidence_interval
    assert bootstrap_interval(values) == pytest.approx((theirs.low, theirs.high), abs=0.03)
    assert values.mean() - theirs.low != pytest.approx(theirs.high - values.mean(), rel=0.1)


def test_nineteen_of_twenty_intervals_hold_the_truth(monkeypatch):
    monkeypatch.setattr("comp_lib.evaluation.confidence.RESAMPLES", 500)
    random = np.random.default_rng(3)
    held = 0
    for _ in range(300):
        low, high = bootstrap_interval(random.normal(1.0, 1.0, size=40))
        held += low <= 1.0 <= high
    assert 0.90 <= held / 300 <= 0.98


def test_two_values_by_hand():
    # means of two draws are 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4
    assert bootstrap_interval([0.0, 1.0]) == (0.0, 1.0)
    assert bootstrap_interval([0.0, 1.0], level=0.4) == (0.5, 0.5)


def test_a_seed_repeats_it_and_another_hardly_moves_it():
    values = np.random.default_rng(4).normal(size=30)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values.tolist(), seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)
    assert bootstrap_interval(values, seed=1) == pytest.approx(bootstrap_interval(values, seed=2), abs=0.03)


def test_equal_values_leave_no_doubt():
    assert bootstrap_interval([2.5] * 4) == (2.5, 2.5)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan], [1.0, math.inf]])
def test_nothing_to_say(values):
    assert all(math.isnan(bound) for bound in bootstrap_interval(values))


@pytest.mark.parametrize("module", [confidence, generation])
def test_the_examples_in_the_docstrings_hold(module):
    failed, tried = doctest.testmod(module)
    assert tried and not failed
