"""Ranking what students hand in, on a tiny model: what takes part, in which order, what is measured again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from teaching import rank

from comp_lib.checkpoints.load import load_model
from comp_lib.decoder.shape import Shape
from comp_lib.hybrid_granularity.plan import PlanRequest


@pytest.fixture(scope="module")
def request_for_plan(parent):
    model, _ = load_model(parent)
    return PlanRequest(Shape.of(model), 0.2, multiple=1)


@pytest.fixture
def rank_plans(tmp_path, parent, monkeypatch):
    """A function that writes plans, name -> plan or text, into a folder and ranks all that lie there."""
    monkeypatch.setattr(rank, "TEXT", {"source": "shipped", "sequences": 4, "length": 32})
    monkeypatch.setattr(rank, "LENGTH", 32)
    monkeypatch.setattr(rank, "WINDOWS", 2)

    def run(**plans):
        for name, plan in plans.items():
            text = plan if isinstance(plan, str) else plan.to_json()
            (tmp_path / f"{name}.json").write_text(text, "utf-8")
        return rank.main([str(tmp_path), "--model", str(parent)])

    return run


def test_what_cannot_be_ranked_is_below_with_its_reason(rank_plans, request_for_plan, capsys):
    good = request_for_plan.plan_with((32, 32, 32))
    wrong_claim = replace(good, removed=0.2, neurons=(48, 48, 48))  # nobody believes what it claims to remove
    plans_and_reasons = {
        "ben": (request_for_plan.plan_with((32, 40, 24)), "expected one width for all layers"),
        "cleo": (
            request_for_plan.plan_with((20, 20, 20)),
            "expected 20.0% of the decoder to be removed, within 0.5%",
        ),
        "dan": (replace(good, parent_layers=4), "expected a plan for 3 layers"),
        "eve": ("{", "expected a plan as JSON"),
        "fay": (request_for_plan.plan_with((60, 60, 60)), "expected at most 48 neurons in layer 0"),
        "gil": (wrong_claim, "expected 20.0%"),
    }
    bad_plans = {name: plan for name, (plan, _) in plans_and_reasons.items()}
    assert rank_plans(ada=good, **bad_plans) == 0
    above, below = capsys.readouterr().out.split("Not ranked:")
    assert len([line for line in above.splitlines() if line.startswith("| 1 | ada | ")]) == 1
    assert "3 layers of 32 neurons and 2 KV groups" in above
    assert "prose" in above
    assert "ben" not in above
    for name, (_, reason) in plans_and_reasons.items():
        assert f"\n- {name}: {reason}" in below


def test_a_plan_is_measured_once(rank_plans, request_for_plan, capsys, tmp_path):
    plan = request_for_plan.plan_with((32, 32, 32))
    rank_plans(ada=plan)
    assert "measuring ada" in capsys.readouterr().err
    rank_plans()
    assert "measuring" not in capsys.readouterr().err
    rank_plans(ada=replace(plan, parent="another"), ben=plan)
    assert capsys.readouterr().err.count("measuring") == 2
    (tmp_path / "ben.result.json").write_text("[]", "utf-8")
    rank_plans()
    printed = capsys.readouterr()
    assert printed.err.splitlines() == ["measuring ben"]
    assert printed.out.count("\n| 1 | ") == 2  # the same widths: both are first


def result(extra_losses):
    return {"extra": {"prose": extra_losses, "code": extra_losses}, "seconds": 1.0}


def test_places_are_shared_where_no_difference_was_found(request_for_plan):
    plan = request_for_plan.plan_with((32, 32, 32))
    noise = [0.1, -0.1, 0.05, -0.05, 0.02, -0.02, 0.01, -0.01]
    extra_losses = {
        "worst": [1.0 + 3 * value for value in noise],
        "best": [0.2 + value for value in noise],
        "second": [0.3 + 5 * value for value in noise],
        "third": [0.31 + 4 * value for value in noise],
    }
    table = rank.table({name: (plan, result(losses)) for name, losses in extra_losses.items()})
    numbers_and_names = [[cell.strip() for cell in row.split("|")[1:3]] for row in table.splitlines()[2:]]
    assert numbers_and_names == [["1", "best"], ["1", "second"], ["1", "third"], ["4", "worst"]]


def test_a_single_plan_has_a_table_of_one_row(request_for_plan):
    plan = request_for_plan.plan_with((32, 32, 32))
    assert rank.table({"ada": (plan, result([0.1, -0.1]))}).count("\n") == 2


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_a_folder_without_plans_is_refused_in_one_line(folder, tmp_path, capsys):
    assert rank.main([str(tmp_path / folder)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: expected a folder with plans")
    assert printed.err.count("\n") == 1
