"""The baselines against brute force: gradients by loops, variances in full, budgets to the parameter."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from tools import SMOLLM2, logits, parameter_count
from transformers import AutoModelForCausalLM
from variants import build, tokens

from comp_lib.checkpoints.card import Provenance
from comp_lib.checkpoints.load import load_model
from comp_lib.checkpoints.save import save_checkpoint
from comp_lib.decoder.shape import Shape
from comp_lib.hybrid_granularity.plan import PlanRequest
from comp_lib.hybrid_granularity.uniform import parameter_budget, uniform_plan
from comp_lib.importance.layers import block_influence
from comp_lib.pruning.checks import check_settings_for
from comp_lib.pruning.comp import prune
from comp_lib.pruning.methods import METHODS, RECOVERY_NAMES, default_recovery
from comp_lib.pruning.planners import flap, llm_pruner
from comp_lib.pruning.planning import complete_settings, make_plan
from comp_lib.pruning.settings import Settings
from comp_lib.utils.errors import InputError, OutOfReach

DEEP = {"num_hidden_layers": 8}  # the first and the last are protected


def baseline(method: str, **changes) -> Settings:
    return Settings(**{"method": method, "recovery": default_recovery(method), "multiple": 4, **changes})


def inputs_of(model, ids, layer: int, name: str) -> torch.Tensor:
    """The inputs (T, n) of the output linear `name` of a layer, by a hook."""
    inputs = []
    handle = (
        model.model.layers[layer]
        .get_submodule(name)
        .register_forward_hook(lambda m, x, y: inputs.append(x[0]))
    )
    logits(model, ids)
    handle.remove()
    return torch.cat(inputs).flatten(0, 1)


# LLM-Pruner


def gradients(model, ids) -> dict[str, torch.Tensor]:
    """Gradient of transformers' own loss for each parameter."""
    model = copy.deepcopy(model)
    model.zero_grad()
    model(ids, labels=ids).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def taylor_by_hand(model, ids) -> list[tuple[list[float], list[float]]]:
    """Importance of each neuron and KV group of each layer, weight by weight of what surgery would cut."""
    gradient_of = gradients(model, ids)
    shape = Shape.of(model)
    scores = []
    k = shape.head_dim
    r = shape.group_heads

    def importance(layer: int, name: str, index) -> float:
        name = f"model.layers.{layer}.{name}.weight"
        return float((model.get_parameter(name).detach()[index] * gradient_of[name][index]).abs().sum())

    for layer in range(shape.layer_count):
        neurons = [
            importance(layer, "mlp.gate_proj", i)
            + importance(layer, "mlp.up_proj", i)
            + importance(layer, "mlp.down_proj", (slice(None), i))
            for i in range(shape.neurons[layer])
        ]
        groups = []
        for g in range(shape.kv_groups[layer]):
            score = 0.0
            for row in range(g * k, (g + 1) * k):
                score += importance(layer, "self_attn.k_proj", row) + importance(
                    layer, "self_attn.v_proj", row
                )
            for head in range(g * r, (g + 1) * r):  # the query heads that read KV head g
                for row in range(head * k, (head + 1) * k):
                    score += importance(layer, "self_attn.q_proj", row)
                    score += importance(layer, "self_attn.o_proj", (slice(None), row))
            groups.append(score)
        scores.append((neurons, groups))
    return scores


@pytest.mark.parametrize("name", ["gqa", "mha", "mqa", "all-at-once", "qwen2"])
def test_taylor_scores_are_those_of_the_weights_that_go(name):
    model = build(name, dtype=torch.float64)
    ids = tokens(3, 12)
    scores = llm_pruner.taylor_scores(model, ids, range(3))
    for layer, expected in enumerate(taylor_by_hand(model, ids)):
        for actual, expected_scores in zip(scores[layer], expected, strict=True):
            torch.testing.assert_close(
                actual, torch.tensor(expected_scores, dtype=torch.float64), rtol=1e-6, atol=1e-12
            )


