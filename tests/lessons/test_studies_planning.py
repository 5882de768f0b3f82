"""What stands behind lesson 03: stored curves, predictions, and water-filling against brute force."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from tools import SMOLLM2

from comp_lib.decoder.shape import Shape
from comp_lib.hybrid_granularity.by_harm import plan_by_harm
from comp_lib.hybrid_granularity.measured import MeasuredHarm
from comp_lib.hybrid_granularity.paper import paper_plan
from comp_lib.hybrid_granularity.plan import Plan, PlanRequest
from comp_lib.hybrid_granularity.uniform import uniform_plan
from comp_lib.importance.matrix_condition import Sweep
from comp_lib.importance.problem import RIDGE
from comp_lib.utils.errors import InputError
from course import hybrid_granularity as planning
from course.dense_stream import dense_problem

COSTS = {
    "neuron_parameters": 96,
    "group_parameters": 1536,
    "fixed_parameters": (64,) * 3,
    "other_parameters": 16_032,
}
SHAPE = Shape(
    hidden_size=32,
    head_dim=8,
    group_heads=2,
    neurons=(8, 8, 8),
    kv_groups=(2, 2, 2),
    **COSTS,
)
STORED = Path(__file__).parents[2] / "benchmarks" / "hybrids.json"


def harm_of(*errors) -> MeasuredHarm:
    """Harms with which each layer has such errors after 2, 4, 6 removed neurons."""
    empty = torch.empty(0)
    counts = torch.tensor([2, 4, 6])
    sweeps = []
    for errors_of_layer in errors:
        curve = torch.tensor(errors_of_layer).double()
        sweeps.append(Sweep(empty, empty, curve, counts, torch.zeros(3), empty, empty))
    return MeasuredHarm((4,) * len(errors), torch.ones(len(errors)), tuple(sweeps))


CONVEX = harm_of([0.01, 0.05, 0.20], [0.03, 0.07, 0.12], [0.02, 0.05, 0.50])


def plan_of(layers, widths) -> Plan:
    groups = (2,) * len(layers)
    return Plan("", 3, layers, widths, groups, 0.1, 0.2)


# --- what is stored -----------------------------------------------------------------------------------------


def test_stored_curves_go_through_their_points():
    record = {"gone": 32, "kl": [0.5, 0.25], "curves": [[0.0, 0.1, 0.3], [0.0, 0.2, 0.8]]}
    measured = planning.stored_harm(record)
    assert measured.removals == (32, 32)
    assert measured.harm.tolist() == [0.5, 0.25]
    errors = measured.errors(0, 100)[[0, 16, 32, 48, 64]].tolist()
    assert errors == pytest.approx([0.0, 0.05, 0.1, 0.2, 0.3])
    assert len(measured.errors(1, 100)) == 65  # as far as it was measured


@pytest.fixture(scope="module")
def stored():
    """The comparison of plans that the lesson shows, as the benchmark stored it."""
    return json.loads(STORED.read_text("utf-8"))


def test_stored_rows_reach_their_budget(stored):
    for row in stored["rows"]:
        if row["budget"] == "parameters":
            assert row["removed"] >= row["ratio"] - 1e-4, row["name"]
            assert row["removed"] < row["ratio"] + 0.02, row["name"]  # no rival has to remove more


def test_stored_plans_are_those_of_the_planners(stored):
    measured = planning.stored_harm(stored)
    planners = {
        "uniform": uniform_plan,
        "paper": lambda request: paper_plan(request, stored["harm"]),
        "measured": lambda request: plan_by_harm(request, measured),
        "water-filling": lambda request: planning.water_filling_plan(request, measured),
    }
    for row in stored["rows"]:
        if row["budget"] != "parameters" or not row["name"].startswith(("neurons", "few layers")):
            continue
        request = PlanRequest(SMOLLM2, row["ratio"], drop=row["dropped"], multiple=stored["multiple"])
        planner = row["name"].split(", ")[1]
        plan = planners[planner](request)
        assert list(plan.neurons) == row["neurons"], row["name"]


def test_the_neurons_that_would_go_last_stay():
    plan = planning.named_plan(plan_of((0, 2), (6, 8)), [[3, 1, 0, 2], [], [7, 5]], SHAPE)
    assert plan.kept_neurons == ((0, 2, 4, 5, 6, 7), tuple(range(8)))


# --- narrowed alone ---------------------------------------------------------------------------------------


def squared_gap(dense, narrowed):
    return (dense - narrowed).square().sum(-1).mean(-1)


def test_each_layer_alone_is_narrowed_and_the_model_is_asked(tiny_llama, ids):
    model = tiny_llama()
    fitted, judging = ids[:1], ids[1:]
    study = planning.narrowed_alone(model, fitted, judging, 20, squared_gap)
    assert study.tried == [0, 2]
    with torch.no_grad():
        dense = model(judging).logits
        for position, layer in enumerate(study.tried):
            # the problem of the dense stream: tokens divided by the norm of their state
            problem = dense_problem(model, fitted, layer)
            energy = problem.statistics.diagonal() * problem.weight.square().sum(1)
            kept = energy.argsort()[20:].sort().values
            refitted = problem.statistics.refit(problem.weight, kept, RIDGE)
            down = model.model.layers[layer].mlp.down_proj
            before = down.weight.data
            down.weight.data = refitted.T.float()
            expected = squared_gap(dense, model(judging).logits)
            down.weight.data = before
            torch.testing.assert_close(
                torch.from_numpy(study.divergences[position]).float(), expected, rtol=1e-3, atol=1e-5
            )
            tokens = fitted.numel()
            torch.testing.assert_close(
                study.energies[layer], energy.sort().values / tokens, rtol=1e-4, atol=1e-9
            )
            gap = problem.weight - refitted
            error = float((gap * (problem.xtx @ gap)).sum() / tokens)
            assert study.errors[position] == pytest.approx(error, rel=1e-4)


# --- prediction ---------------------------------------------------------------------------------------------


def test_nothing_is_known_of_a_dropped_layer():
    plan = plan_of((0, 2), (6, 5))
    errors = planning.layer_errors(CONVEX, SHAPE, plan).tolist()
    assert errors == pytest.approx([0.01, float("nan"), 0.035], nan_ok=True)


def brute_force(budget: int) -> float:
    """Least sum of errors of all widths that free `budget` parameters."""
    curves = [CONVEX.errors(layer, 8) for layer in range(3)]
    sums = []
    for removed in itertools.product(range(0, 8, 2), repeat=3):  # neurons of each layer
        if sum(removed) * COSTS["neuron_parameters"] >= budget:
            sums.append(sum(float(curve[count]) for curve, count in zip(curves, removed, strict=True)))
    return min(sums)


@pytest.mark.parametrize("neurons", (6, 12, 18))  # numbers that uniform widths can remove too
def test_water_filling_is_optimal_where_curves_rise_ever_faster(neurons):
    budget = neurons * COSTS["neuron_parameters"]
    ratio = budget / SHAPE.decoder_parameters
    plan = planning.water_filling_plan(PlanRequest(SHAPE, ratio - 1e-9, multiple=2), CONVEX)
    assert plan.removed == pytest.approx(ratio)
    assert plan.layers == (0, 1, 2)
    errors = planning.layer_errors(CONVEX, SHAPE, plan)
    assert float(errors.sum()) == pytest.approx(brute_force(budget))


def test_water_filling_drops_layers_and_says_what_is_out_of_reach():
    plan = planning.water_filling_plan(PlanRequest(SHAPE, 0.32, drop=[1], multiple=2, parent="p"), CONVEX)
    assert plan.layers == (0, 2)
    assert plan.parent == "p"
    assert plan.removed >= 0.32
    with pytest.raises(InputError, match="expected a ratio that these layers and groups allow"):
        planning.water_filling_plan(PlanRequest(SHAPE, 0.9, multiple=2), CONVEX)
