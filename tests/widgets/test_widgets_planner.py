"""The planner, driven without a browser: every control answers at once, a wish that cannot be met gets a sentence."""

from __future__ import annotations

import pytest
import torch

from comp_lib.hybrid_granularity.paper import paper_plan
from comp_lib.hybrid_granularity.uniform import uniform_plan
from comp_lib.lessons.hybrid_granularity import layer_errors, water_filling_plan
from comp_lib.plan import PlanRequest
from comp_lib.shape import Shape
from comp_lib.widgets import explorers as widget

LAYERS = 30
SHAPE = Shape(576, 64, 3, (1536,) * LAYERS, (3,) * LAYERS, 3 * 576, 8 * 64 * 576, 2 * 576, 49_152 * 576 + 576)
RISE = torch.linspace(0.05, 0.5, LAYERS, dtype=torch.float64)
CURVES = {"counts": torch.arange(15) * 64, "errors": RISE[:, None] * (torch.arange(15) / 15.0) ** 3}
IMPORTANCE = [1.0 + (7 * layer) % LAYERS for layer in range(LAYERS)]  # least in 0, then 13, 26, 9


@pytest.fixture
def planner():
    return widget.Planner(SHAPE, CURVES, IMPORTANCE, multiple=32, parent="dense")


def test_it_opens_with_a_plan_that_can_be_read_and_used(planner):
    assert planner.plan == uniform_plan(PlanRequest(SHAPE, 0.2, multiple=32, parent="dense"))
    assert "1120 of 1536 neurons in every layer that stays" in planner.image.value
    left = SHAPE.with_widths(planner.plan.neurons, planner.plan.kv_groups).total
    assert f"{left:,} of 134,515,008" in planner.facts.value
    assert f"{left * 4 / 1e6:,.1f} of 538.1" in planner.facts.value
    assert f"{float(layer_errors(CURVES, SHAPE, planner.plan).mean()):.2%}" in planner.facts.value
    assert "time" not in planner.facts.value


def test_the_page_does_not_jump_and_sliders_wait_for_the_hand(planner):
    assert planner.layout.min_height and planner.image.layout.min_height and planner.facts.layout.min_height
    assert not planner.ratio.continuous_update and not planner.dropped.continuous_update


def test_every_control_changes_plan_and_picture(planner):
    seen = [(planner.plan, planner.image.value)]
    moves = [(planner.ratio, 30), (planner.of, "model"), (planner.dropped, 3)]
    for control, value in (*moves, (planner.widths, widget.WATER), (planner.widths, widget.PER_LAYER)):
        control.value = value
        seen.append((planner.plan, planner.image.value))
    assert len({plan.to_json() for plan, _ in seen}) == len({image for _, image in seen}) == len(seen)
    assert planner.plan.dropped == (0, 13, 26) and planner.plan.of == "model" and planner.plan.removed >= 0.3


def test_widths_are_those_of_the_planners(planner):
    options = {"drop": [0], "multiple": 32, "parent": "dense"}
    planner.dropped.value = 1
    planner.widths.value = widget.WATER
    assert planner.plan == water_filling_plan(PlanRequest(SHAPE, 0.2, **options), CURVES)
    planner.widths.value = widget.PER_LAYER
    assert planner.plan == paper_plan(PlanRequest(SHAPE, 0.2, **options), IMPORTANCE)


def test_time_is_predicted_where_it_was_measured():
    timed = widget.Planner(SHAPE, CURVES, IMPORTANCE, line=(1.0, 0.001), multiple=32)
    before, after = LAYERS * (1.0 + 1.536), LAYERS * (1.0 + 1.12)
    assert f"{after:.1f} of {before:.1f} ms" in timed.facts.value


def test_a_wish_that_cannot_be_met_is_answered_by_a_sentence(planner):
    height = planner.layout.min_height
    for layers in (SHAPE.layers - 1, widget.MOST_DROPPED):
        assert planner.dropped.max <= layers
    planner.of.value = "model"
    planner.ratio.value = planner.ratio.max
    assert planner.plan is None and planner.image.value == ""
    assert "expected a ratio that these layers and groups allow" in planner.facts.value
    assert "Traceback" not in planner.facts.value and planner.layout.min_height == height
    planner.ratio.value = 20
    assert planner.plan is not None and planner.image.value and "expected" not in planner.facts.value


def test_a_tiny_model_can_be_planned_too():
    shape = Shape(32, 8, 2, (48, 40), (2, 2), 96, 1536, 64, 16_032)
    curves = {"counts": torch.tensor([0, 16]), "errors": torch.tensor([[0.0, 0.1], [0.0, 0.2]])}
    small = widget.Planner(shape, curves, [0.1, 0.2], multiple=8)
    assert small.dropped.max == 1 and small.plan.removed >= 0.2