def test_llm_pruner_keeps_the_best_of_each_layer_by_itself():
    model = build(**DEEP, dtype=torch.float64)
    ids = tokens()
    plan = make_plan(model, ids, baseline("llm-pruner", ratio=0.4))
    for layer, (neurons, groups) in enumerate(taylor_by_hand(model, ids)):
        if 0 < layer < 7:
            best = sorted(range(48), key=lambda i: -neurons[i])[: plan.neurons[layer]]
            assert plan.kept_neurons[layer] == tuple(sorted(best))
            assert plan.neurons[layer] < 48
            assert plan.kept_groups[layer] == (max(range(2), key=lambda g: groups[g]),)


@pytest.mark.parametrize("ratio", [0.1, 0.4])
def test_protected_layers_stay_as_they_are(ratio):
    model = build(**DEEP)
    pruned = prune(model, tokens(), baseline("llm-pruner", ratio=ratio))
    for layer in (0, 7):
        before, after = (m.model.layers[layer].state_dict() for m in (model, pruned.model))
        assert all(torch.equal(after[key], before[key]) for key in before)
    middle = pruned.plan.neurons[1:7]
    assert max(middle) < 48
    assert max(middle) - min(middle) <= 1, "one ratio for all that may go"
    assert len(set(pruned.plan.kv_groups[1:7])) == 1


def test_which_layers_are_protected():
    assert [llm_pruner.prunable_layers(n) for n in (32, 30, 40)] == [range(4, 30), range(4, 28), range(4, 38)]
    for layers in range(1, 100):
        assert len(llm_pruner.prunable_layers(layers)) > 0
        assert llm_pruner.prunable_layers(layers).start <= 4
        assert layers - llm_pruner.prunable_layers(layers).stop <= 2


def test_uniform_1120_of_1536_in_30_layers_is_520_of_each_unprotected_one():
    """The widths of SmolLM2-135M, where a quarter of 3 KV groups rounds to none."""
    assert uniform_plan(PlanRequest(SMOLLM2, 0.2)).neurons == (1088,) * 30, "so many at multiples of 64"
    neurons, groups = llm_pruner.widths(SMOLLM2, Settings(method="llm-pruner", multiple=64).completed())
    assert neurons == [1536] * 4 + [1536 - 560] * 24 + [1536] * 2, "560 = 30 * (1536 - 1088) / 24"
    assert groups == [3] * 30
    neurons, groups = llm_pruner.widths(SMOLLM2, Settings(method="llm-pruner", multiple=32).completed())
    assert uniform_plan(PlanRequest(SMOLLM2, 0.2, multiple=32)).neurons == (1120,) * 30
    assert neurons == [1536] * 4 + [1536 - 520] * 24 + [1536] * 2
    assert groups == [3] * 30
    neurons, groups = llm_pruner.widths(
        SMOLLM2, Settings(method="llm-pruner", multiple=32, ratio=0.3).completed()
    )
    assert groups == [3] * 4 + [2] * 24 + [3] * 2, "three eighths of 3 is one group"


def test_gradients_leave_the_model_as_it_was():
    model = build()
    ids = tokens()
    model.model.norm.requires_grad_(False)
    mark = model.model.layers[1].mlp.up_proj.weight.grad = torch.ones(48, 32)
    before = {name: (p.requires_grad, p.grad, p.detach().clone()) for name, p in model.named_parameters()}
    with torch.no_grad():  # as `prune` calls it
        llm_pruner.taylor_scores(model, ids, [1])
    for name, parameter in model.named_parameters():
        required, gradient, value = before[name]
        assert parameter.requires_grad == required
        assert parameter.grad is gradient
        assert torch.equal(parameter, value)
    assert torch.equal(mark, torch.ones(48, 32))


def test_one_sequence_at_a_time_has_a_graph(monkeypatch):
    model = build()
    shapes = []
    forward = model.forward
    monkeypatch.setattr(
        model,
        "forward",
        lambda **arguments: shapes.append(arguments["input_ids"].shape) or forward(**arguments),
    )
    llm_pruner.taylor_scores(model, tokens(5, 12), range(3))
    assert shapes == [(1, 12)] * 5


def test_half_precision_sums_in_single():
    model = build(dtype=torch.bfloat16)
    ids = tokens(32)
    actual = llm_pruner.taylor_scores(model, ids, [1])[1][0]
    expected = llm_pruner.taylor_scores(build().to(torch.bfloat16).float(), ids, [1])[1][0]
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, rtol=0.1, atol=0.0)


