"""What must get better, measured: the recoveries, COMP's metric and the dense target against their rivals."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tools import SETTINGS, logits, plan_of_everything, stream_error
from variants import NORM_AFTER, build, tokens

from comp_lib.pruning.comp import prune
from comp_lib.pruning.planning import make_plan


@pytest.mark.parametrize(("name", "layer"), [("gqa", 0), ("gqa", 1), ("gqa", 2), ("all-at-once", 1)])
def test_least_squares_beats_mask_beats_none_in_every_layer(name, layer):
    """One layer pruned at a time, so that all three see the same inputs and the same neurons."""
    parent = build(name)
    ids = tokens(8)
    neurons = [48] * 3
    neurons[layer] = 24
    groups = [2] * 3
    groups[layer] = 1
    plan = plan_of_everything(parent, neurons=tuple(neurons), kv_groups=tuple(groups))
    settings = replace(SETTINGS, method="wanda-sp", ridge=1e-3)
    reports = {
        recovery: prune(parent, ids, replace(settings, recovery=recovery), plan=plan).report.layers[layer]
        for recovery in ("least-squares", "mask", "none")
    }
    assert (
        reports["least-squares"].attention_error
        < reports["mask"].attention_error
        < reports["none"].attention_error
    )
    # the MLP after a repaired attention sees other inputs: compare it alone
    plan = replace(plan, kv_groups=(2, 2, 2))
    errors = {
        recovery: prune(parent, ids, replace(settings, recovery=recovery), plan=plan)
        .report.layers[layer]
        .mlp_error
        for recovery in ("least-squares", "mask", "none")
    }
    assert 0.0 < errors["least-squares"] < errors["mask"] < errors["none"]


@pytest.mark.parametrize("count", [1, 8])
def test_reported_errors_are_those_of_the_outputs(count):
    """`mlp_error` of the first layer, with tokens unweighted, by hand."""
    parent = build("all-at-once")
    ids = tokens(count)
    plan = plan_of_everything(parent, neurons=(20, 48, 48))
    pruned = prune(parent, ids, replace(SETTINGS, token_weights=False), plan=plan)

    def output(model):
        outputs = []
        down = model.model.layers[0].mlp.down_proj
        hook = down.register_forward_hook(lambda module, args, out: outputs.append(out - module.bias))
        logits(model, ids)
        hook.remove()
        return outputs[0]

    expected = output(parent)
    error = float((output(pruned.model) - expected).square().sum() / expected.square().sum())
    assert pruned.report.layers[0].mlp_error == pytest.approx(error, rel=1e-3)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_condition_metric_beats_random_choice(seed):
    parent = build()
    ids = tokens(8)
    plan = plan_of_everything(parent, neurons=(24, 24, 24))
    comp = prune(parent, ids, SETTINGS, plan=plan).model
    chance = prune(parent, ids, replace(SETTINGS, method="random", seed=seed), plan=plan).model
    assert stream_error(comp, parent, ids) < stream_error(chance, parent, ids)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gqa", {}),
        ("gqa", {"ratio": 0.4, "kv_groups": 1}),
        ("all-at-once", {"ratio": 0.4, "drop_layers": 1}),
        ("gemma3", {"ratio": 0.4, "drop_layers": 1}),
    ],
)
def test_dense_target_brings_the_final_stream_nearer_than_the_own_output_or_no_recovery(name, options):
    parent = build(name)
    ids = tokens(8)
    settings = replace(SETTINGS, method="wanda-sp", **options)
    none = prune(parent, ids, replace(settings, recovery="none"))
    aimed_at_self = prune(parent, ids, replace(settings, aim="self"))
    dense = prune(parent, ids, replace(settings, aim="dense"))
    assert dense.plan.neurons == aimed_at_self.plan.neurons == none.plan.neurons
    dense_error = stream_error(dense.model, parent, ids)
    assert dense_error < stream_error(aimed_at_self.model, parent, ids)
    assert dense_error < stream_error(none.model, parent, ids)


@pytest.mark.parametrize("name", ["gqa", "all-at-once", *NORM_AFTER])
def test_dense_target_repairs_dropped_layers_in_layers_that_keep_everything(name):
    parent = build(name)
    ids = tokens(8)
    plan = plan_of_everything(parent, layers=(0, 2), neurons=(48, 48), kv_groups=(2, 2))
    for_self = prune(parent, ids, replace(SETTINGS, aim="self"), plan=plan).model
    for_dense = prune(parent, ids, replace(SETTINGS, aim="dense"), plan=plan).model
    for index in (0, 1):
        old = parent.model.layers[plan.layers[index]].mlp.down_proj.weight
        new = for_self.model.layers[index].mlp.down_proj.weight
        assert torch.equal(new, old), "its own output needs no repair"
    old = parent.model.layers[0].mlp.down_proj.weight
    new = for_dense.model.layers[0].mlp.down_proj.weight
    assert torch.equal(new, old), "the stream is not yet disturbed there"
    assert stream_error(for_dense, parent, ids) < stream_error(for_self, parent, ids)


@pytest.mark.parametrize("name", ["all-at-once", "gemma3"])
def test_both_targets_agree_where_the_stream_is_still_the_dense_one(name):
    """What the dense stream lacks is then the layer's own output, without the bias that is added anyway."""
    parent = build(name)
    ids = tokens(8)
    for part, plan in (
        ("mlp.down_proj", plan_of_everything(parent, neurons=(20, 48, 48))),
        ("self_attn.o_proj", plan_of_everything(parent, kv_groups=(1, 2, 2))),
    ):
        models = [
            prune(parent, ids, replace(SETTINGS, aim=aim), plan=plan).model for aim in ("self", "dense")
        ]
        weights = [model.model.layers[0].get_submodule(part).weight for model in models]
        assert weights[0].shape != parent.model.layers[0].get_submodule(part).weight.shape
        torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("ratio", "aim"), [(0.2, "self"), (0.3, "dense")])
