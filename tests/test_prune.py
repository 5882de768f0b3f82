"""The full method on tiny models: exact results are compared to the bit, improvements are measured."""

from __future__ import annotations

import copy
import hashlib
import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from variants import LAYOUTS, NORM_BEHIND, VARIANTS, WHOLE_ATTENTION, build, tokens

from comp_lib import planning
from comp_lib.comp import MemorySink, prune, prune_layers
from comp_lib.errors import InputError
from comp_lib.families.find import parts
from comp_lib.families.probe import dense_target, gain_behind
from comp_lib.families.run import embed, layer_arguments
from comp_lib.hybrid_granularity.uniform import uniform_plan
from comp_lib.importance.layers import block_influence, layers_to_drop, sequence_loss_increase
from comp_lib.importance.neurons import METRICS, Problem, full_condition
from comp_lib.methods import RECOVERY_NAMES
from comp_lib.plan import Plan, PlanRequest
from comp_lib.planning import make_plan
from comp_lib.settings import PRESETS, Settings
from comp_lib.shape import Shape
from comp_lib.statistics.gram import Gram
from comp_lib.surgery import shallow_copy, upstream
from comp_lib.walk import through

SETTINGS = Settings(ratio=0.25, multiple=4)


@torch.inference_mode()
def logits(model, ids):
    return model(ids).logits


@torch.inference_mode()
def final_stream(model, ids):
    """Output of the last layer, before the norm (S, L, d)."""
    hidden = embed(model, ids)
    arguments = layer_arguments(model, ids.shape[1], "cpu", hidden.dtype)
    for layer in model.model.layers:
        hidden = through(layer, hidden, arguments, "cpu")
    return hidden


def stream_error(model, dense, ids) -> float:
    """Mean relative error of a token's final stream, as COMP weighs it."""
    expected = final_stream(dense, ids)
    gap = final_stream(model, ids) - expected
    return float((gap.norm(dim=-1) / expected.norm(dim=-1)).square().mean())