# FLAP


def wifv_by_hand(model, ids, layer: int, name: str) -> torch.Tensor:
    x = inputs_of(model, ids, layer, name).double()
    weight = model.model.layers[layer].get_submodule(name).weight.detach().double()
    mean = sum(x) / len(x)
    return sum((row - mean) ** 2 for row in x) / (len(x) - 1) * torch.stack([w.norm() ** 2 for w in weight.T])


@pytest.mark.parametrize("name", ["gqa", "all-at-once", "qwen2"])
def test_wifv_is_the_variance_times_the_squared_norm(name):
    model = build(name)
    ids = tokens(3, 12)
    for layer, (attention, mlp) in enumerate(flap.fluctuations(model, ids)):
        for actual, part in ((attention, "self_attn.o_proj"), (mlp, "mlp.down_proj")):
            torch.testing.assert_close(actual, wifv_by_hand(model, ids, layer, part), rtol=1e-4, atol=1e-9)


class Unit(NamedTuple):
    """A neuron or a KV group, as FLAP ranks it."""

    score: float
    kind: str  # "neuron" or "group"
    layer: int
    index: int


def units_by_hand(model, ids):
    """All neurons and KV groups, with scores that are standardised within each layer."""
    units = []
    for layer in range(8):
        of_inputs = wifv_by_hand(model, ids, layer, "self_attn.o_proj") ** 2
        of_neurons = wifv_by_hand(model, ids, layer, "mlp.down_proj")
        inputs = (of_inputs - of_inputs.mean()) / of_inputs.std()
        neurons = (of_neurons - of_neurons.mean()) / of_neurons.std()
        units += [Unit(float(score), "neuron", layer, index) for index, score in enumerate(neurons)]
        groups = [scores.mean() for scores in inputs.view(2, 16)]
        units += [Unit(float(score), "group", layer, index) for index, score in enumerate(groups)]
    return units


def kept_by_hand(units, costs, fixed_cost, budget):
    """The units that stay when the lowest go one by one until the budget is met.

    The best of each kind in a layer stays, and so does a unit without which too much would be gone: the
    budget may be missed by less than a neuron.
    """
    best = {max(unit for unit in units if unit[1:3] == one[1:3]) for one in units}
    kept = set(units)
    for unit in sorted(units):
        size = fixed_cost + sum(costs[one.kind] for one in kept)
        size_without = size - costs[unit.kind]
        if size > budget and unit not in best and size_without > budget - costs["neuron"]:
            kept.remove(unit)
    return kept


def test_flap_ranks_all_layers_together_until_the_budget_is_met():
    model = build(**DEEP)
    ids = tokens()
    settings = baseline("flap", ratio=0.4, recovery="none")
    plan = make_plan(model, ids, settings)
    shape = Shape.of(model)
    costs = {"neuron": shape.neuron_parameters, "group": shape.group_parameters}
    budget = uniform_left(model, settings, ids)
    kept = kept_by_hand(units_by_hand(model, ids), costs, sum(shape.fixed_parameters), budget)
    for layer in range(8):
        for kind, kept_by_plan in (("neuron", plan.kept_neurons), ("group", plan.kept_groups)):
            expected = sorted(unit.index for unit in kept if (unit.kind, unit.layer) == (kind, layer))
            assert [*kept_by_plan[layer]] == expected
    assert len(set(plan.neurons)) > 1
    assert len(set(plan.kv_groups)) > 1