def test_where_much_goes_the_auto_aim_is_the_dense_stream(ratio, aim):
    parent = build()
    ids = tokens(8)
    weights = {}
    for choice in ("auto", "self", "dense"):
        pruned = prune(parent, ids, replace(SETTINGS, ratio=ratio, aim=choice))
        weights[choice] = pruned.model.model.layers[2].mlp.down_proj.weight
    assert torch.equal(weights["auto"], weights["self"]) == (aim == "self")
    assert torch.equal(weights["auto"], weights["dense"]) == (aim == "dense")


def test_the_auto_aim_follows_what_a_plan_removes_not_what_it_was_once_asked_for():
    parent = build()
    ids = tokens(8)
    settings = replace(SETTINGS, ratio=0.2)
    plan = make_plan(parent, ids, settings)
    narrower = replace(plan, neurons=(20,) * 3)  # by hand: `ratio` and `removed` stay
    for_auto = prune(parent, ids, replace(settings, aim="auto"), plan=narrower).model
    for_dense = prune(parent, ids, replace(settings, aim="dense"), plan=narrower).model
    for weight, expected in zip(for_auto.parameters(), for_dense.parameters(), strict=True):
        assert torch.equal(weight, expected)


def test_dense_target_repairs_attention_in_the_mlp_of_the_same_layer():
    parent = build()
    ids = tokens(8)
    plan = plan_of_everything(parent, kv_groups=(2, 2, 1))
    for_self = prune(parent, ids, replace(SETTINGS, aim="self"), plan=plan).model
    for_dense = prune(parent, ids, replace(SETTINGS, aim="dense"), plan=plan).model
    assert stream_error(for_dense, parent, ids) < stream_error(for_self, parent, ids)


def test_token_weights_change_the_fit():
    parent = build()
    ids = tokens()
    plan = plan_of_everything(parent, neurons=(20, 48, 48))
    weights = []
    for flag in (True, False):
        model = prune(parent, ids, replace(SETTINGS, token_weights=flag), plan=plan).model
        weights.append(model.model.layers[0].mlp.down_proj.weight)
    assert not torch.allclose(*weights, atol=1e-4)


def test_guard_holds_the_mask_and_reports_lambda():
    """In layer 1, and only there, 40 neurons are almost equal, so its mask needs more ridge."""
    parent = build()
    ids = tokens()
    mlp = parent.model.layers[1].mlp
    with torch.no_grad():
        for weight in (mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight.T):
            weight[:40] = weight[:1] + 1e-2 * weight[:40]
    settings = replace(SETTINGS, recovery="mask", method="random", ridge=1e-7)
    report = prune(parent, ids, settings, plan=plan_of_everything(parent, neurons=(47, 24, 47))).report
    first, second, _ = report.layers
    assert first.mlp_ridge == 1e-7
    assert second.mlp_ridge > 1e-7