def fingerprint(model) -> str:
    """SHA-256 of the config and of all weights by name."""
    digest = hashlib.sha256(repr(model.config.to_dict()).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def storages(model) -> set[int]:
    """Addresses in memory of all weights."""
    return {tensor.untyped_storage().data_ptr() for tensor in model.parameters()}


def plan_of_everything(model, **changes) -> Plan:
    """A plan that keeps everything, but for the fields in `changes`."""
    shape = Shape.of(model)
    layers = tuple(range(shape.layers))
    plan = Plan("", shape.layers, layers, shape.neurons, shape.kv_groups, ratio=0.0, removed=0.0)
    return replace(plan, **changes)


def masked(parent, plan):
    """`parent` with zeros for neurons and KV groups that `plan` removes, and dropped layers skipped."""
    model = copy.deepcopy(parent)
    shape = Shape.of(parent)
    size = shape.head_dim * shape.group_heads
    for index in plan.dropped:
        model.model.layers[index].forward = lambda hidden_states, *args, **kwargs: hidden_states
    with torch.no_grad():
        for index, neurons, groups in zip(plan.layers, plan.kept_neurons, plan.kept_groups, strict=True):
            layer = model.model.layers[index]
            removed = [neuron for neuron in range(shape.neurons[index]) if neuron not in neurons]
            layer.mlp.down_proj.weight[:, removed] = 0.0
            for group in set(range(shape.kv_groups[index])) - set(groups):
                layer.self_attn.o_proj.weight[:, group * size : (group + 1) * size] = 0.0
    return model


# what must be exact


@pytest.mark.parametrize(
    ("name", "aim"), [*product(VARIANTS, ["self"]), *product(["gqa", "gemma3"], ["dense"])]
)
def test_zero_pruning_is_the_identity_to_the_bit(name, aim):
    parent = build(name)
    ids = tokens()
    before = parent.state_dict()
    pruned = prune(parent, ids, replace(SETTINGS, aim=aim), plan=plan_of_everything(parent))
    after = pruned.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert torch.equal(logits(pruned.model, ids), logits(parent, ids))
    assert storages(pruned.model) == storages(parent), "nothing changed, so nothing is copied"
    assert pruned.model.num_parameters() == parent.num_parameters()
    assert pruned.plan.kept_neurons == (tuple(range(48)),) * 3
    assert [entry.error for entry in pruned.report.layers] == [0.0] * 3


@pytest.mark.parametrize("name", VARIANTS)
def test_pruned_equals_masked_before_recovery(name):
    """Neurons, KV groups where they can go, and a layer go from one model; test_surgery has each alone."""
    parent = build(name, dtype=torch.float64)
    ids = tokens()
    groups = Shape.of(parent).kv_groups[0]
    few = groups if name in WHOLE_ATTENTION else 1
    plan = plan_of_everything(parent, layers=(0, 2), neurons=(20, 7), kv_groups=(few, groups))
    pruned = prune(parent, ids, replace(SETTINGS, recovery="none", method="wanda-sp"), plan=plan)
    assert (
        Shape.of(pruned.model).neurons == plan.neurons and Shape.of(pruned.model).kv_groups == plan.kv_groups
    )
    expected = logits(masked(parent, pruned.plan), ids)
    torch.testing.assert_close(logits(pruned.model, ids), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(expected, logits(parent, ids), atol=1e-2)


@pytest.mark.parametrize("step", ["attention", "mlp"])
@pytest.mark.parametrize("name", NORM_BEHIND)
def test_behind_a_norm_the_target_adds_the_direction_that_is_missing(name, step):
    """Through the norm, the target of a change adds that change, up to its length.

    The target of the layer's own change is the output of its dense layer.
    """
    parent = build(name)
    layer = parent.model.layers[1]
    linear = parts(layer)[step].linear
    norm = layer.post_feedforward_layernorm if step == "mlp" else layer.post_attention_layernorm
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, linear.in_features, generator=generator)
    output = linear(x)
    with torch.no_grad():
        same = dense_target(layer, step, norm(output), x)
        change = norm(torch.randn(output.shape, generator=generator))
        added = norm(dense_target(layer, step, 3.0 * change, x))
    torch.testing.assert_close(same, output, rtol=1e-4, atol=1e-4)
    weight = norm.weight + (name == "gemma3")
    strong = weight.abs() >= 0.05 * weight.abs().mean()
    assert strong.all(), "no output is lost in the norm of this model"
    torch.testing.assert_close(added, change, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("step", ["attention", "mlp"])
@pytest.mark.parametrize("name", NORM_BEHIND)
def test_behind_a_norm_an_error_reaches_the_stream_times_the_gain(name, step):
    """To first order: the norm of y + e is that of y and g e / |y|, for e across y."""
    parent = build(name)
    layer = parent.model.layers[1]
    norm = layer.post_feedforward_layernorm if step == "mlp" else layer.post_attention_layernorm
    generator = torch.Generator().manual_seed(0)
    y, e = (torch.randn(7, parent.config.hidden_size, generator=generator) for _ in range(2))
    e -= (e * y).sum(1, keepdim=True) / y.square().sum(1, keepdim=True) * y
    with torch.no_grad():
        added = (norm(y + 1e-3 * e) - norm(y)) / 1e-3
    gain = gain_behind(layer, step)
    size = y.square().mean(1, keepdim=True).sqrt()
    assert float(gain.square().mean()) == pytest.approx(1.0, rel=1e-5) and float(gain.std()) > 0.05
    true = norm.weight.detach() + (name == "gemma3")
    torch.testing.assert_close(added, true * e / size, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(gain / gain[0], (true / true[0]).abs(), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("name", NORM_BEHIND)
def test_a_neuron_behind_a_norm_costs_what_the_stream_loses(name):
    """Brute force: each neuron is removed alone, the others are refitted, and errors count by their gain."""
    layer = build(name).model.layers[1]
    gain = gain_behind(layer, "mlp").double()
    ridge = 0.1
    weight = parts(layer)["mlp"].linear.weight.detach().T.double()  # (n, m)
    x = torch.randn(200, len(weight), generator=torch.Generator().manual_seed(0)).double()
    sums = Gram.zeros(len(weight))
    sums.add(x.float()[None])
    xtx = sums.xtx
    problem = Problem(sums, weight, lambda: torch.zeros(len(weight)), ridge=ridge, gain=gain)
    scores = full_condition(problem, len(weight) - 1, torch.Generator()).scores
    penalties = ridge * xtx.diagonal()
    costs = []
    for neuron in range(len(weight)):
        rest = [index for index in range(len(weight)) if index != neuron]
        left = torch.linalg.solve(
            xtx[rest][:, rest] + penalties[rest].diag(), xtx[rest][:, [neuron]] @ weight[[neuron]]
        )
        gap = weight.clone()  # W - V
        gap[rest] = -left
        # error of each output, and its share of the ridge's penalty (m,)
        lost = (gap.T @ xtx @ gap).diagonal() + (penalties[:, None] * gap.square()).sum(0)
        costs.append(float((gain.square() * lost).sum()))
    torch.testing.assert_close(scores, torch.tensor(costs, dtype=scores.dtype), rtol=1e-5, atol=0.0)
    plain = full_condition(replace(problem, gain=None), len(weight) - 1, torch.Generator()).scores
    assert not torch.equal(plain.argsort(), scores.argsort())  # the gain decides which neurons go


@pytest.mark.parametrize("changes", [{"kv_groups": 1}, {"method": "flap", "recovery": "bias"}])
def test_groups_that_share_a_norm_are_refused_by_name(changes):
    with pytest.raises(InputError, match="expected all KV groups of olmo2 to stay"):
        prune(build("olmo2"), tokens(), replace(SETTINGS, **changes))


@pytest.mark.parametrize("name", LAYOUTS)
def test_removed_is_what_really_went(name):
    parent = build(name)
    ids = tokens()
    options = {"layers": 1, "kv_groups": None if name == "olmo2" else 1}
    pruned = prune(parent, ids, replace(SETTINGS, ratio=0.4, **options), name="the parent")
    decoder = [sum(p.numel() for p in model.model.layers.parameters()) for model in (parent, pruned.model)]
    assert pruned.plan.removed == pytest.approx(1.0 - decoder[1] / decoder[0])
    assert pruned.plan.removed >= 0.4
    assert pruned.model.num_parameters() == Shape.of(pruned.model).total
    assert pruned.plan.parent == "the parent"
    assert [len(kept) for kept in pruned.plan.kept_neurons] == list(pruned.plan.neurons)
    assert [len(kept) for kept in pruned.plan.kept_groups] == list(pruned.plan.kv_groups)
    assert Plan.from_json(pruned.plan.to_json()) == pruned.plan
    config = pruned.model.config
    assert config.num_hidden_layers == len(pruned.plan.layers)
    assert (config.intermediate_size, config.num_key_value_heads) == (
        pruned.plan.neurons[0],
        pruned.plan.kv_groups[0],
    )
    assert logits(pruned.model, ids).isfinite().all()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "random"},
        {"recovery": "mask"},
        {"aim": "dense", "layers": 1},
        {"widths": "per-layer", "kv_groups": 1},
    ],
)
def test_same_seed_same_bytes(options):
    settings = replace(SETTINGS, **options)
    ids = tokens()
    first, second = (prune(build("all-at-once"), ids, settings) for _ in range(2))
    assert fingerprint(first.model) == fingerprint(second.model)
    assert first.plan == second.plan


def test_another_seed_another_random_choice():
    parent = build()
    ids = tokens()
    settings = replace(SETTINGS, method="random")
    first, second = (prune(parent, ids, replace(settings, seed=seed)).plan for seed in (0, 1))
    assert first.neurons == second.neurons
    assert first.kept_neurons != second.kept_neurons


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("qwen2-window", {"layers": 1, "kv_groups": 1}),
        ("all-at-once", {"aim": "dense", "layers": 1, "ratio": 0.5}),
    ],
)
def test_parent_stays_as_it_is(name, options):
    parent = build(name)
    ids = tokens()
    before = fingerprint(parent)
    expected = logits(parent, ids)
    pruned = prune(parent, ids, replace(SETTINGS, **options))
    assert fingerprint(parent) == before
    assert torch.equal(logits(parent, ids), expected)
    assert len(parent.model.layers) == 3 and len(pruned.model.model.layers) == 2
    assert [layer.self_attn.layer_idx for layer in parent.model.layers] == [0, 1, 2]
    assert pruned.model.config is not parent.config
    assert all(layer.self_attn.config is pruned.model.config for layer in pruned.model.model.layers)
    pruned.model.config.rms_norm_eps = 7.0
    assert parent.config.rms_norm_eps != 7.0