def test_flap_empties_no_layer_and_removes_no_group_that_is_too_much():
    shape = Shape(
        hidden_size=32,
        head_dim=8,
        group_heads=2,
        neurons=(4, 4),
        kv_groups=(2, 2),
        neuron_parameters=10,
        group_parameters=25,
        fixed_parameters=(0, 0),
        other_parameters=0,
    )
    scores = (
        [torch.tensor([-9.0, -7.0, -8.0, -9.0]), torch.arange(4.0)],
        [torch.tensor([-5.0, -6.0]), torch.ones(2)],
    )
    request = PlanRequest(shape, 0.5)

    def kept_within(budget: int) -> list[list[list[int]]]:
        """Indices of the neurons and of the KV groups that stay in each layer."""
        removed = flap.units_to_remove(request, *scores, budget)
        return [
            flap.remaining_indices(counts, [unit for unit in removed if unit.step == step])
            for step, counts in (("mlp", shape.neurons), ("attention", shape.kv_groups))
        ]

    everything = [[[0, 1, 2, 3], [0, 1, 2, 3]], [[0, 1], [0, 1]]]
    assert kept_within(shape.decoder_parameters) == everything
    assert kept_within(shape.decoder_parameters - 1) == [[[1, 2, 3], [0, 1, 2, 3]], everything[1]]
    assert kept_within(shape.decoder_parameters - 40) == [[[1], [1, 2, 3]], everything[1]], (
        "10 are left, a group is 25"
    )
    assert kept_within(shape.decoder_parameters - 46) == [[[1], [0, 1, 2, 3]], [[0], [0, 1]]]
    assert kept_within(shape.decoder_parameters - 110) == [[[1], [3]], [[0], [0]]]
    with pytest.raises(OutOfReach, match="leaves each layer a neuron and a KV group, got 0.5: ask for less"):
        kept_within(shape.decoder_parameters - 111)


def test_units_of_equal_score_go_neurons_first_and_early_layers_first():
    shape = Shape(
        hidden_size=32,
        head_dim=8,
        group_heads=2,
        neurons=(3, 3),
        kv_groups=(2, 2),
        neuron_parameters=10,
        group_parameters=10,
        fixed_parameters=(0, 0),
        other_parameters=0,
    )
    scores = ([torch.zeros(3)] * 2, [torch.zeros(2)] * 2)
    removed = flap.units_to_remove(PlanRequest(shape, 0.5), *scores, shape.decoder_parameters - 60)
    units = [(unit.step, unit.layer, unit.index) for unit in removed]
    assert units == [
        *(("mlp", layer, index) for layer in (0, 1) for index in (1, 2)),
        *(("attention", layer, 1) for layer in (0, 1)),
    ], "the first of each step counts as the best of its layer"


def test_standardised_scores():
    scores = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    torch.testing.assert_close(flap.standardise(scores), (scores - 3.0) / 7.0**0.5)
    assert torch.equal(flap.standardise(torch.full((4,), 2.0)), torch.zeros(4))


