"""What stands behind lesson 03: stored curves, predictions, water-filling against brute force, sublayers left out."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch

from comp_lib.errors import InputError
from comp_lib.hybrid_granularity.measured import measured_plan
from comp_lib.hybrid_granularity.paper import paper_plan
from comp_lib.hybrid_granularity.uniform import uniform_plan
from comp_lib.importance.matrix_condition import Sweep
from comp_lib.importance.widths import Sensitivity
from comp_lib.plan import Plan, PlanRequest
from comp_lib.shape import Shape
from course import hybrid_granularity as planning

COSTS = {
    "neuron_parameters": 96,
    "group_parameters": 1536,
    "layer_parameters": (64,) * 3,
    "other_parameters": 16_032,
}
SHAPE = Shape(32, 8, 2, (8, 8, 8), (2, 2, 2), **COSTS)
REAL = Shape(576, 64, 3, (1536,) * 30, (3,) * 30, 3 * 576, 8 * 64 * 576, (2 * 576,) * 30, 49_152 * 576 + 576)
STORED = Path(__file__).parents[2] / "benchmarks" / "hybrids.json"


def minds_of(*errors) -> Sensitivity:
    """A sensitivity with these errors after 2, 4, 6 neurons."""
    none, counts = torch.empty(0), torch.tensor([2, 4, 6])
    curves = [
        Sweep(none, none, torch.tensor(each).double(), counts, torch.zeros(3), none, none) for each in errors
    ]
    return Sensitivity((4,) * len(errors), torch.ones(len(errors)), tuple(curves))


CONVEX = minds_of([0.01, 0.05, 0.20], [0.03, 0.07, 0.12], [0.02, 0.05, 0.50])


def plan_of(layers, widths) -> Plan:
    groups = (2,) * len(layers)
    return Plan("", 3, layers, widths, groups, 0.1, 0.2)


# --- what is stored ---------------------------------------------------------------------------------------------------


def test_stored_curves_go_through_their_points():
    found = {"gone": 32, "kl": [0.5, 0.25], "curves": [[0.0, 0.1, 0.3], [0.0, 0.2, 0.8]]}
    minds = planning.stored_sensitivity(found)
    assert minds.removed == (32, 32) and minds.harm.tolist() == [0.5, 0.25]
    assert minds.errors(0, 100)[[0, 16, 32, 48, 64]].tolist() == pytest.approx([0.0, 0.05, 0.1, 0.2, 0.3])
    assert len(minds.errors(1, 100)) == 65  # as far as it was measured


@pytest.fixture(scope="module")
def found():
    return json.loads(STORED.read_text("utf-8"))


def test_stored_rows_reach_their_budget(found):
    for row in found["rows"]:
        if row["budget"] == "parameters":
            assert row["removed"] >= row["ratio"] - 1e-4, row["name"]
            assert row["removed"] < row["ratio"] + 0.02, row["name"]  # no rival is asked for more


def test_stored_plans_are_those_of_the_planners(found):
    minds = planning.stored_sensitivity(found)
    for row in found["rows"]:
        if row["budget"] != "parameters" or not row["name"].startswith(("neurons", "few layers")):
            continue
        request = PlanRequest(REAL, row["ratio"], drop=row["dropped"], multiple=found["multiple"])
        kind = row["name"].split(", ")[1]
        plan = {
            "uniform": lambda request=request: uniform_plan(request),
            "paper": lambda request=request: paper_plan(request, found["harm"]),
            "measured": lambda request=request: measured_plan(request, minds),
            "water-filling": lambda request=request: planning.water_filling_plan(request, minds),
        }[kind]()
        assert list(plan.neurons) == row["neurons"], row["name"]


def test_the_neurons_that_would_go_last_stay():
    plan = planning.named_plan(plan_of((0, 2), (6, 8)), [[3, 1, 0, 2], [], [7, 5]], SHAPE)
    assert plan.kept_neurons == ((0, 2, 4, 5, 6, 7), tuple(range(8)))


# --- prediction -------------------------------------------------------------------------------------------------------


def test_nothing_is_known_of_a_dropped_layer():
    plan = plan_of((0, 2), (6, 5))
    assert planning.layer_errors(CONVEX, SHAPE, plan).tolist() == pytest.approx(
        [0.01, float("nan"), 0.035], nan_ok=True
    )


def brute_force(budget: int) -> float:
    """Least sum of errors of all widths that free `budget` parameters, for curves that rise ever faster."""
    curves = [CONVEX.errors(layer, 8) for layer in range(3)]
    options = itertools.product(range(0, 8, 2), repeat=3)
    return min(
        float(sum(curves[i][g] for i, g in enumerate(gone))) for gone in options if sum(gone) * 96 >= budget
    )


@pytest.mark.parametrize("neurons", (6, 12, 18))  # what uniform widths remove too
def test_water_filling_is_optimal_where_curves_rise_ever_faster(neurons):
    ratio = neurons * 96 / SHAPE.decoder
    plan = planning.water_filling_plan(PlanRequest(SHAPE, ratio - 1e-9, multiple=2), CONVEX)
    assert plan.removed == pytest.approx(ratio) and plan.layers == (0, 1, 2)
    assert float(planning.layer_errors(CONVEX, SHAPE, plan).sum()) == pytest.approx(brute_force(neurons * 96))


def test_water_filling_drops_layers_and_says_what_is_out_of_reach():
    plan = planning.water_filling_plan(PlanRequest(SHAPE, 0.32, drop=[1], multiple=2, parent="p"), CONVEX)
    assert plan.layers == (0, 2) and plan.parent == "p" and plan.removed >= 0.32
    with pytest.raises(InputError, match="expected a ratio that these layers and groups allow"):
        planning.water_filling_plan(PlanRequest(SHAPE, 0.9, multiple=2), CONVEX)