def test_tensors_that_did_not_change_are_shared():
    parent = build()
    ids = tokens()
    plan = plan_of_everything(parent, neurons=(48, 20, 48))
    pruned = prune(parent, ids, SETTINGS, plan=plan)
    new = dict(pruned.model.named_parameters())
    old = dict(parent.named_parameters())
    changed = {key for key in new if new[key].data_ptr() != old[key].data_ptr()}
    assert changed == {f"model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up", "down")}


@pytest.mark.parametrize(("name", "options"), [("gqa", {}), ("all-at-once", {"aim": "dense", "layers": 1})])
def test_inplace_gives_the_same_model(name, options):
    ids = tokens()
    settings = replace(SETTINGS, **options)
    parent = build(name)
    apart = prune(parent, ids, settings)
    inside = prune(parent, ids, settings, inplace=True)
    assert inside.model is parent
    assert fingerprint(inside.model) == fingerprint(apart.model)
    assert inside.plan == apart.plan


def test_share_has_its_own_structure_around_the_same_tensors():
    parent = build("all-at-once")
    shared = shallow_copy(parent)
    assert storages(shared) == storages(parent)
    assert shared.config is not parent.config and shared.model.layers is not parent.model.layers
    assert shared.lm_head.weight is shared.model.embed_tokens.weight, "still tied"
    assert not {id(module) for module in parent.modules()} & {id(module) for module in shared.modules()}