@pytest.mark.parametrize("token_weights", [True, False])
@pytest.mark.parametrize("name", ["gqa", "mlp-bias", "attention-bias", "all-at-once"])
def test_the_bias_is_the_mean_of_what_went(name, token_weights):
    model = build(name, num_hidden_layers=1)
    ids = tokens()
    settings = baseline("wanda-sp", recovery="bias", token_weights=token_weights)
    pruned = prune(
        model, ids, settings, plan=uniform_plan(PlanRequest(Shape.of(model), 0.4, kv_groups=1, multiple=4))
    )
    assert pruned.plan.neurons[0] < 48
    assert pruned.plan.kv_groups == (1,)
    masked = copy.deepcopy(model)  # the output linear, what goes replaced by its mean over the tokens
    for part, kept, size in (
        ("self_attn.o_proj", pruned.plan.kept_groups[0], Shape.of(model).head_dim * 2),
        ("mlp.down_proj", pruned.plan.kept_neurons[0], 1),
    ):
        mean = inputs_of(masked, ids, 0, part).mean(0)
        removed = [i for i in range(len(mean)) if i // size not in kept]

        def fixed(module, arguments, mean=mean, removed=removed):
            x = arguments[0].clone()
            x[..., removed] = mean[removed]
            return (x,)

        masked.model.layers[0].get_submodule(part).register_forward_pre_hook(fixed)
    torch.testing.assert_close(logits(pruned.model, ids), logits(masked, ids), rtol=1e-4, atol=1e-4)
    without = prune(model, ids, replace(settings, recovery="none"), plan=pruned.plan)
    assert not torch.allclose(logits(without.model, ids), logits(masked, ids), atol=1e-2)


@pytest.mark.parametrize("token_weights", [True, False])
def test_the_reported_error_knows_the_bias(token_weights):
    model = build("mlp-bias")
    ids = tokens()
    plan = replace(uniform_plan(PlanRequest(Shape.of(model), 0.2, multiple=4)), kv_groups=(2, 1, 2))
    settings = Settings(method="wanda-sp", recovery="bias", token_weights=token_weights)
    pruned = prune(model, ids, settings, plan=plan)
    # the inputs of layer 0's MLP are the dense model's: no KV group goes before it
    x = inputs_of(model, ids, 0, "mlp.down_proj").double()
    w = model.model.layers[0].mlp.down_proj.weight.detach().double().T
    kept = list(pruned.plan.kept_neurons[0])
    removed = [i for i in range(48) if i not in kept]
    token_weight = torch.ones(len(x), 1)
    if token_weights:
        after = model.model(ids, output_hidden_states=True).hidden_states[1].detach()
        token_weight = 1 / after.flatten(0, 1).norm(dim=-1, keepdim=True)
    gap = (x[:, removed] - x[:, removed].mean(0)) @ w[removed] * token_weight
    assert pruned.report.layers[0].mlp_error == pytest.approx(
        float(gap.square().sum() / (x @ w * token_weight).square().sum()), rel=1e-4
    )
    assert pruned.report.layers[1].attention_error > 0.0


@pytest.mark.parametrize("seed", range(3))
def test_a_bias_is_better_than_nothing_where_it_is_fitted(seed):
    model = build(seed=seed)
    ids = tokens(seed=seed)
    plan = uniform_plan(PlanRequest(Shape.of(model), 0.3, multiple=4))
    errors = [
        prune(model, ids, Settings(method="random", recovery=r, token_weights=False), plan=plan)
        .report.layers[0]
        .mlp_error
        for r in ("bias", "none")
    ]
    assert errors[0] < errors[1]


@pytest.mark.parametrize(
    ("name", "method", "inplace"),
    [
        ("gqa", "flap", False),
        ("tied", "wanda-sp", True),
        ("mlp-bias", "flap", True),
        ("head-dim", "wanda-sp", False),
    ],
)
def test_biases_survive_save_and_load(name, method, inplace, tmp_path, tokenizer):
    parent = build(name)
    ids = tokens()
    before = copy.deepcopy(parent)
    pruned = prune(
        copy.deepcopy(parent) if inplace else parent, ids, baseline(method, recovery="bias"), inplace=inplace
    )
    card = Provenance("parent", Shape.of(parent), "text")
    save_checkpoint(tmp_path / "m", pruned.model, tokenizer, pruned.plan, card)
    expected = logits(pruned.model, ids)
    shape = Shape.of(pruned.model)
    for model in (load_model(tmp_path / "m")[0], AutoModelForCausalLM.from_pretrained(tmp_path / "m")):
        assert model.config.model_type == ("llama" if method == "wanda-sp" else "comp_llama")
        assert model.config.mlp_bias
        assert model.config.attention_bias
        assert torch.equal(logits(model, ids), expected)
        assert Shape.of(model) == shape
        assert shape.total_parameters == model.num_parameters()
        # a child is a parent too
        grandchild = prune(model, ids, Settings(method="wanda-sp", recovery="none", multiple=4))
        assert (
            parameter_count(grandchild.model)
            == Shape.of(grandchild.model).total_parameters
            < shape.total_parameters
        )
    decoder = parameter_count(parent.model.layers)
    assert pruned.plan.removed == (decoder - parameter_count(pruned.model.model.layers)) / decoder >= 0.2
    assert all(torch.equal(a, b) for a, b in zip(parent.parameters(), before.parameters(), strict=True))
    assert parent.config.to_dict() == before.config.to_dict()


@pytest.mark.parametrize("name", ["mqa", "mlp-bias", "attention-bias", "all-at-once"])
def test_shape_with_biases_is_that_of_the_biased_model(name):
    model = build(name)
    parent_shape = Shape.of(model)
    pruned = prune(model, tokens(), baseline("flap", ratio=0.3))
    expected = parent_shape.with_biases().with_widths(pruned.plan.neurons, pruned.plan.kv_groups)
    assert Shape.of(pruned.model) == expected == expected.with_biases()
    assert expected.total_parameters == parameter_count(pruned.model)


# ShortGPT


def test_shortgpt_drops_the_fewest_layers_of_least_block_influence():
    model = build(**DEEP)
    ids = tokens()
    influence = block_influence(model, ids)
    for ratio, dropped in ((0.125, 1), (0.126, 2), (0.87, 7)):
        pruned = prune(model, ids, baseline("shortgpt", ratio=ratio))
        assert pruned.plan.dropped == tuple(sorted(influence.argsort()[:dropped].tolist()))
        assert pruned.plan.removed == dropped / 8
        assert set(pruned.plan.neurons) == {48}
    with pytest.raises(InputError, match="ratio that whole layers can reach, got 0.9 .* 8 layers"):
        prune(model, ids, baseline("shortgpt", ratio=0.9))


# SlimGPT


def test_slimgpt_takes_more_the_deeper_a_layer_lies():
    model = build(**DEEP)
    ids = tokens()
    pruned = prune(model, ids, baseline("slimgpt", ratio=0.3, multiple=1))
    steps = [math.log(layer + 1) / math.log(8) for layer in range(8)]
    rates = [1 - width / 48 for width in pruned.plan.neurons]
    factor = rates[-1]
    assert pruned.plan.neurons[0] == 48
    assert all(abs(a - factor * b) < 1 / 48 for a, b in zip(rates, steps, strict=True))
    assert pruned.plan.removed >= 0.3 > pruned.plan.removed - 8 * 3 * 32 / Shape.of(model).decoder_parameters
    with pytest.raises(InputError, match="ratio that these layers and groups allow.*got 0.9"):
        prune(model, ids, baseline("slimgpt", ratio=0.9))


# All planners


def uniform_left(model, settings, ids) -> int:
    """Parameters of the decoder that a method without a plan of its own leaves."""
    plan = make_plan(model, ids, replace(settings, method="wanda-sp", recovery="none"))
    return Shape.of(model).with_widths(plan.neurons, plan.kv_groups).decoder_parameters


@pytest.mark.parametrize(("name", "ratio"), [("gqa", 0.05), ("all-at-once", 0.2), ("gqa", 0.4)])
def test_budgets_are_equal_to_the_parameter(name, ratio):
    model = build(name, **DEEP, vocab_size=64)
    ids = tokens(2, 12) % 64
    left = uniform_left(model, baseline("wanda-sp", ratio=ratio), ids)
    for method, recovery in (
        ("llm-pruner", "none"),
        ("llm-pruner", "bias"),
        ("flap", "none"),
        ("flap", "bias"),
    ):
        pruned = prune(model, ids, baseline(method, ratio=ratio, recovery=recovery))
        decoder = parameter_count(pruned.model.model.layers)
        neuron = Shape.of(pruned.model).neuron_parameters
        assert left - neuron < decoder <= left
        parent_decoder = parameter_count(model.model.layers)
        assert pruned.plan.removed == (parent_decoder - decoder) / parent_decoder >= ratio


@pytest.mark.parametrize("kv_groups", [1, 2])
def test_llm_pruner_takes_the_kv_groups_that_it_is_told(kv_groups):
    model = build(**DEEP)
    settings = baseline("llm-pruner", ratio=0.3, kv_groups=kv_groups)
    pruned = prune(model, tokens(), settings)
    assert pruned.plan.kv_groups == (2, *(kv_groups,) * 6, 2)
    assert 0 <= uniform_left(model, settings, tokens()) - parameter_count(pruned.model.model.layers) < 96


def test_the_budget_follows_the_layers():
    """Where widths alone would starve, the common budget is that of fewer layers; if 0 drop it is not."""
    shape = Shape.of(build(**DEEP))
    auto, none = (parameter_budget(PlanRequest(shape, 0.5, multiple=4), layers) for layers in ("auto", 0))
    plan = uniform_plan(PlanRequest(shape, 0.5, multiple=4, drop=[0]))
    assert auto == shape.with_widths(plan.neurons, plan.kv_groups).decoder_parameters
    assert (
        none
        == shape.with_widths(
            uniform_plan(PlanRequest(shape, 0.5, multiple=4)).neurons, shape.kv_groups
        ).decoder_parameters
        != auto
    )
    assert PlanRequest(shape, 0.5, biased=True).removed_share(shape.neurons) < 0


@pytest.mark.parametrize("recovery", RECOVERY_NAMES)
@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.planner != "comp"])
def test_every_peer_runs_with_every_recovery(method, recovery):
    if recovery not in METHODS[method].allowed.get("recovery", RECOVERY_NAMES):
        with pytest.raises(InputError, match=f"recovery to be .* with the method shortgpt.*got {recovery!r}"):
            baseline(method, ratio=0.3, recovery=recovery)
        return
    model = build(**DEEP)
    ids = tokens(2, 12)
    settings = baseline(method, ratio=0.3, recovery=recovery)
    pruned = prune(model, ids, settings)
    assert pruned.plan.removed >= 0.3
    assert logits(pruned.model, ids).isfinite().all()
    planned = make_plan(model, ids, settings)
    named = (
        {} if method != "slimgpt" else {"kept_neurons": None, "kept_groups": None, "removed": planned.removed}
    )
    assert planned == replace(pruned.plan, **named), "carried out to the letter; SlimGPT's has widths alone"
    repeated = prune(model, ids, replace(settings, method="comp"), plan=planned)
    assert all(
        torch.equal(a, b) for a, b in zip(pruned.model.parameters(), repeated.model.parameters(), strict=True)
    )


