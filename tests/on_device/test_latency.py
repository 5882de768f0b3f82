"""The cost model against times made by hand, and the widths that meet a budget against all of them."""

from __future__ import annotations

import dataclasses

import pytest
from variants import build

from comp_lib.on_device.latency import CostModel, candidates, fit
from comp_lib.shape import Shape

COST = CostModel("decode", fixed=3.0, layer=0.5, group=0.02, neuron=0.001)
SHAPE = dataclasses.replace(Shape.of(build("gqa")), neurons=(400,) * 12, kv_groups=(4,) * 12)
WIDTHS = [((n,) * L, (g,) * L) for L, n, g in ((12, 400, 4), (6, 400, 4), (12, 100, 4), (6, 200, 4), (12, 400, 1))]


def by_hand(cost, neurons, groups):
    """Added up layer by layer."""
    return cost.fixed + sum(cost.layer + cost.group * g + cost.neuron * n for n, g in zip(neurons, groups, strict=True))


def test_time_adds_up():
    assert COST.milliseconds((10, 300), (1, 4)) == pytest.approx(by_hand(COST, (10, 300), (1, 4)))


def test_the_fit_finds_what_the_times_were_made_from():
    found = fit("decode", WIDTHS, [by_hand(COST, *each) for each in WIDTHS])
    assert dataclasses.astuple(found)[1:5] == pytest.approx(dataclasses.astuple(COST)[1:5])
    assert found.misfit < 1e-9


def test_noisy_times_give_no_negative_cost_and_tell_their_misfit():
    times = [10.0, 10.5, 9.0, 5.0, 11.0]  # fewer layers, and fewer groups, took longer
    found = fit("decode", WIDTHS, times)
    assert min(dataclasses.astuple(found)[1:]) >= 0
    worst = max(abs(found.milliseconds(*each) / time - 1) for each, time in zip(WIDTHS, times, strict=True))
    assert found.misfit == pytest.approx(worst) and worst > 0.01


def test_what_does_not_vary_is_not_made_up():
    """One KV group in each model: its cost cannot be told from the layer's."""
    widths = [(neurons, (1,) * len(neurons)) for neurons, _ in WIDTHS[:4]]
    found = fit("decode", widths, [by_hand(COST, *each) for each in widths])
    assert found.group == 0 and found.layer == pytest.approx(COST.layer + COST.group)
    assert found.milliseconds(*widths[0]) == pytest.approx(by_hand(COST, *widths[0]))


@pytest.mark.parametrize("share", [0.3, 0.5, 0.61, 0.9, 0.99])
@pytest.mark.parametrize("multiple", [1, 64])
def test_the_widest_that_fits_by_trying_all(share, multiple):
    allowed = share * by_hand(COST, SHAPE.neurons, SHAPE.kv_groups)
    expected = []
    for dropped in range(12):
        options = [n for n in range(40, 401) if n % multiple == 0 or n == 400]
        fitting = [n for n in options if by_hand(COST, (n,) * (12 - dropped), (4,) * (12 - dropped)) <= allowed + 1e-9]
        expected += [(dropped, max(fitting))] if fitting else []
        if expected and expected[-1][1] == 400:
            break
    assert candidates(COST, SHAPE, share, multiple) == expected and expected
