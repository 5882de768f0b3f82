"""Estimated harm: each number against a model in which `prune` has narrowed that layer, by another way."""

from __future__ import annotations

import pytest
import torch
from variants import LAYOUTS, build, tokens

from comp_lib.decoder.shape import Shape
from comp_lib.hybrid_granularity import estimated as module
from comp_lib.hybrid_granularity.by_harm import plan_by_harm
from comp_lib.hybrid_granularity.estimated import estimate_harm
from comp_lib.hybrid_granularity.measured import measure_harm
from comp_lib.hybrid_granularity.narrowing import smallest_width
from comp_lib.hybrid_granularity.plan import PlanRequest
from comp_lib.importance.problem import RIDGE
from comp_lib.pruning.comp import prune
from comp_lib.pruning.planning import make_plan
from comp_lib.pruning.settings import Settings
from comp_lib.utils.errors import InputError, NoNumber

GONE = 12


def divergence_without(model, layer, fitted_ids, judging_ids):
    """The divergence of the model in which `prune` removed GONE neurons of one layer by their energy."""
    shape = Shape.of(model)
    widths = list(shape.neurons)
    widths[layer] -= GONE
    plan = PlanRequest(shape, 0.01, multiple=1).plan_with(tuple(widths))
    settings = Settings(method="energy", ridge=RIDGE)
    pruned = prune(model, fitted_ids, settings, plan=plan).model
    with torch.no_grad():
        p = model(input_ids=judging_ids).logits.log_softmax(-1)
        q = pruned(input_ids=judging_ids).logits.log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


@pytest.fixture
def every_token(monkeypatch):
    monkeypatch.setattr(module, "COMPARED_POSITIONS", 10_000)


@pytest.mark.parametrize("name", LAYOUTS)
def test_harm_is_the_divergence_of_a_model_that_lost_these_neurons(name, every_token):
    model = build(name)
    ids = tokens(24, 24)
    shape = Shape.of(model)
    estimated = estimate_harm(model, ids, [GONE] * shape.layer_count)
    tried = [layer for layer in range(shape.layer_count) if layer % 2 == 0 or layer == shape.layer_count - 1]
    assert len(tried) < shape.layer_count
    for layer in tried:
        expected = divergence_without(model, layer, ids[:6], ids[-3:])
        assert expected > 1e-4
        assert float(estimated.harm[layer]) == pytest.approx(expected, rel=0.02)


def test_a_layer_that_was_not_tried_lies_between_its_neighbours(tiny_llama):
    model = tiny_llama()
    harm = estimate_harm(model, tokens(12, 24), [GONE] * Shape.of(model).layer_count).harm
    assert float(harm[1]) == pytest.approx(float(harm[0] + harm[2]) / 2)


def test_errors_are_the_energies_of_what_goes_down_to_the_floor(tiny_llama):
    model = tiny_llama()
    ids = tokens(12, 24)
    neurons = Shape.of(model).neurons[0]
    estimated = estimate_harm(model, ids, [GONE] * Shape.of(model).layer_count)
    errors = estimated.errors(0, neurons)
    energies = estimated.energies[0]
    assert len(errors) == neurons - smallest_width(neurons) + 1
    assert float(errors[0]) == 0
    assert float(errors[5]) == pytest.approx(float(energies.sort().values[:5].sum()))
    assert bool((errors.diff() > 0).all())


def test_only_the_opening_tokens_of_the_first_and_last_sequences_are_read(tiny_llama):
    model = tiny_llama()
    removals = [GONE] * Shape.of(model).layer_count
    ids = tokens(80, 80)
    changed_ids = ids.clone()
    changed_ids[:, module.LENGTH :] = 7
    changed_ids[module.FITTED_SEQUENCES : -module.JUDGING_SEQUENCES] = 7
    expected = estimate_harm(model, ids, removals).harm
    assert torch.equal(estimate_harm(model, changed_ids, removals).harm, expected)
    changed_ids[0, 0] += 1
    assert not torch.equal(estimate_harm(model, changed_ids, removals).harm, expected)


def test_make_plan_takes_the_widths_of_the_estimated_harm(tiny_llama):
    """The widths of `make_plan` follow the harm, and no more goes than with one width."""
    model = tiny_llama()
    ids = tokens(24, 32)
    settings = Settings(ratio=0.3, widths="estimated", multiple=1)
    plan = make_plan(model, ids, settings)
    uniform = make_plan(model, ids, Settings(ratio=0.3, widths="uniform", multiple=1))
    shape = Shape.of(model)
    removals = [shape.neurons[0] - width for width in uniform.neurons]
    estimated = estimate_harm(model, ids, removals)
    assert plan.neurons == plan_by_harm(settings.completed().plan_request(shape), estimated).neurons
    assert len(set(plan.neurons)) > 1
    assert sum(plan.neurons) == sum(uniform.neurons)


def test_one_sequence_is_refused_before_any_work(tiny_llama):
    with pytest.raises(InputError, match="2 or more sequences"):
        estimate_harm(tiny_llama(), tokens(1, 24), [GONE])
    with pytest.raises(InputError, match="2 or more sequences for widths by harm"):
        prune(tiny_llama(), tokens(1, 24), Settings(widths="estimated"))


@pytest.mark.parametrize("measure", [estimate_harm, measure_harm])
def test_a_harm_that_is_no_number_is_refused(measure):
    """Without its twin a neuron of weight 5e4 gets twice the weight, which is infinite in float16."""
    model = build("gqa").half()
    mlp = model.model.layers[0].mlp
    with torch.no_grad():
        for linear in (mlp.gate_proj, mlp.up_proj):
            linear.weight[1::2] = linear.weight[::2]
        mlp.up_proj.weight.mul_(1e-6)
        mlp.down_proj.weight.fill_(5e4)
    removals = [1] * Shape.of(model).layer_count
    with pytest.raises(NoNumber, match="divergence"):
        measure(model, tokens(12, 24), removals)
