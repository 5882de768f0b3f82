"""The search for a ratio: where it ends, how often it tries, and that it needs no model."""

from __future__ import annotations

import math

import pytest

from comp_lib.disk.ratio_search import LARGEST_RATIO, SMALLEST_RATIO, SUFFICIENT_SHARE, TRIES, largest_ratio


def search(at_most, cost_of):
    """The ratio found, and all that were tried."""
    tried = []

    def noting(ratio):
        tried.append(ratio)
        return cost_of(ratio)

    return largest_ratio(at_most, noting), tried


@pytest.mark.parametrize("at_most", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("power", [2, 3])
def test_the_ratio_costs_nearly_what_is_allowed(at_most, power):
    ratio, tried = search(at_most, lambda ratio: 4 * ratio**power)
    assert 0.5 * at_most <= 4 * ratio**power <= at_most
    assert ratio == max(value for value in tried if 4 * value**power <= at_most)
    assert len(tried) <= TRIES


def test_a_cost_that_suffices_ends_the_search():
    assert search(1.0, lambda ratio: SUFFICIENT_SHARE) == (LARGEST_RATIO / 4, [LARGEST_RATIO / 4])


def test_where_everything_is_free_the_ratio_grows_towards_the_largest():
    ratio, tried = search(1.0, lambda ratio: 0.0)
    assert ratio == tried[-1] == max(tried) <= LARGEST_RATIO
    assert tried == sorted(set(tried))
    assert len(tried) == TRIES


@pytest.mark.parametrize("cost", [None, 5.0, math.nan, math.inf])
def test_where_nothing_is_allowed_the_smallest_ratio_was_tried_last(cost):
    ratio, tried = search(0.1, lambda ratio: cost)
    assert ratio is None
    assert tried[-1] == SMALLEST_RATIO
    assert tried == sorted(set(tried), reverse=True)


def test_ratios_out_of_reach_are_searched_below():
    ratio, tried = search(1.0, lambda ratio: ratio if ratio < 0.1 else None)
    assert ratio < 0.1 < max(tried)


def test_progress_names_each_ratio_and_its_cost():
    lines = []
    largest_ratio(1.0, lambda ratio: 0.95, lambda *call: lines.append(call[:3]))
    assert lines == [("ratio 0.200: +0.950 nats", 1, TRIES)]
