"""Measured harm: each against a changed model, and widths against every other choice."""

from __future__ import annotations

import copy
from itertools import product

import pytest
import torch
from tools import curve_of
from variants import LAYOUTS, build, tokens

import comp_lib.hybrid_granularity.measured as harm_module
from comp_lib.decoder.run import embed, head, layer_arguments
from comp_lib.decoder.shape import Shape
from comp_lib.decoder.walk import send_through
from comp_lib.hybrid_granularity import narrowing
from comp_lib.hybrid_granularity.by_harm import HARM_EXPONENT, allocate_widths, plan_by_harm
from comp_lib.hybrid_granularity.measured import (
    MeasuredHarm,
    gather_and_pass,
    interpolate,
    measure_harm,
    sweep_and_refit,
)
from comp_lib.hybrid_granularity.narrowing import states_with_and_without
from comp_lib.hybrid_granularity.plan import PlanRequest
from comp_lib.importance.problem import RIDGE
from comp_lib.pruning.comp import prune
from comp_lib.pruning.planning import make_plan
from comp_lib.pruning.settings import Settings
from comp_lib.utils.errors import InputError

GONE = 12


@pytest.fixture(scope="module")
def model(tiny_llama):
    return tiny_llama()


@pytest.fixture(scope="module")
def ids():
    return torch.randint(0, 512, (10, 24), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def measured(model, ids):
    return measure_harm(model, ids, GONE)


def test_harm_is_the_divergence_of_a_model_in_which_one_layer_was_pruned(model, ids, measured):
    """By another way: `prune` narrows that layer alone on the fitted ids, and the model runs on the rest."""
    fitted_ids = ids[:-4]
    judging_ids = ids[-4:]
    shape = Shape.of(model)
    with torch.no_grad():
        dense = model(input_ids=judging_ids).logits.log_softmax(-1)
    for layer in range(shape.layer_count):
        kept = [range(width) for width in shape.neurons]
        kept[layer] = sorted(set(kept[layer]) - set(measured.sweeps[layer].order[:GONE].tolist()))
        plan = PlanRequest(shape, 0.01).exact_plan(kept, [range(groups) for groups in shape.kv_groups])
        pruned = prune(model, fitted_ids, Settings(ridge=0.1, aim="self"), plan=plan).model
        with torch.no_grad():
            changed = pruned(input_ids=judging_ids).logits.log_softmax(-1)
        expected = (dense.exp() * (dense - changed)).sum(-1).mean()
        assert float(measured.harm[layer]) == pytest.approx(float(expected), rel=1e-3)
        assert float(expected) > 1e-3


@torch.no_grad()
def layer_by_layer(model, fitted_ids, judging_ids, removed):
    """The harms by walking the rest of the model anew for each layer, in the same arithmetic."""
    layers = model.model.layers
    arguments, judging_arguments = (
        layer_arguments(model, sequences.shape[1], "cpu", model.dtype)
        for sequences in (fitted_ids, judging_ids)
    )

    def predictions(hidden, first):
        for layer in layers[first:]:
            hidden = send_through(layer, hidden, judging_arguments, "cpu")
        states = hidden.flatten(0, 1)
        states = model.model.norm(states[:: -(-len(states) // harm_module.COMPARED_POSITIONS)])
        return [
            head(model, rows).float().log_softmax(-1) for rows in states.split(narrowing.POSITIONS_PER_BATCH)
        ]

    stream = embed(model, fitted_ids)
    dense_stream = embed(model, judging_ids)
    harms = []
    dense_predictions = predictions(dense_stream, 0)
    for index, layer in enumerate(layers):
        _, refitted = sweep_and_refit(layer, gather_and_pass(layer, stream, arguments), removed, RIDGE)
        dense_stream, changed_stream = states_with_and_without(
            layer, dense_stream, judging_arguments, refitted
        )
        pairs = zip(dense_predictions, predictions(changed_stream, index + 1), strict=True)
        total = sum(float((p.exp() * (p - q)).sum(1).sum()) for p, q in pairs)
        harms.append(total / sum(map(len, dense_predictions)))
    return torch.tensor(harms, dtype=torch.float64)


@pytest.mark.parametrize("name", ["gqa", "all-at-once", "rope-longrope", "gemma3", "granite", "phi3"])
def test_one_walk_gives_the_harms_of_many_to_the_bit(name):
    model = build(name)
    ids = tokens(10, 24)
    expected = layer_by_layer(model, ids[:-4], ids[-4:], GONE)
    assert torch.equal(measure_harm(model, ids, GONE).harm, expected)
    assert bool((expected > 1e-4).all())


@pytest.mark.parametrize("name", LAYOUTS)
@torch.no_grad()
def test_harm_is_what_the_model_itself_answers_with_other_weights(name):
    """By transformers' own forward pass: multipliers, norms after the output linear and all."""
    model = build(name)
    ids = tokens(10, 24)
    fitted_ids = ids[:-4]
    judging_ids = ids[-4:]
    measured = measure_harm(model, ids, GONE)
    stream = embed(model, fitted_ids)
    arguments = layer_arguments(model, ids.shape[1], "cpu", torch.float32)
    p = model(judging_ids).logits.log_softmax(-1)
    for index, layer in enumerate(model.model.layers):
        changed = copy.deepcopy(model)
        _, refitted = sweep_and_refit(layer, gather_and_pass(layer, stream, arguments), GONE, RIDGE)
        changed.model.layers[index].mlp.down_proj.weight.copy_(refitted.T)
        q = changed(judging_ids).logits.log_softmax(-1)
        assert float(measured.harm[index]) == pytest.approx(
            float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-3
        )


@pytest.mark.parametrize(
    "limits",
    [
        {"COMPARED_POSITIONS": 37, "POSITIONS_PER_BATCH": 10},
        {"JUDGED_LENGTH": 9},
        {"JUDGED_LENGTH": 9, "COMPARED_POSITIONS": 11},
    ],
)
def test_the_walk_keeps_to_its_limits(limits, model, ids, monkeypatch):
    for name, value in limits.items():
        module = narrowing if name == "POSITIONS_PER_BATCH" else harm_module
        monkeypatch.setattr(module, name, value)
    expected = layer_by_layer(model, ids[:-4], ids[-4:, : limits.get("JUDGED_LENGTH")], GONE)
    assert torch.equal(measure_harm(model, ids, GONE).harm, expected)


def test_no_weights_of_a_curve_stay_in_memory(measured):
    """Not even behind a view of none of them."""
    assert [swept.weights.untyped_storage().nbytes() for swept in measured.sweeps] == [0, 0, 0]


def test_the_model_stays_as_it_was(model, ids):
    before = copy.deepcopy(model.state_dict())
    measure_harm(model, ids[:2], 1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_sequences_that_judge_are_not_fitted(model, ids):
    """Another judge changes the harms, not the curves."""
    other_ids = torch.cat([ids[:-4], ids[-4:].flip(1)])
    measured = measure_harm(model, ids, GONE)
    measured_on_others = measure_harm(model, other_ids, GONE)
    assert torch.equal(measured.sweeps[0].objectives, measured_on_others.sweeps[0].objectives)
    assert not torch.allclose(measured.harm, measured_on_others.harm)


def test_interpolate_passes_through_the_points_and_stays_flat_after_them():
    curve = interpolate(torch.tensor([2, 5]), torch.tensor([1.0, 4.0]), 7)
    assert curve.tolist() == pytest.approx([0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 4.0, 4.0])


def test_widths_are_the_best_of_all_where_curves_rise_ever_faster(model):
    """Brute force over every width of three layers; greedy steps are exact on convex curves."""
    shape = Shape.of(model)
    harm = torch.tensor([0.4, 0.05, 0.1], dtype=torch.float64)
    errors = [[(removed / 43) ** power for removed in range(1, 44)] for power in (2.0, 1.5, 3.0)]
    measured = MeasuredHarm((12,) * 3, harm, tuple(map(curve_of, errors)))
    ratio = PlanRequest(shape, 0.5).removed_share((36, 36, 36))
    plan = plan_by_harm(PlanRequest(shape, ratio, multiple=4), measured)
    assert sum(plan.neurons) == 3 * 36
    assert plan.removed == pytest.approx(ratio)

    def predicted(widths):
        layers = zip(widths, harm.tolist(), errors, strict=True)
        return sum(
            (weight**HARM_EXPONENT) * (([0.0] + curve)[48 - width] / curve[12 - 1])
            for width, weight, curve in layers
        )

    candidates = [widths for widths in product(range(8, 49, 4), repeat=3) if sum(widths) == 3 * 36]
    assert predicted(plan.neurons) == pytest.approx(min(map(predicted, candidates)))
    assert plan.neurons[0] > plan.neurons[1]  # the layer that minds most stays widest


def test_a_single_sequence_is_refused(model, ids):
    """It would judge what was fitted to it."""
    with pytest.raises(InputError, match="2 or more sequences for widths by harm, got 1: one of them judges"):
        measure_harm(model, ids[:1], GONE)


def test_widths_are_none_where_there_is_no_room_for_a_step():
    shape = type("Widths", (), {"neurons": (8, 8)})
    flat = {0: torch.zeros(9), 1: torch.zeros(9)}
    assert allocate_widths(shape, flat, 12, 4) == (4, 8)
    assert allocate_widths(shape, flat, 1, 4) is None


def test_prune_with_measured_widths_removes_what_uniform_ones_do(model, ids):
    settings = Settings(ratio=0.2, widths="measured", multiple=4, ridge=0.1)
    plan = make_plan(model, ids, settings)
    uniform = make_plan(model, ids, Settings(ratio=0.2, multiple=4, widths="uniform"))
    assert plan.removed == pytest.approx(uniform.removed)
    assert len(set(plan.neurons)) > 1
    pruned = prune(model, ids, settings)
    assert pruned.plan.neurons == plan.neurons
    assert Shape.of(pruned.model).neurons == plan.neurons


def test_what_cannot_be_measured_is_refused(model, ids):
    with pytest.raises(InputError, match="2 or more sequences for widths by harm, got 1"):
        prune(model, ids[:1], Settings(widths="measured"))
    with pytest.raises(InputError, match="recovery to be least-squares with widths measured"):
        Settings(widths="measured", recovery="mask")


def test_measured_widths_obey_ridge_token_weights_and_device(model, ids, monkeypatch):
    calls = []

    def recorded(*arguments, **options):
        calls.append(options)
        return measure_harm(*arguments, **options)

    monkeypatch.setattr("comp_lib.pruning.planners.comp.measure_harm", recorded)
    for ridge, weighted in ((2.0, True), (0.1, False), ("auto", True)):
        make_plan(model, ids, Settings(widths="measured", multiple=4, ridge=ridge, token_weights=weighted))
    assert [options["ridge"] for options in calls] == [2.0, 0.1, RIDGE]
    assert [options["token_weights"] for options in calls] == [True, False, True]
    assert {options["device"] for options in calls} == {"cpu"}
    default, with_large_ridge, without_token_weights = (
        measure_harm(model, ids, GONE, **options).harm
        for options in ({}, {"ridge": 2.0}, {"token_weights": False})
    )
    assert not torch.allclose(default, with_large_ridge)
    assert not torch.allclose(default, without_token_weights)


def test_measured_widths_of_a_model_that_is_uneven_already(model, ids):
    """A model that was pruned with other widths in each layer can be pruned again."""
    shape = Shape.of(model)
    kept = [tuple(range(width)) for width in (48, 20, 40)]
    groups = [tuple(range(count)) for count in shape.kv_groups]
    plan = PlanRequest(shape, 0.1, multiple=4).exact_plan(kept, groups)
    uneven = prune(model, ids, Settings(), plan=plan).model
    plan = make_plan(uneven, ids, Settings(ratio=0.2, widths="measured", multiple=4, ridge=0.1))
    uniform = make_plan(uneven, ids, Settings(ratio=0.2, multiple=4, widths="uniform"))
    assert sum(plan.neurons) <= sum(uniform.neurons)
    assert plan.removed >= 0.2
    assert all(width <= full for width, full in zip(plan.neurons, (48, 20, 40), strict=True))
