"""Ranking what students hand in, on a tiny model: what takes part, in which order, and what is measured again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from teaching import rank

from comp_lib.models.load import load_model
from comp_lib.plan import PlanRequest
from comp_lib.shape import Shape


@pytest.fixture(scope="module")
def asked(parent):
    return PlanRequest(Shape.of(load_model(parent)[0]), 0.2, multiple=1)


@pytest.fixture
def ranked(tmp_path, parent, monkeypatch):
    """Writes plans into a folder, and ranks the folder: the exit code."""
    monkeypatch.setattr(rank, "TEXT", {"source": "shipped", "sequences": 4, "length": 32})
    monkeypatch.setattr(rank, "LENGTH", 32)
    monkeypatch.setattr(rank, "WINDOWS", 2)

    def run(**plans):
        for name, plan in plans.items():
            (tmp_path / f"{name}.json").write_text(plan if isinstance(plan, str) else plan.to_json(), "utf-8")
        return rank.main([str(tmp_path), "--model", str(parent)])

    return run


def test_what_cannot_be_ranked_is_below_with_its_reason(ranked, asked, capsys):
    good = asked.plan((32, 32, 32))
    plans = {
        "ben": (asked.plan((32, 40, 24)), "expected one width for all layers"),
        "cleo": (asked.plan((20, 20, 20)), "expected 20.0% of the decoder to be removed, within 0.5%"),
        "dan": (replace(good, parent_layers=4), "expected a plan for 3 layers"),
        "eve": ("{", "expected a plan as JSON"),
        "fay": (asked.plan((60, 60, 60)), "expected at most 48 neurons in layer 0"),
        "gil": (
            replace(good, removed=0.2, neurons=(48, 48, 48)),
            "expected 20.0%",
        ),  # what it claims does not count
    }
    assert ranked(ada=good, **{name: plan for name, (plan, _) in plans.items()}) == 0
    above, below = capsys.readouterr().out.split("Not ranked:")
    assert len([line for line in above.splitlines() if line.startswith("| 1 | ada | ")]) == 1
    assert "3 layers of 32 neurons and 2 KV groups" in above and "prose" in above and "ben" not in above
    for name, (_, why) in plans.items():
        assert f"\n- {name}: {why}" in below


def test_a_plan_is_measured_once(ranked, asked, capsys, tmp_path):
    wide = asked.plan((32, 32, 32))
    ranked(ada=wide)
    assert "measuring ada" in capsys.readouterr().err
    ranked()
    assert "measuring" not in capsys.readouterr().err
    ranked(ada=replace(wide, parent="another"), ben=wide)
    assert capsys.readouterr().err.count("measuring") == 2
    (tmp_path / "ben.result.json").write_text("[]", "utf-8")
    ranked()
    told = capsys.readouterr()
    assert told.err.splitlines() == ["measuring ben"] and told.out.count("\n| 1 | ") == 2  # two of one plan


def result(*windows):
    return {"extra": {"prose": list(windows), "code": list(windows)}, "seconds": 1.0}


def test_places_are_shared_where_no_difference_was_found(asked):
    plan = asked.plan((32, 32, 32))
    noise = [0.1, -0.1, 0.05, -0.05, 0.02, -0.02, 0.01, -0.01]
    extra = {
        "worst": [1.0 + 3 * value for value in noise],
        "best": [0.2 + value for value in noise],
        "second": [0.3 + 5 * value for value in noise],
        "third": [0.31 + 4 * value for value in noise],
    }
    rows = rank.table({name: (plan, result(*windows)) for name, windows in extra.items()}).splitlines()[2:]
    places = [[cell.strip() for cell in row.split("|")[1:3]] for row in rows]
    assert places == [["1", "best"], ["1", "second"], ["1", "third"], ["4", "worst"]]
    assert rank.table({"one": (plan, result(*noise))}).count("\n") == 2


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_wrong_input_is_one_line(folder, tmp_path, capsys):
    assert rank.main([str(tmp_path / folder)]) == 2
    told = capsys.readouterr()
    assert (
        told.out == ""
        and told.err.startswith("error: expected a folder with plans")
        and told.err.count("\n") == 1
    )