def test_least_squares_refits_a_peer_s_choice():
    model = build(**DEEP)
    ids = tokens(8)
    none, fitted = (prune(model, ids, baseline("llm-pruner", recovery=r)) for r in ("none", "least-squares"))
    assert none.plan.kept_neurons == fitted.plan.kept_neurons
    assert 0.0 < fitted.report.layers[1].mlp_error < none.report.layers[1].mlp_error


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        (
            "shortgpt",
            {"widths": "per-layer"},
            "widths to be uniform with the method shortgpt.*got 'per-layer'",
        ),
        ("shortgpt", {"kv_groups": 1}, "kv_groups to be None with the method shortgpt.*got 1"),
        ("shortgpt", {"drop_layers": 2}, "layers to be auto with the method shortgpt.*got 2"),
        ("flap", {"kv_groups": 1}, "kv_groups to be None with the method flap.*got 1"),
        ("flap", {"drop_layers": 1}, "layers to be auto or 0 with the method flap.*got 1"),
        ("flap", {"ratio": 0.95}, "at most 0.9.*got 0.95"),
        ("llm-pruner", {"drop_layers": 1}, "layers to be auto or 0 with the method llm-pruner,.*got 1"),
        ("llm-pruner", {"kv_groups": 3}, "1 to 2 KV groups.*got 3"),
        (
            "llm-pruner",
            {"ratio": 0.7},
            "llm-pruner can reach in the 6 layers that it does not protect, got 0.7",
        ),
        ("llmpruner", {"recovery": "none"}, "'llmpruner'.*did you mean 'llm-pruner'"),
    ],
)
def test_what_a_baseline_cannot_do_is_refused_by_name(method, change, message):
    with pytest.raises(InputError, match=message) as error:
        prune(build(**DEEP), tokens(), baseline(method, **change))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", ["shortgpt", "flap", "llm-pruner", "slimgpt", "wanda-sp"])
