"""The cost model against times made by hand, and the widths that meet a budget against all of them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from variants import build, tokens

from comp_lib.errors import InputError
from comp_lib.evaluation import generation
from comp_lib.on_device import latency
from comp_lib.on_device.latency import CostModel, cut, cuts, fit, measure, parse_budget, widest
from comp_lib.plan import Plan
from comp_lib.shape import Shape

COST = CostModel("decode", fixed=3.0, layer=0.5, group=0.02, neuron=0.001)
SHAPE = dataclasses.replace(Shape.of(build("gqa")), neurons=(400,) * 12, kv_groups=(4,) * 12)


def by_hand(cost, neurons, groups):
    """Added up layer by layer."""
    return cost.fixed + sum(cost.layer + cost.group * g + cost.neuron * n for n, g in zip(neurons, groups, strict=True))


def test_time_adds_up():
    assert COST.milliseconds((10, 300), (1, 4)) == pytest.approx(by_hand(COST, (10, 300), (1, 4)))
    plan = Plan("", 12, (0, 5), (10, 300), (1, 4), 0.1, "decoder", 0.1)
    whole = by_hand(COST, SHAPE.neurons, SHAPE.kv_groups)
    assert COST.fraction(SHAPE, plan) == pytest.approx(by_hand(COST, (10, 300), (1, 4)) / whole)


def test_the_fit_finds_what_the_times_were_made_from():
    widths = cuts(SHAPE)
    found = fit("decode", widths, [by_hand(COST, *each) for each in widths])
    assert dataclasses.astuple(found)[1:5] == pytest.approx(dataclasses.astuple(COST)[1:5])
    assert found.misfit < 1e-9


def test_the_cuts_tell_all_terms_apart_and_are_no_larger_than_the_model():
    terms = torch.tensor([[1.0, len(n), sum(g), sum(n)] for n, g in cuts(SHAPE)], dtype=torch.float64)
    assert torch.linalg.matrix_rank(terms) == 4
    assert (terms <= terms[0]).all() and terms[0].tolist() == [1, 12, 48, 4800]


def test_noisy_times_give_no_negative_cost_and_tell_their_misfit():
    widths = cuts(SHAPE)
    times = [10.0, 10.5, 9.0, 5.0, 11.0]  # fewer layers, and fewer groups, took longer
    found = fit("decode", widths, times)
    assert min(dataclasses.astuple(found)[1:]) >= 0
    worst = max(abs(found.milliseconds(*each) / time - 1) for each, time in zip(widths, times, strict=True))
    assert found.misfit == pytest.approx(worst) and worst > 0.01


def test_what_does_not_vary_is_not_made_up():
    """One KV group in each cut: its cost cannot be told from the layer's."""
    shape = dataclasses.replace(SHAPE, kv_groups=(1,) * 12)
    widths = cuts(shape)
    assert all(set(groups) == {1} for _, groups in widths)
    found = fit("decode", widths, [by_hand(COST, *each) for each in widths])
    assert found.group == 0 and found.layer == pytest.approx(COST.layer + COST.group)
    assert found.milliseconds(shape.neurons, shape.kv_groups) == pytest.approx(
        by_hand(COST, shape.neurons, shape.kv_groups)
    )


@pytest.mark.parametrize("share", [0.3, 0.5, 0.61, 0.9, 0.99])
@pytest.mark.parametrize("multiple", [1, 64])
def test_the_widest_that_fits_by_trying_all(share, multiple):
    allowed = share * by_hand(COST, SHAPE.neurons, SHAPE.kv_groups)
    for dropped in range(12):
        options = [n for n in range(1, 401) if n % multiple == 0 or n == 400]
        fitting = [n for n in options if by_hand(COST, (n,) * (12 - dropped), (4,) * (12 - dropped)) <= allowed + 1e-9]
        assert widest(COST, SHAPE, dropped, share, multiple) == max(fitting, default=0)


def test_fewer_groups_leave_time_for_neurons():
    assert widest(COST, SHAPE, 0, 0.9, 1, kv_groups=2) > widest(COST, SHAPE, 0, 0.9, 1)


@pytest.mark.parametrize(
    ("text", "kind", "share"),
    [("latency=0.75", "decode", 0.75), ("decode=0.5", "decode", 0.5), ("prefill=.9", "prefill", 0.9)],
)
def test_a_budget_is_read(text, kind, share):
    assert parse_budget(text) == (kind, share)


@pytest.mark.parametrize("text", ["", "0.75", "latency", "latency=fast", "latency=1", "latency=0", "decode=nan", "x=1"])
def test_a_budget_that_says_nothing_is_refused(text):
    with pytest.raises(InputError, match="expected a budget such as latency=0.75"):
        parse_budget(text)


# --- measuring --------------------------------------------------------------------------------------------------------


def test_every_cut_is_timed_and_the_fastest_run_counts(monkeypatch):
    """With a clock of our own, exact in its fastest round."""
    seen = []

    def timed(model, ids, new_tokens):
        shape = Shape.of(model)
        seen.append((shape.neurons, shape.kv_groups))
        slow = 1 + len(seen) // len(cuts(Shape.of(parent))) % 2  # every other round
        time = by_hand(COST, shape.neurons, shape.kv_groups)
        return 2e-3 * time * slow, 1e-3 * time * new_tokens * slow

    parent = build("gqa")
    monkeypatch.setattr(generation, "timed", timed)
    found = measure(parent, prompt=16, new_tokens=4, rounds=3)
    assert seen[: len(seen) // 4] == cuts(Shape.of(parent)) and len(seen) == 4 * len(cuts(Shape.of(parent)))
    for kind, factor in (("decode", 1), ("prefill", 2)):
        expected = factor * by_hand(COST, (48,) * 3, (2,) * 3)
        assert found[kind].kind == kind and found[kind].milliseconds((48,) * 3, (2,) * 3) == pytest.approx(expected)


@pytest.mark.parametrize("variant", ["gqa", "mqa", "tied", "mistral-window", "qwen2"])
def test_real_models_are_timed(variant):
    model = build(variant)
    before = Shape.of(model)
    found = measure(model, prompt=16, new_tokens=2, rounds=1)
    assert all(cost.milliseconds(before.neurons, before.kv_groups) > 0 for cost in found.values())
    assert Shape.of(model) == before


def test_a_cut_model_has_the_shape_of_the_plan_and_leaves_the_parent_alone():
    model = build("gqa")
    before = Shape.of(model)
    small = cut(model, Plan("", 3, (0, 2), (16, 48), (2, 1), 0.1, "decoder", 0.1))
    assert (Shape.of(small).neurons, Shape.of(small).kv_groups) == ((16, 48), (2, 1))
    assert Shape.of(model) == before
    small(tokens(1, 8))  # it runs


def test_calls_take_turns():
    turns = []
    found = latency.milliseconds([lambda: turns.append(0), lambda: turns.append(1)], repeats=3)
    assert found.shape == (2, 3) and (found >= 0).all() and turns == [0, 1] * 4