@pytest.mark.parametrize("inplace", [True, False])
def test_result_is_an_ordinary_model(inplace):
    """No inference tensors: it runs with gradients on, and trains."""
    ids = tokens()
    pruned = prune(build("all-at-once"), ids, replace(SETTINGS, kv_groups=1), inplace=inplace)
    assert all(p.requires_grad and not p.is_inference() for p in pruned.model.parameters())
    pruned.model(ids, labels=ids).loss.backward()
    assert all(p.grad is not None for p in pruned.model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_half_precision(dtype):
    parent = build("all-at-once", dtype=dtype)
    ids = tokens()
    pruned = prune(parent, ids, replace(SETTINGS, kv_groups=1))
    assert {p.dtype for p in pruned.model.parameters()} == {dtype}
    assert logits(pruned.model, ids).isfinite().all()


def test_result_does_not_depend_on_the_batches(monkeypatch):
    parent = build()
    ids = tokens(5, 16)
    one_batch = prune(parent, ids, replace(SETTINGS, aim="dense", layers=1))
    monkeypatch.setattr("comp_lib.walk.BATCH_TOKENS", 32)
    batches = prune(parent, ids, replace(SETTINGS, aim="dense", layers=1))
    assert batches.plan == one_batch.plan
    torch.testing.assert_close(logits(batches.model, ids), logits(one_batch.model, ids), rtol=1e-3, atol=1e-3)


# what must get better


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
    # the MLP behind a repaired attention sees other inputs: compare it alone
    plan = replace(plan, kv_groups=(2, 2, 2))
    errors = {
        recovery: prune(parent, ids, replace(settings, recovery=recovery), plan=plan)
        .report.layers[layer]
        .error
        for recovery in ("least-squares", "mask", "none")
    }
    assert 0.0 < errors["least-squares"] < errors["mask"] < errors["none"]


@pytest.mark.parametrize("count", [1, 8])
def test_reported_errors_are_measured_on_the_stream(count):
    """`error` of the first layer, with tokens unweighted, by hand."""
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
    assert pruned.report.layers[0].error == pytest.approx(error, rel=1e-3)


def test_condition_metric_beats_random_choice():
    parent = build()
    ids = tokens(8)
    plan = plan_of_everything(parent, neurons=(24, 24, 24))
    comp = prune(parent, ids, SETTINGS, plan=plan).model
    chance = prune(parent, ids, replace(SETTINGS, method="random"), plan=plan).model
    assert stream_error(comp, parent, ids) < stream_error(chance, parent, ids)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gqa", {}),
        ("gqa", {"ratio": 0.4, "kv_groups": 1}),
        ("all-at-once", {"ratio": 0.4, "layers": 1}),
        ("gemma3", {"ratio": 0.4, "layers": 1}),
    ],
)
def test_dense_target_brings_the_final_stream_back(name, options):
    parent = build(name)
    ids = tokens(8)
    settings = replace(SETTINGS, method="wanda-sp", **options)
    none = prune(parent, ids, replace(settings, recovery="none"))
    dense = prune(parent, ids, replace(settings, aim="dense"))
    assert dense.plan.neurons == none.plan.neurons
    assert stream_error(dense.model, parent, ids) < stream_error(none.model, parent, ids)


@pytest.mark.parametrize("name", ["gqa", "all-at-once", *NORM_BEHIND])
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
    assert first.ridge == 1e-7 and second.ridge > 1e-7


