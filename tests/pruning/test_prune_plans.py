"""Plans of whole models: which layers go, how wide the others stay, and how a plan is carried out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tools import SETTINGS, config_and_hash
from variants import build, tokens

from comp_lib.decoder.shape import Shape
from comp_lib.hybrid_granularity.plan import Plan, PlanRequest
from comp_lib.hybrid_granularity.uniform import uniform_plan
from comp_lib.importance.layers import block_influence, layers_to_drop, sequence_loss_increase
from comp_lib.pruning.comp import prune
from comp_lib.pruning.planners import comp as comp_planner
from comp_lib.pruning.planning import make_plan
from comp_lib.pruning.settings import Settings
from comp_lib.utils.errors import InputError


def quarter_width_rule(shape: Shape, ratio: float, **options) -> int:
    """The fewest layers to drop such that the others keep a quarter of their neurons, by trying them all."""
    for count in range(shape.layer_count):
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
    assert pruned.plan.removed >= 0.76
    assert len(pruned.plan.layers) == 1


def test_per_layer_widths_follow_the_importance():
    parent = build(num_hidden_layers=4)
    ids = tokens()
    settings = replace(
        SETTINGS, widths="per-layer", layer_metric="block-influence", drop_layers=0, multiple=2
    )
    pruned = prune(parent, ids, settings)
    importance = block_influence(parent, ids)
    by_importance = [pruned.plan.neurons[i] for i in importance.argsort().tolist()]
    assert by_importance == sorted(by_importance)
    assert len(set(by_importance)) > 1
    assert not Shape.of(pruned.model).uniform


def test_layers_are_judged_on_the_first_sequences_only(monkeypatch):
    monkeypatch.setattr(comp_planner, "IMPORTANCE_SEQUENCES", 2)
    parent = build()
    ids = tokens(4)
    judged = []

    def recorded(metric, model, ids, count, *rest):
        judged.append(ids)
        return layers_to_drop(metric, model, ids, count, *rest)

    monkeypatch.setattr(comp_planner, "layers_to_drop", recorded)
    plan = make_plan(parent, ids, replace(SETTINGS, ratio=0.4, drop_layers=1, layer_metric="loss"))
    assert len(judged) == 1
    assert torch.equal(judged[0], ids[:2])
    assert plan.dropped == (int(sequence_loss_increase(parent, ids[:2]).mean(1).argmin()),)


def test_layers_may_be_a_share(tiny_llama):
    model = tiny_llama()
    ids = torch.arange(64).view(2, 32)
    settings = replace(SETTINGS, ratio=0.4, multiple=1)
    by_share = make_plan(model, ids, replace(settings, drop_layers=0.3))
    by_number = make_plan(model, ids, replace(settings, drop_layers=1))
    assert by_share == by_number
    assert len(by_share.dropped) == 1


def test_a_plan_can_be_carried_out_elsewhere():
    """A plan is written, read and used with other settings: its widths decide, not the settings' ratio."""
    parent = build()
    ids = tokens()
    plan = make_plan(parent, ids, replace(SETTINGS, ratio=0.4, drop_layers=1))
    pruned = prune(parent, ids, Settings(), plan=Plan.from_json(plan.to_json()))
    assert replace(pruned.plan, kept_neurons=None, kept_groups=None) == plan


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


def test_any_budget_is_met_or_refused():
    met = []

    @hypothesis_settings(derandomize=True, deadline=None, max_examples=10)
    @given(
        ratio=st.floats(0.02, 0.6),
        drop_layers=st.sampled_from(["auto", 0, 1]),
        widths=st.sampled_from(["uniform", "per-layer"]),
        kv_groups=st.sampled_from([None, 1]),
        name=st.sampled_from(["gqa", "all-at-once", "qwen2"]),
    )
    def prune_within_budget(ratio, drop_layers, widths, kv_groups, name):
        parent = build(name)
        ids = tokens(2, 12)
        options = {"drop_layers": drop_layers, "widths": widths, "kv_groups": kv_groups}
        settings = Settings(ratio, multiple=4, aim="self", layer_metric="block-influence", **options)
        before = config_and_hash(parent)
        try:
            pruned = prune(parent, ids, settings)
        except InputError as error:
            assert "allow" in str(error)
            assert config_and_hash(parent) == before
            return
        share_left = Shape.of(pruned.model).decoder_parameters / Shape.of(parent).decoder_parameters
        assert 1.0 - share_left == pytest.approx(pruned.plan.removed)
        assert pruned.plan.removed >= ratio
        met.append(ratio)

    prune_within_budget()
    assert len(met) >= 8, "nearly all of these budgets can be met"


def test_a_finished_plan_of_a_wider_or_narrower_model_is_refused():
    plan = prune(build(), tokens(), SETTINGS).plan
    assert prune(build(seed=1), tokens(), SETTINGS, plan=plan).plan.removed == plan.removed
    for changes in ({"intermediate_size": 96}, {"hidden_size": 64, "head_dim": 16}):
        with pytest.raises(InputError, match="a plan for this model, of which .* so of another model"):
            prune(build(**changes), tokens(), SETTINGS, plan=plan)
