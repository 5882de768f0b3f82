"""What `prune` must do exactly: to the bit, or up to rounding."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from tools import SETTINGS, config_and_hash, final_stream, logits, masked, plan_of_everything, storages
from variants import LAYOUTS, VARIANTS, WHOLE_ATTENTION, build, tokens

from comp_lib.decoder.shape import Shape
from comp_lib.hybrid_granularity.plan import Plan
from comp_lib.pruning.comp import prune, prune_layers
from comp_lib.pruning.methods import METHODS, default_recovery
from comp_lib.pruning.planning import make_plan
from comp_lib.pruning.settings import Settings
from comp_lib.pruning.sink import MemorySink


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
    assert [entry.mlp_error for entry in pruned.report.layers] == [0.0] * 3


@pytest.mark.parametrize("name", VARIANTS)
def test_pruned_equals_masked_before_recovery(name):
    """Neurons, KV groups where they can go, and a layer go from one model; test_surgery has each alone."""
    parent = build(name, dtype=torch.float64)
    ids = tokens()
    groups = Shape.of(parent).kv_groups[0]
    few = groups if name in WHOLE_ATTENTION else 1
    plan = plan_of_everything(parent, layers=(0, 2), neurons=(20, 7), kv_groups=(few, groups))
    pruned = prune(parent, ids, replace(SETTINGS, recovery="none", method="wanda-sp"), plan=plan)
    assert Shape.of(pruned.model).neurons == plan.neurons
    assert Shape.of(pruned.model).kv_groups == plan.kv_groups
    expected = logits(masked(parent, pruned.plan), ids)
    torch.testing.assert_close(logits(pruned.model, ids), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(expected, logits(parent, ids), atol=1e-2)


@pytest.mark.parametrize("name", LAYOUTS)
def test_removed_is_what_really_went(name):
    parent = build(name)
    ids = tokens()
    options = {"drop_layers": 1, "kv_groups": None if name == "olmo2" else 1}
    pruned = prune(parent, ids, replace(SETTINGS, ratio=0.4, **options), model_name="the parent")
    decoder = [sum(p.numel() for p in model.model.layers.parameters()) for model in (parent, pruned.model)]
    assert pruned.plan.removed == pytest.approx(1.0 - decoder[1] / decoder[0])
    assert pruned.plan.removed >= 0.4
    assert pruned.model.num_parameters() == Shape.of(pruned.model).total_parameters
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
        {"aim": "dense", "drop_layers": 1},
        {"widths": "per-layer", "kv_groups": 1},
    ],
)
def test_same_seed_same_bytes(options):
    settings = replace(SETTINGS, **options)
    ids = tokens()
    first, second = (prune(build("all-at-once"), ids, settings) for _ in range(2))
    assert config_and_hash(first.model) == config_and_hash(second.model)
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
        ("qwen2-window", {"drop_layers": 1, "kv_groups": 1}),
        ("all-at-once", {"aim": "dense", "drop_layers": 1, "ratio": 0.5}),
    ],
)
def test_parent_stays_as_it_is(name, options):
    parent = build(name)
    ids = tokens()
    before = config_and_hash(parent)
    expected = logits(parent, ids)
    pruned = prune(parent, ids, replace(SETTINGS, **options))
    assert config_and_hash(parent) == before
    assert torch.equal(logits(parent, ids), expected)
    assert len(parent.model.layers) == 3
    assert len(pruned.model.model.layers) == 2
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


@pytest.mark.parametrize(
    ("name", "options"), [("gqa", {}), ("all-at-once", {"aim": "dense", "drop_layers": 1})]
)
def test_inplace_gives_the_same_model(name, options):
    ids = tokens()
    settings = replace(SETTINGS, **options)
    parent = build(name)
    apart = prune(parent, ids, settings)
    inside = prune(parent, ids, settings, inplace=True)
    assert inside.model is parent
    assert config_and_hash(inside.model) == config_and_hash(apart.model)
    assert inside.plan == apart.plan


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
    one_batch = prune(parent, ids, replace(SETTINGS, aim="dense", drop_layers=1))
    monkeypatch.setattr("comp_lib.decoder.walk.BATCH_TOKENS", 32)
    batches = prune(parent, ids, replace(SETTINGS, aim="dense", drop_layers=1))
    assert batches.plan == one_batch.plan
    torch.testing.assert_close(logits(batches.model, ids), logits(one_batch.model, ids), rtol=1e-3, atol=1e-3)


class LastStreams(MemorySink):
    """Keeps the streams after the last layer, too."""

    def put(self, index, layer, report, carried):
        super().put(index, layer, report, carried)
        self.carried = carried


# two sizes with few tokens, and one with many
@pytest.mark.parametrize(("name", "size"), [*product(["gqa", "gemma3"], [(1, 24), (3, 2), (8, 24)])])
def test_what_is_passed_on_is_the_stream_of_the_pruned_model(name, size):
    small = build(name)
    ids = tokens(*size)
    settings = replace(SETTINGS, aim="dense")
    sink = LastStreams(small)
    prune_layers(small, ids, settings.completed(), make_plan(small, ids, settings), sink)
    torch.testing.assert_close(sink.carried.pruned_stream, final_stream(small, ids), rtol=1e-4, atol=1e-4)


def test_tokens_may_be_of_any_whole_numbers(tiny_llama):
    ids = torch.arange(64).view(4, 16)
    settings = Settings(multiple=4, drop_layers=1, widths="uniform", aim="self")
    assert prune(tiny_llama(), ids, settings).plan == prune(tiny_llama(), ids.int(), settings).plan


@pytest.mark.parametrize("method", METHODS)
def test_a_model_in_training_mode_is_pruned_without_its_dropout_and_keeps_its_mode(method):
    calm = build(attention_dropout=0.5)
    training = build(attention_dropout=0.5).train()
    settings = replace(SETTINGS, method=method, recovery=default_recovery(method))
    expected = prune(calm, tokens(), settings).model
    pruned = prune(training, tokens(), settings).model
    for weight, expected_weight in zip(pruned.parameters(), expected.parameters(), strict=True):
        assert torch.equal(weight, expected_weight)
    assert all(module.training for module in (*training.modules(), *pruned.modules()))
    assert not any(module.training for module in expected.modules())


def test_report_and_progress():
    calls = []
    settings = replace(SETTINGS, drop_layers=1, ratio=0.5)
    pruned = prune(build(), tokens(), settings, progress=lambda *call: calls.append(call[:3]))
    assert [call for call in calls if call[0] == "pruning"] == [("pruning", count, 3) for count in (1, 2, 3)]
    assert any(call[0] == "loss increase" for call in calls)
    report = pruned.report
    assert report.token_count == 4 * 24
    assert report.settings.ratio == 0.5
    assert [entry.layer for entry in report.layers] == list(pruned.plan.layers)
    assert [len(entry.kept_neurons) for entry in report.layers] == list(pruned.plan.neurons)
    assert [len(entry.kept_groups) for entry in report.layers] == list(pruned.plan.kv_groups)
    assert report.seconds > 0.0