@pytest.mark.parametrize(
    ("part", "recovery"), [*product(["outputs"], RECOVERY_NAMES), ("inputs", "least-squares")]
)
def test_layers_that_do_nothing_break_no_recovery(part, recovery):
    """Models grown by identity blocks have layers whose output weights are zero."""
    parent = build()
    ids = tokens()
    attention = parent.model.layers[1].self_attn
    mlp = parent.model.layers[1].mlp
    linears = {"outputs": (attention.o_proj, mlp.down_proj), "inputs": (attention.v_proj, mlp.up_proj)}
    for linear in linears[part]:
        torch.nn.init.zeros_(linear.weight)
    for calibration in (ids, ids[:1, :12]):  # of many tokens sums are kept, few tokens are kept themselves
        pruned = prune(parent, calibration, replace(SETTINGS, recovery=recovery, kv_groups=1))
        assert logits(pruned.model, ids).isfinite().all()
        assert pruned.report.layers[1].error == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(  # the peers that plan: test_baselines
    ("method", "recovery"),
    dict.fromkeys([*product(("comp", "wanda-sp"), RECOVERY_NAMES), *product(METRICS, ["mask"])]),
)
def test_every_method_runs_with_every_recovery(method, recovery):
    pruned = prune(build(), tokens(2, 16), replace(SETTINGS, method=method, recovery=recovery, kv_groups=1))
    assert pruned.plan.removed >= 0.25
    for entry in pruned.report.layers:
        assert (entry.ridge is not None) == (recovery in ("least-squares", "mask"))
        assert entry.error > 0.0 and entry.attention_error > 0.0


OPTIONS = (
    {"aim": "dense", "kv_groups": 1},
    {"widths": "measured"},
    {"recovery": "mask"},
    {"method": "wanda-sp"},
)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_wide_layers_compute_in_float32_and_come_to_the_same(options, monkeypatch):
    ids = tokens(8, 24)
    settings = replace(SETTINGS, **options)
    double = prune(build(), ids, settings)
    monkeypatch.setattr("comp_lib.statistics.gram.SINGLE_PRECISION_INPUTS", 8)
    dtypes = set()
    gather = Gram.gather

    def recorded(self, x, y):
        dtypes.add(self.xtx.dtype)
        return gather(self, x, y)

    monkeypatch.setattr(Gram, "gather", recorded)
    single = prune(build(), ids, settings)
    assert dtypes == {torch.float32} and single.plan == double.plan
    for ours, expected in zip(single.model.parameters(), double.model.parameters(), strict=True):
        assert (ours - expected).norm() <= 1e-3 * expected.norm()


@pytest.mark.parametrize(("length", "matrices"), [(6, False), (15, True)])  # of 2 sequences; 32 and 48 inputs
def test_wide_layers_keep_matrices_from_half_as_many_tokens_on(length, matrices, monkeypatch):
    calls = []
    gather = Gram.gather

    def recorded(self, x, y):
        calls.append(x)
        return gather(self, x, y)

    monkeypatch.setattr("comp_lib.statistics.gram.SINGLE_PRECISION_INPUTS", 8)
    monkeypatch.setattr(Gram, "gather", recorded)
    prune(build(), tokens(2, length), replace(SETTINGS, ridge=0.1))
    assert bool(calls) == matrices