def test_a_ratio_out_of_reach_is_an_error_of_its_own_kind(method):
    with pytest.raises(OutOfReach):
        make_plan(build(**DEEP), tokens(2, 12), baseline(method, ratio=0.95))


def test_what_llm_pruner_s_layers_cannot_give_is_refused_before_any_text():
    model = build(**DEEP)
    check_settings_for(model, complete_settings(model, baseline("llm-pruner", ratio=0.4)))
    with pytest.raises(InputError, match="6 layers that it does not protect, got 0.7"):
        check_settings_for(model, complete_settings(model, baseline("llm-pruner", ratio=0.7)))


@pytest.mark.parametrize("name", ["mistral", "qwen2", "ernie4_5"])
def test_families_without_biases_refuse_the_bias_before_any_work(name):
    for method in ("flap", "comp"):
        with pytest.raises(InputError, match=f"knows mlp_bias, for the recovery 'bias', got {name}"):
            prune(build(name), tokens(), baseline(method, recovery="bias"))


def test_a_plan_of_widths_is_none_of_a_baseline_s():
    model = build()
    with pytest.raises(InputError, match="plan that names what stays.*flap"):
        prune(
            model,
            tokens(),
            baseline("flap"),
            plan=uniform_plan(PlanRequest(Shape.of(model), 0.2, multiple=4)),
        )
