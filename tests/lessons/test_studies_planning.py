"""Predictions from curves, water-filling against brute force, what the model says, and latency arithmetic."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from variants import build, tokens

from comp_lib.errors import InputError
from comp_lib.evaluation.loss import perplexity
from comp_lib.hybrid_granularity.uniform import uniform_plan
from comp_lib.importance.neurons import RIDGE
from comp_lib.lessons import cache
from comp_lib.lessons import hybrid_granularity as planning
from comp_lib.lessons.dense_stream import survey
from comp_lib.plan import Plan, PlanRequest, removed
from comp_lib.prune import prune
from comp_lib.settings import Settings
from comp_lib.shape import Shape
from comp_lib.surgery import shrink_mlp

pytestmark = pytest.mark.usefixtures("own_cache")

COSTS = {"neuron_parameters": 96, "group_parameters": 1536, "layer_parameters": 64, "other_parameters": 16_032}
SHAPE = Shape(32, 8, 2, (8, 8, 8), (2, 2, 2), **COSTS)
CURVES = {
    "counts": torch.tensor([0, 2, 4, 6]),
    "errors": torch.tensor([[0, 0.01, 0.05, 0.20], [0, 0.03, 0.07, 0.12], [0, 0.02, 0.03, 0.50]], dtype=torch.float64),
}


def plan_of(layers, widths, groups=None) -> Plan:
    groups = groups or (2,) * len(layers)
    return Plan("", 3, layers, widths, groups, 0.1, "decoder", removed(SHAPE, layers, widths, groups, "decoder"))


# --- prediction -------------------------------------------------------------------------------------------------------


def test_a_curve_goes_through_what_was_measured_and_ends_at_one():
    curve = planning.full_curve(CURVES, 0, 8)
    assert curve[[0, 2, 4, 6, 8]].tolist() == [0.0, 0.01, 0.05, 0.20, 1.0]
    assert curve[[1, 3, 5, 7]].tolist() == pytest.approx([0.005, 0.03, 0.125, 0.6])


def test_a_narrow_layer_has_a_shorter_curve():
    nan = float("nan")
    curves = {"counts": torch.tensor([0, 2, 4]), "errors": torch.tensor([[0.0, 0.1, nan], [0.0, 0.1, 0.3]])}
    assert planning.full_curve(curves, 0, 4).tolist() == pytest.approx([0.0, 0.05, 0.1, 0.55, 1.0])
    # a count equal to the width says the same as the end point, and does not divide by zero
    assert planning.full_curve(curves, 1, 4).tolist() == pytest.approx([0.0, 0.05, 0.1, 0.55, 1.0])


def test_a_dropped_layer_counts_as_all_of_its_error():
    plan = plan_of((0, 2), (6, 5))
    assert planning.layer_errors(CURVES, SHAPE, plan).tolist() == pytest.approx([0.01, 1.0, 0.025])
    assert float(planning.layer_errors(CURVES, SHAPE, plan).mean()) == pytest.approx((0.01 + 1.0 + 0.025) / 3)


def test_another_model_s_curves_are_refused():
    fewer = {"counts": CURVES["counts"], "errors": CURVES["errors"][:2]}
    with pytest.raises(InputError, match="got 3 layers in the shape, 3 in the plan and 2 curves"):
        planning.layer_errors(fewer, SHAPE, plan_of((0, 1, 2), (8, 8, 8)))


def test_the_curves_of_a_model_predict_what_each_layer_loses():
    model, ids = build("gqa"), tokens(6, 24)
    shape, curves = Shape.of(model), survey(model, ids, block_rounds=16)
    plan = Plan("", 3, (0, 1, 2), (32, 48, 48), (2, 2, 2), 0.1, "decoder", 0.1)
    # the first layer reads the dense stream in `prune` too, and rounds of 16 are the same in both
    error = prune(model, ids, Settings(multiple=16, ridge=RIDGE), plan=plan).report.layers[0].error
    assert planning.layer_errors(curves, shape, plan).tolist() == pytest.approx([error, 0.0, 0.0], rel=1e-5)


def brute_force(budget: int, worth=(1.0, 1.0, 1.0)) -> float:
    """Least sum of errors of all widths that free `budget` parameters, for curves that rise ever faster."""
    curves = [planning.full_curve(CONVEX, layer, 8) * worth[layer] for layer in range(3)]
    options = itertools.product(range(0, 8, 2), repeat=3)
    return min(float(sum(curves[i][g] for i, g in enumerate(gone))) for gone in options if sum(gone) * 96 >= budget)


CONVEX = {
    "counts": torch.tensor([0, 2, 4, 6]),
    "errors": torch.tensor([[0, 0.01, 0.05, 0.20], [0, 0.03, 0.07, 0.12], [0, 0.02, 0.05, 0.50]], dtype=torch.float64),
}


@pytest.mark.parametrize("worth", [None, (1.0, 1.0, 1.0), (20.0, 1.0, 1.0), (0.1, 5.0, 1.0)])
@pytest.mark.parametrize("steps", range(1, 9))
def test_water_filling_is_optimal_where_curves_rise_ever_faster(worth, steps):
    ratio = steps * 2 * 96 / SHAPE.decoder
    plan = planning.water_filling_plan(PlanRequest(SHAPE, ratio - 1e-9, multiple=2), CONVEX, worth=worth)
    assert plan.removed == pytest.approx(ratio) and plan.layers == (0, 1, 2)
    scale = worth or (1.0, 1.0, 1.0)
    found = sum(w * e for w, e in zip(scale, planning.layer_errors(CONVEX, SHAPE, plan).tolist(), strict=True))
    assert found == pytest.approx(brute_force(steps * 2 * 96, scale))


def test_water_filling_beats_uniform_at_its_own_game():
    generator = torch.Generator().manual_seed(0)
    rates = torch.rand(3, generator=generator, dtype=torch.float64)
    curves = {"counts": torch.arange(7), "errors": rates[:, None] * (torch.arange(7) / 8) ** 2}
    for ratio in (0.05, 0.1, 0.15):
        water = planning.water_filling_plan(PlanRequest(SHAPE, ratio, multiple=1), curves)
        uniform = uniform_plan(PlanRequest(SHAPE, ratio, multiple=1))
        assert water.removed >= ratio
        if water.removed == pytest.approx(uniform.removed):
            predicted = [float(planning.layer_errors(curves, SHAPE, plan).mean()) for plan in (water, uniform)]
            assert predicted[0] <= predicted[1]


def test_water_filling_drops_layers_and_counts_the_model():
    plan = planning.water_filling_plan(PlanRequest(SHAPE, 0.16, drop=[1], of="model", multiple=2, parent="p"), CURVES)
    assert plan.layers == (0, 2) and plan.dropped == (1,) and plan.parent == "p" and plan.of == "model"
    left = sum(n * 96 + 2 * 1536 + 64 for n in plan.neurons)
    assert plan.removed == pytest.approx((SHAPE.decoder - left) / SHAPE.total) and plan.removed >= 0.16


def test_water_filling_leaves_a_tenth_and_says_when_that_is_not_enough():
    wide = Shape(32, 8, 2, (40, 40), (2, 2), **COSTS)
    curves = {"counts": torch.tensor([0, 20]), "errors": torch.tensor([[0.0, 0.1], [0.0, 0.1]])}
    plan = planning.water_filling_plan(PlanRequest(wide, 0.28, multiple=4), curves, worth=[1, 1e-6])
    assert plan.neurons[1] == 4 and plan.neurons[0] > 4
    most = removed(wide, (0, 1), (4, 4), (2, 2), "decoder")  # what uniform widths can reach as well
    assert planning.water_filling_plan(PlanRequest(wide, most, multiple=4), curves).neurons == (4, 4)
    with pytest.raises(InputError, match="expected a ratio that these layers and groups allow"):
        planning.water_filling_plan(PlanRequest(wide, 0.9, multiple=4), curves)
    with pytest.raises(InputError, match="expected one worth for each of 2 layers, got 3"):
        planning.water_filling_plan(PlanRequest(wide, 0.2, multiple=4), curves, worth=[1, 1, 1])


# --- what the model says ----------------------------------------------------------------------------------------------


def test_narrowing_harm_is_that_of_a_model_with_one_narrow_layer():
    model, ids, held = build("mlp-bias"), tokens(5, 24), tokens(3, 20, seed=9)
    found = planning.narrowing_harm(model, ids, held, 16, [2, 0])
    assert found["layers"].tolist() == [0, 2]
    whole = perplexity(model, held).loss
    for place, layer in enumerate((0, 2)):
        widths = tuple(32 if index == layer else 48 for index in range(3))
        plan = Plan("", 3, (0, 1, 2), widths, (2, 2, 2), 0.1, "decoder", 0.1)
        pruned = prune(model, ids, Settings(multiple=16, ridge=RIDGE), plan=plan)
        assert float(found["harm"][place]) == pytest.approx(perplexity(pruned.model, held).loss - whole, abs=1e-4)
        assert float(found["error"][place]) == pytest.approx(pruned.report.layers[layer].error, rel=1e-4)


def test_the_share_of_the_stream_is_counted_token_by_token():
    model, ids = build("gqa"), tokens(4, 24)
    seen = {}
    layer = model.model.layers[1]
    hooks = [
        layer.mlp.register_forward_hook(lambda module, args, out: seen.update(own=out)),
        layer.register_forward_hook(lambda module, args, out: seen.update(stream=out)),
    ]
    with torch.no_grad():
        model(ids)
    for hook in hooks:
        hook.remove()
    share = (seen["own"].square().sum(-1) / seen["stream"].square().sum(-1)).mean()
    found = planning.narrowing_harm(model, ids, ids[:1], 8, [1])
    assert float(found["share"]) == pytest.approx(float(share), rel=1e-4)


@pytest.mark.parametrize(("gone", "layers"), [(0, [0]), (48, [0]), (8, []), (8, [3]), (8, [-1])])
def test_narrowing_what_is_not_there_is_refused(gone, layers):
    with pytest.raises(InputError, match="expected layers from 0 to 2 and fewer neurons to remove than they have"):
        planning.narrowing_harm(build("gqa"), tokens(), tokens(), gone, layers)


def test_an_outcome_is_that_of_prune_and_is_kept(monkeypatch):
    model, ids, seen = build("gqa"), tokens(5, 24), tokens(3, 20, seed=9)
    plan = Plan("", 3, (0, 2), (40, 32), (2, 2), 0.1, "decoder", 0.1)
    first = planning.outcome(model, ids, seen, plan)
    pruned = prune(model, ids, Settings(), plan=plan)
    assert first["loss"] == pytest.approx(perplexity(pruned.model, seen).loss)
    assert first["perplexity"] == pytest.approx(math.exp(first["loss"]))
    assert first["parameters"] == pruned.model.num_parameters()
    assert first["errors"].tolist() == pytest.approx([layer.error for layer in pruned.report.layers])
    assert cache.cache_size()[0] == 1
    monkeypatch.setattr(planning, "prune", None)  # from here on, only the cache can answer
    again = planning.outcome(model, ids, seen, plan)
    assert again["loss"] == first["loss"] and again["parameters"] == first["parameters"]
    with pytest.raises(TypeError):
        planning.outcome(model, ids, seen[:2], plan)


# --- latency ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["gqa", "mistral-window", "qwen2"])
def test_every_width_is_timed_on_layers_of_that_width(variant, monkeypatch):
    seen = []
    monkeypatch.setattr(planning, "shrink_mlp", lambda layer, kept: (seen.append(len(kept)), shrink_mlp(layer, kept)))
    model = build(variant)
    found = planning.layer_latency(model, [8, 48], tokens=4, repeats=2, stack=2)
    assert seen == [8, 8, 48, 48] and found["widths"].tolist() == [8, 48]
    assert found["milliseconds"].shape == (2, 2) and (found["milliseconds"] > 0).all()
    assert Shape.of(model).neurons == (48, 48, 48)


@pytest.mark.parametrize("widths", [[], [0, 8], [8, 49]])
def test_widths_that_are_not_there_cannot_be_timed(widths):
    with pytest.raises(InputError, match="expected widths from 1 to 48 neurons"):
        planning.layer_latency(build("gqa"), widths)


def test_the_line_goes_through_the_fastest_runs():
    widths = torch.tensor([100, 200, 400])
    exact = 2.0 + 0.01 * widths.double()
    found = {"widths": widths, "milliseconds": torch.stack([exact + 3.0, exact, exact + 1.0], 1)}
    assert planning.latency_line(found) == pytest.approx((2.0, 0.01))


def test_the_width_for_a_latency_budget():
    # dense: 2 + 0.01 * 800 = 10 ms; 20% less is 8 ms, which 600 neurons take exactly
    assert planning.width_for_latency((2.0, 0.01), 800, 0.2 - 1e-9, multiple=100) == 600
    assert planning.width_for_latency((2.0, 0.01), 800, 0.21, multiple=100) == 500
    with pytest.raises(InputError, match="got 85% less time where the neurons take only 80% of it: drop layers"):
        planning.width_for_latency((2.0, 0.01), 800, 0.85, multiple=100)