@pytest.mark.parametrize("name", ["mha", "gqa", "mqa", "head-dim", "qwen2"])
def test_upstream_counts_what_a_block_owns(name):
    layer = build(name).model.layers[0]
    attention = layer.self_attn
    mlp = layer.mlp
    rows = [torch.cat([mlp.gate_proj.weight[i], mlp.up_proj.weight[i]]) for i in range(48)]
    expected = torch.stack([row.double().square().sum() for row in rows])
    torch.testing.assert_close(upstream(layer, "mlp"), expected)
    head = attention.head_dim
    repeats = attention.num_key_value_groups
    queries, keys, values = (
        part.weight.double().square().sum(1).reshape(-1, head)
        for part in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    # query head h reads KV head h // repeats
    expected = (keys + values).sum(1) + queries.sum(1).reshape(-1, repeats).sum(1)
    torch.testing.assert_close(upstream(layer, "attention"), expected)


def test_comp_chooses_the_condition_by_the_recovery():
    assert Settings().neuron_metric == "full-condition"
    assert (
        Settings(recovery="mask").neuron_metric == Settings(recovery="none").neuron_metric == "mask-condition"
    )
    assert Settings(method="wanda-sp", recovery="mask").neuron_metric == "wanda-sp"


class LastStreams(MemorySink):
    """Keeps the streams behind the last layer, too."""

    def put(self, index, layer, report, streams):
        super().put(index, layer, report, streams)
        self.streams = streams


@pytest.mark.parametrize(
    ("name", "size"), [*product(["gqa", "gemma3"], [(1, 24), (3, 2), (8, 24)])]
)  # few, many
def test_what_is_passed_on_is_the_stream_of_the_pruned_model(name, size):
    small = build(name)
    ids = tokens(*size)
    settings = replace(SETTINGS, aim="dense")
    sink = LastStreams(small)
    prune_layers(small, ids, settings, make_plan(small, ids, settings), sink)
    torch.testing.assert_close(sink.streams.pruned, final_stream(small, ids), rtol=1e-4, atol=1e-4)


# plans


def quarter_width_rule(shape: Shape, ratio: float, **options) -> int:
    """The fewest layers to drop such that the others keep a quarter of their neurons, by trying them all."""
    for count in range(shape.layers):
        try:
            plan = uniform_plan(PlanRequest(shape, ratio, drop=range(count), **options))
        except InputError:
            continue
        if 4 * plan.neurons[0] >= shape.neurons[0]:
            return count
    raise AssertionError("choose another ratio for the test")


@pytest.mark.parametrize(("ratio", "count"), [(0.1, 0), (0.4, 0), (0.5, 1), (0.85, 4)])
def test_auto_drops_only_the_layers_that_widths_cannot_carry(ratio, count):
    parent = build(num_hidden_layers=5)
    ids = tokens(2)
    assert quarter_width_rule(Shape.of(parent), ratio, multiple=4) == count
    calls = []
    plan = make_plan(parent, ids, replace(SETTINGS, ratio=ratio), progress=lambda *call: calls.append(call))
    assert len(plan.dropped) == count
    assert sorted(layers_to_drop(SETTINGS.layer_metric, parent, ids, count)[0]) == list(plan.dropped)
    assert (not calls) == (count == 0), "layers are judged only when that decides something"


def test_auto_reaches_what_only_the_fewest_layers_can_reach():
    """Where no number of layers leaves a quarter of the neurons, a budget that can be met is still met."""
    parent = build(num_hidden_layers=2)
    pruned = prune(parent, tokens(2), replace(SETTINGS, ratio=0.76))
    assert pruned.plan.removed >= 0.76 and len(pruned.plan.layers) == 1


def test_per_layer_widths_follow_the_importance():
    parent = build(num_hidden_layers=4)
    ids = tokens()
    settings = replace(SETTINGS, widths="per-layer", layer_metric="block-influence", layers=0, multiple=2)
    pruned = prune(parent, ids, settings)
    importance = block_influence(parent, ids)
    by_importance = [pruned.plan.neurons[i] for i in importance.argsort().tolist()]
    assert by_importance == sorted(by_importance) and len(set(by_importance)) > 1
    assert not Shape.of(pruned.model).uniform


def test_layers_are_judged_on_the_first_sequences_only(monkeypatch):
    monkeypatch.setattr(planning, "IMPORTANCE_SEQUENCES", 2)
    parent = build()
    ids = tokens(4)
    judged = []

    def recorded(metric, model, ids, count, *rest):
        judged.append(ids)
        return layers_to_drop(metric, model, ids, count, *rest)

    monkeypatch.setattr(planning, "layers_to_drop", recorded)
    plan = make_plan(parent, ids, replace(SETTINGS, ratio=0.4, layers=1, layer_metric="loss"))
    assert len(judged) == 1 and torch.equal(judged[0], ids[:2])
    assert plan.dropped == (int(sequence_loss_increase(parent, ids[:2]).mean(1).argmin()),)


def test_a_plan_can_be_carried_out_elsewhere():
    """A plan is written, read and used with other settings: its widths decide, not the settings' ratio."""
    parent = build()
    ids = tokens()
    plan = make_plan(parent, ids, replace(SETTINGS, ratio=0.4, layers=1))
    pruned = prune(parent, ids, Settings(), plan=Plan.from_json(plan.to_json()))
    assert replace(pruned.plan, kept_neurons=None, kept_groups=None) == plan


@hypothesis_settings(derandomize=True, deadline=None, max_examples=10)
@given(
    ratio=st.floats(0.02, 0.6),
    layers=st.sampled_from(["auto", 0, 1]),
    widths=st.sampled_from(["uniform", "per-layer"]),
    kv_groups=st.sampled_from([None, 1]),
    name=st.sampled_from(["gqa", "all-at-once", "qwen2"]),
)
def test_any_budget_is_met_or_refused(ratio, layers, widths, kv_groups, name):
    parent = build(name)
    ids = tokens(2, 12)
    choices = {"layers": layers, "widths": widths, "kv_groups": kv_groups, "layer_metric": "block-influence"}
    settings = Settings(ratio, multiple=4, **choices)
    before = fingerprint(parent)
    try:
        pruned = prune(parent, ids, settings)
    except InputError as error:
        assert "allow" in str(error) and fingerprint(parent) == before
        return
    share_left = Shape.of(pruned.model).decoder / Shape.of(parent).decoder
    assert 1.0 - share_left == pytest.approx(pruned.plan.removed)
    assert pruned.plan.removed >= ratio


def test_report_and_progress():
    calls = []
    settings = replace(SETTINGS, layers=1, ratio=0.5)
    pruned = prune(build(), tokens(), settings, progress=lambda *call: calls.append(call[:3]))
    assert [call for call in calls if call[0] == "pruning"] == [("pruning", count, 3) for count in (1, 2, 3)]
    assert any(call[0] == "loss increase" for call in calls)
    report = pruned.report
    assert report.tokens == 4 * 24 and report.settings["ratio"] == 0.5
    assert [entry.layer for entry in report.layers] == list(pruned.plan.layers)
    assert [len(entry.kept_neurons) for entry in report.layers] == list(pruned.plan.neurons)
    assert [len(entry.kept_groups) for entry in report.layers] == list(pruned.plan.kv_groups)
    assert report.seconds > 0.0


# bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ratio": "0.2"}, "expected ratio to be a number, got '0.2'"),
        ({"method": "cmop"}, "'cmop'.*did you mean 'comp'"),
        ({"method": "wanda"}, "'wanda'.*did you mean 'wanda-sp'"),
        ({"method": 3}, "expected method to be one of"),
        ({"recovery": None}, "expected recovery to be one of"),
        ({"recovery": "least-square"}, "recovery.*'least-square'.*did you mean 'least-squares'"),
        ({"aim": "other"}, "aim to be one of self, dense, auto, got 'other'"),
        ({"widths": "perlayer"}, "widths.*'perlayer'.*did you mean 'per-layer'"),
        ({"layer_metric": "los"}, "layer metric.*'los'.*did you mean 'loss'"),
        ({"layers": "some"}, "number or 'auto', or a share below 1, got 'some'"),
        ({"layers": 1.5}, "a share below 1, got 1.5"),
        ({"layers": -1}, "a share below 1, got -1"),
        ({"layers": math.nan}, "a share below 1, got nan"),
        ({"layers": math.inf}, "a share below 1, got inf"),
        ({"layers": 10**400}, "expected layers"),
        ({"layers": None}, "expected layers"),
        ({"kv_groups": "2"}, "expected kv_groups to be a whole number or None, got '2'"),
        ({"seed": 2**70}, "seed to be a whole number"),
        ({"seed": 1.0}, "seed to be a whole number, got 1.0"),
        ({"multiple": 8.5}, "multiple to be a whole number or None, got 8.5"),
        ({"ridge": 0.0}, "ridge above 0, .*or 'auto', got 0"),
        ({"ridge": -1.0}, "ridge above 0, .*or 'auto', got -1"),
        ({"ridge": 1e7}, "ridge above 0, at most 1e.06"),
        ({"ridge": "some"}, "ridge above 0, .*or 'auto', got some"),
        ({"ridge": math.nan}, "ridge above 0, .*or 'auto', got nan"),
        ({"ridge": None}, "expected ridge to be a number"),
    ],
)
def test_settings_are_checked_by_name(change, message):
    with pytest.raises(InputError, match=message) as error:
        Settings(**change)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"settings": {"ratio": 0.0}}, "ratio between 0 and 1.*got 0"),
        ({"settings": {"ratio": 1.5}}, "ratio between 0 and 1.*got 1.5"),
        ({"settings": {"ratio": math.nan}}, "ratio between 0 and 1.*got nan"),
        ({"settings": {"ratio": 0.99}}, "at most 0.*got 0.99"),
        ({"settings": {"layers": 3}}, "fewer than 3 layers to drop"),
        ({"settings": {"kv_groups": 3}}, "1 to 2 KV groups.*got 3"),
        ({"settings": {"kv_groups": 0}}, "1 to 2 KV groups.*got 0"),
        ({"settings": {"multiple": 0}}, "multiple of at least 1"),
        ({"settings": {"ratio": 0.97, "layers": 1}}, "at most 0.*got 0.97"),
        ({"plan": {"parent_layers": 4}}, "plan for 3 layers, got one for 4"),
        ({"plan": {"neurons": (480, 48, 48)}}, "got 480"),
        ({"plan": {"kv_groups": (2, 3, 2)}}, "got 3"),
        ({"plan": {"neurons": (48, 48)}}, "3 entries in neurons, got 2"),
        ({"plan": {"neurons": (48, 0, 48)}}, "a neuron and a KV group in each layer"),
        (
            {"plan": {"kept_neurons": ((*range(47), 10**6),) * 3}},
            "at most 48 neurons in layer 0, got 1000001",
        ),
        ({"plan": {"kept_groups": ((0, 10**6),) * 3}}, "at most 2 KV groups in layer 0, got 1000001"),
        ({"ids": tokens()[0]}, "tokens"),
        ({"ids": tokens()[:0]}, "tokens"),
        ({"ids": tokens()[:, :0]}, "tokens"),
        ({"ids": tokens() + 10**6}, "tokens from 0 to"),
        ({"ids": tokens() - 10**6}, "tokens from 0 to"),
        ({"ids": tokens().float()}, "tokens from 0 to"),
        ({"ids": tokens() > 3}, "tokens from 0 to"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_before_any_work(wrong, message):
    parent = build()
    before = fingerprint(parent)
    settings = replace(SETTINGS, **wrong.get("settings", {}))
    options = {"inplace": True, "progress": lambda *_: pytest.fail("work")}
    with pytest.raises(InputError, match=message):
        if "plan" in wrong:
            options["plan"] = plan_of_everything(parent, **wrong["plan"])
        prune(parent, wrong.get("ids", tokens()), settings, **options)
    assert fingerprint(parent) == before


def test_a_finished_plan_is_carried_out_to_the_letter(tiny_llama):
    model = tiny_llama()
    ids = torch.arange(128).view(4, 32)
    random = Settings(method="random", recovery="none", ratio=0.5, multiple=4, kv_groups=1, seed=3)
    comp = Settings(recovery="none", multiple=4)
    first = prune(model, ids, random)
    second = prune(model, ids, comp, plan=first.plan)
    assert second.plan.kept_neurons == first.plan.kept_neurons
    assert second.plan.kept_groups == first.plan.kept_groups
    for ours, expected in zip(second.model.parameters(), first.model.parameters(), strict=True):
        assert torch.equal(ours, expected)
    widths_only = replace(first.plan, kept_neurons=None, kept_groups=None)
    chosen = prune(model, ids, comp, plan=widths_only).plan.kept_neurons
    assert chosen != first.plan.kept_neurons, "COMP itself would choose others"


def test_layers_may_be_a_share(tiny_llama):
    model = tiny_llama()
    ids = torch.arange(64).view(2, 32)
    settings = replace(SETTINGS, ratio=0.4, multiple=1)
    by_share = make_plan(model, ids, replace(settings, layers=0.3))
    by_number = make_plan(model, ids, replace(settings, layers=1))
    assert by_share == by_number and len(by_share.dropped) == 1


def test_the_papers_preset_is_a_hybrid_with_a_mask(tiny_llama):
    settings = Settings(**PRESETS["paper"] | {"ratio": 0.4, "layers": 0.25, "multiple": 1})
    assert settings.neuron_metric == "mask-condition"
    pruned = prune(tiny_llama(), torch.arange(64).view(2, 32), settings)
    assert len(pruned.plan.dropped) == 1 and len(set(pruned.plan.neurons)) > 1
    assert {layer.ridge / settings.ridge for layer in pruned.report.layers} <= {
        4.0**power for power in range(64)
    }


@pytest.mark.parametrize(
    ("device", "words"), [("cuda", "with float64 .*'cuda'"), ("mps", "'mps'"), ("auto", "'auto'")]
)
def test_a_device_on_which_nothing_can_be_solved_is_refused(device, words, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    with pytest.raises(InputError, match=words):
        Settings(device=device)


def test_tokens_may_be_of_any_whole_numbers(tiny_llama):
    ids = torch.arange(64).view(4, 16)
    settings = Settings(multiple=4, layers=1)
    assert prune(tiny_llama(), ids, settings).plan == prune(tiny_llama(), ids.int(), settings).plan


def test_a_model_in_training_mode_is_pruned_without_its_dropout_and_keeps_its_mode():
    calm = build(attention_dropout=0.5)
    training = build(attention_dropout=0.5).train()
    expected = prune(calm, tokens(), SETTINGS).model
    pruned = prune(training, tokens(), SETTINGS).model
    for weight, expected_weight in zip(pruned.parameters(), expected.parameters(), strict=True):
        assert torch.equal(weight, expected_weight)
    assert all(module.training for module in (*training.modules(), *pruned.modules()))
    assert not any(module.training for module in expected.modules())
