"""Plans for a budget in time: candidates against all plans there are, the choice by trial, and the command line."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from typer.testing import CliRunner
from variants import build, tokens

from comp_lib.cli.app import app
from comp_lib.errors import InputError
from comp_lib.evaluation.loss import perplexity
from comp_lib.importance.layers import loss_increase
from comp_lib.models.load import load_model
from comp_lib.on_device import latency as budget
from comp_lib.on_device.latency import Budget, CostModel, candidates, spread, timed_plan
from comp_lib.plan import Plan
from comp_lib.prune import prune
from comp_lib.settings import Settings
from comp_lib.shape import Shape

COST = CostModel("decode", fixed=3.0, layer=0.5, group=0.02, neuron=0.001)
SHAPE = dataclasses.replace(Shape.of(build("gqa")), neurons=(400,) * 12, kv_groups=(4,) * 12)


@pytest.mark.parametrize("share", [0.5, 0.75, 0.9])
def test_candidates_are_what_no_other_plan_contains(share):
    """Of all (layers, width) that meet the budget: those to which neither a layer nor a step of width can be added."""
    allowed = share * COST.milliseconds(SHAPE.neurons, SHAPE.kv_groups)
    meets = {
        (dropped, width)
        for dropped in range(12)
        for width in range(40, 401, 40)
        if COST.milliseconds((width,) * (12 - dropped), (4,) * (12 - dropped)) <= allowed + 1e-9
    }

    def contained(dropped, width):
        others = {(d, w) for d in range(dropped + 1) for w in range(width, 401, 40)} - {(dropped, width)}
        return bool(others & meets)

    largest = {each for each in meets if not contained(*each)}
    found = candidates(COST, SHAPE, share, 40)
    assert largest <= set(found) <= meets and found == sorted(found)
    assert found[-1][1] == 400 and all(width < 400 for _, width in found[:-1])


def test_where_depth_costs_most_only_layers_can_go():
    deep = CostModel("decode", fixed=0.0, layer=1.0, group=0.0, neuron=0.0)
    assert candidates(deep, SHAPE, 0.75, 64) == [(3, 400)]


def test_where_width_costs_all_narrowing_alone_reaches_it():
    wide = CostModel("decode", fixed=0.0, layer=0.0, group=0.0, neuron=0.001)
    assert candidates(wide, SHAPE, 0.75, 4)[0] == (0, 300)


def test_a_budget_out_of_reach_is_refused():
    with pytest.raises(InputError, match="expected a budget that some plan meets.*got 0.2"):
        candidates(dataclasses.replace(COST, fixed=30.0), SHAPE, 0.2, 64)


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [(1, 4, [0]), (2, 4, [0, 1]), (8, 4, [0, 2, 5, 7]), (9, 3, [0, 4, 8]), (5, 1, [0]), (5, 0, [])],
)
def test_trials_are_spread(count, most, expected):
    assert spread(count, most) == expected


def test_the_trial_with_the_least_loss_is_the_plan():
    """Each trial done again by hand: layers of least harm, the width, the fit on one part, the loss on the other."""
    model, ids = build("gqa", num_hidden_layers=6), tokens(8, 24)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cost = CostModel("decode", fixed=0.0, layer=1.0, group=0.0, neuron=1 / 48)
    settings = Settings(multiple=8, ridge=0.1)
    plan, rows, _ = timed_plan(model, ids, settings, Budget("decode", 0.7), cost=cost, trials=2)
    assert [(len(row.plan.layers), row.plan.neurons[0]) for row in rows] == [(6, 16), (5, 32), (4, 48)]
    assert rows[1].loss is None and rows[0].loss is not None and rows[2].loss is not None
    order = loss_increase(model, ids[:4]).argsort(stable=True).tolist()
    assert rows[2].plan.dropped == tuple(sorted(order[:2]))
    for row in (rows[0], rows[2]):
        small = prune(model, ids[:6], settings, plan=row.plan).model
        assert row.loss == pytest.approx(perplexity(small, ids[6:]).loss, rel=1e-6)
        assert row.share == pytest.approx(cost.fraction(Shape.of(model), row.plan)) and row.share <= 0.7
    assert plan is min((rows[0], rows[2]), key=lambda row: row.loss).plan
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    kept = Shape.of(model).with_widths(plan.neurons, plan.kv_groups).decoder
    assert plan.removed == plan.ratio == pytest.approx(1 - kept / Shape.of(model).decoder)


def test_without_trials_the_fewest_layers_go(monkeypatch):
    monkeypatch.setattr(budget, "prune", None)
    cost = CostModel("decode", fixed=0.0, layer=1.0, group=0.0, neuron=1 / 48)
    plan, rows, _ = timed_plan(
        build("gqa"), tokens(1, 8), Settings(multiple=8), Budget("decode", 0.7), cost=cost, trials=0
    )
    assert len(plan.layers) == 3 and all(row.loss is None for row in rows)


def test_a_given_number_of_layers_is_kept_to():
    cost = CostModel("decode", fixed=0.0, layer=1.0, group=0.0, neuron=1 / 48)
    model, ids = build("gqa", num_hidden_layers=6), tokens(4, 16)
    plan, rows, _ = timed_plan(model, ids, Settings(multiple=8, layers=1), Budget("decode", 0.7), cost=cost)
    assert len(plan.layers) == 5 and len(rows) == 1 and rows[0].loss is None  # nothing to choose
    with pytest.raises(InputError, match="got 5: say auto"):
        timed_plan(model, ids, Settings(multiple=8, layers=5), Budget("decode", 0.7), cost=cost)


@pytest.mark.parametrize("settings", [Settings(widths="per-layer"), Settings(method="shortgpt", recovery="none")])
def test_methods_that_plan_by_themselves_are_refused(settings):
    with pytest.raises(InputError, match="ask for a --ratio instead"):
        timed_plan(build("gqa"), tokens(4, 8), settings, Budget("decode", 0.7), cost=COST)


def test_the_time_is_measured_on_the_device_asked_for(monkeypatch):
    """No other device is here: the model only says where it is sent, and that it comes back."""
    cost = CostModel("decode", fixed=0.0, layer=1.0, group=0.0, neuron=1 / 48)
    model, sent = build("gqa"), []
    monkeypatch.setattr(model, "to", sent.append)
    monkeypatch.setattr(budget, "measure", lambda model, progress: sent.append("measured") or {"decode": cost})
    monkeypatch.setattr(budget, "layers_to_drop", lambda *_: ([0, 1, 2], None))
    settings = Settings(multiple=8, device="cuda")
    timed_plan(model, tokens(1, 8), settings, Budget("decode", 0.7), trials=0)
    assert sent == ["cuda", "measured", torch.device("cpu")]


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def known_cost(monkeypatch):
    cost = CostModel("decode", fixed=0.0, layer=1.0, group=0.0, neuron=1 / 48)
    monkeypatch.setattr(budget, "measure", lambda model, progress: {"decode": cost, "prefill": cost})


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


TEXT = ("--sequences", 4, "--length", 32, "--multiple", 8)
RIDGE = ("--ridge", 0.1)  # no search, which takes longest


def test_plan_says_what_it_chose_and_saves_it(parent, tmp_path, known_cost):
    done = run("plan", parent, "--budget", "latency=0.7", "--out", tmp_path / "plan.json", "--trials", 2, *TEXT)
    assert done.exit_code == 0, done.output
    plan = Plan.load(tmp_path / "plan.json")
    assert plan.neurons[0] * len(plan.layers) / 48 + len(plan.layers) <= 0.7 * 6
    assert f"{plan.removed:.1%}" in done.output and "yes" in done.output


def test_prune_meets_a_budget_and_the_folder_says_so(parent, tmp_path, known_cost):
    small = tmp_path / "small"
    done = run("prune", parent, "--out", small, "--budget", "latency=0.7", "--evaluate", "none", *TEXT, *RIDGE)
    assert done.exit_code == 0, done.output
    shape = Shape.of(load_model(small)[0])
    assert shape.layers + sum(shape.neurons) / 48 <= 0.7 * 6
    assert "| budget | decode=0.7 |" in (small / "README.md").read_text("utf-8")
    assert json.loads((small / "comp_plan.json").read_text("utf-8"))["removed"] > 0.2


@pytest.mark.parametrize(
    ("words", "why"),
    [(("--budget", "latency=2"), "between 0 and 1"), (("--budget", "latency=0.7", "--ratio", "0.2"), "got both")],
)
def test_prune_refuses_a_budget_before_any_work(parent, tmp_path, words, why):
    done = run("prune", parent, "--out", tmp_path / "small", *words)
    assert done.exit_code == 2 and why in " ".join(done.output.split()) and not (tmp_path / "small").exists()
