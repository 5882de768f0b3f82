"""The cost model against times made by hand."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from variants import build, tokens

from comp_lib.evaluation import generation
from comp_lib.on_device.latency import CostModel, cut, cuts, fit, measure
from comp_lib.shape import Shape

COST = CostModel("decode", fixed=3.0, layer=0.5, group=0.02, neuron=0.001)
SHAPE = dataclasses.replace(Shape.of(build("gqa")), neurons=(400,) * 12, kv_groups=(4,) * 12)


def by_hand(cost, neurons, groups):
    """Added up layer by layer."""
    return cost.fixed + sum(cost.layer + cost.group * g + cost.neuron * n for n, g in zip(neurons, groups, strict=True))


def test_time_adds_up():
    assert COST.milliseconds((10, 300), (1, 4)) == pytest.approx(by_hand(COST, (10, 300), (1, 4)))
    whole = by_hand(COST, SHAPE.neurons, SHAPE.kv_groups)
    assert sum(COST.parts(SHAPE).values()) == pytest.approx(whole)


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


def test_a_cut_model_has_the_widths_that_were_asked_for_and_leaves_the_parent_alone():
    model = build("gqa")
    before = Shape.of(model)
    small = cut(model, ((16, 48), (2, 1)))
    assert (Shape.of(small).neurons, Shape.of(small).kv_groups) == ((16, 48), (2, 1))
    assert Shape.of(model) == before
    small(tokens(1, 8))  # it runs
