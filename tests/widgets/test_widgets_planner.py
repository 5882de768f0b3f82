"""The planner, driven without a browser: every control answers at once, and the button asks the model."""

from __future__ import annotations

import pytest
import torch
from ipywidgets import HTML

from comp_lib.errors import InputError
from comp_lib.hybrid_granularity.measured import measured_plan
from comp_lib.hybrid_granularity.paper import paper_plan
from comp_lib.hybrid_granularity.uniform import uniform_plan
from comp_lib.plan import PlanRequest
from comp_lib.shape import Shape
from course.hybrid_granularity import layer_errors, stored_sensitivity, water_filling_plan
from course.widgets import explorers as widget

LAYERS = 30
SHAPE = Shape(576, 64, 3, (1536,) * LAYERS, (3,) * LAYERS, 3 * 576, 8 * 64 * 576, 2 * 576, 49_152 * 576 + 576)
RISE = torch.linspace(0.05, 0.5, LAYERS, dtype=torch.float64)
CURVES = (RISE[:, None] * (torch.arange(44) / 44.0) ** 3).tolist()
HARM = [0.01 + ((7 * layer) % LAYERS) / 100 for layer in range(LAYERS)]
MINDS = stored_sensitivity({"gone": 416, "kl": HARM, "curves": CURVES})
IMPORTANCE = [1.0 + (7 * layer) % LAYERS for layer in range(LAYERS)]


def width_spread(plan):
    """Stands for a model: the more uneven the widths, the larger the loss."""
    spread = (max(plan.neurons) - min(plan.neurons)) / 1536
    return 0.5 + spread, 0.4 + spread, 0.6 + spread


@pytest.fixture
def planner():
    return widget.Planner(SHAPE, MINDS, IMPORTANCE, measure=width_spread, multiple=32, parent="dense")


def test_it_opens_with_a_plan_that_can_be_read_and_used(planner):
    assert planner.plan == uniform_plan(PlanRequest(SHAPE, 0.2, multiple=32, parent="dense"))
    assert "1120 of 1536 neurons in every layer that stays" in planner.image.value
    left = SHAPE.with_widths(planner.plan.neurons, planner.plan.kv_groups).total
    assert f"{left:,} of 134,515,008" in planner.facts.value
    assert f"{left * 4 / 1e6:,.1f} of 538.1" in planner.facts.value
    assert f"{float(layer_errors(MINDS, SHAPE, planner.plan).nansum()):.2%}" in planner.facts.value
    assert "time" not in planner.facts.value and "not measured yet" in planner.facts.value


def test_the_page_does_not_jump_and_sliders_wait_for_the_hand(planner):
    assert planner.layout.min_height and planner.image.layout.min_height and planner.facts.layout.min_height
    assert planner.results.layout.min_height
    for slider in (planner.ratio, planner.layer, planner.width):
        assert not slider.continuous_update


def test_a_task_stands_above_as_words():
    given = widget.Planner(SHAPE, MINDS, IMPORTANCE, task="find a plan <better> than that", multiple=32)
    assert isinstance(given.children[0], HTML) and "find a plan &lt;better&gt;" in given.children[0].value


def test_every_control_changes_plan_and_picture(planner):
    seen = [(planner.plan, planner.image.value)]
    moves = [(planner.ratio, 30), (planner.of, "model"), (planner.dropped, (3, 0, 20))]
    for rule in (widget.WATER, widget.PER_LAYER, widget.MEASURED):
        moves.append((planner.widths, rule))
    for control, value in moves:
        control.value = value
        seen.append((planner.plan, planner.image.value))
    assert len({plan.to_json() for plan, _ in seen}) == len({image for _, image in seen}) == len(seen)
    assert planner.plan.dropped == (0, 3, 20) and planner.plan.of == "model" and planner.plan.removed >= 0.3


def test_widths_are_those_of_the_planners(planner):
    request = PlanRequest(SHAPE, 0.2, drop=[5], multiple=32, parent="dense")
    planner.dropped.value = (5,)
    planner.widths.value = widget.WATER
    assert planner.plan == water_filling_plan(request, MINDS)
    planner.widths.value = widget.PER_LAYER
    assert planner.plan == paper_plan(request, IMPORTANCE)
    planner.widths.value = widget.MEASURED
    assert planner.plan == measured_plan(request, MINDS)


def test_widths_can_be_set_by_hand(planner):
    assert planner.width.disabled and planner.layer.disabled
    planner.widths.value = widget.BY_HAND
    assert planner.plan.neurons == (1120,) * LAYERS  # it starts from the plan that was shown
    assert not planner.width.disabled and planner.width.value == 1120
    planner.width.value = 1536
    assert planner.plan.neurons == (1536, *(1120,) * (LAYERS - 1))
    assert "less than the 20% asked for: narrow more" in planner.facts.value
    planner.layer.value = 23
    assert planner.width.value == 1120 and planner.plan.neurons[0] == 1536  # nothing changes but the layer looked at
    planner.width.value = 704
    assert planner.plan.neurons[23] == 704 and "narrow more" not in planner.facts.value
    planner.dropped.value = (4,)
    assert planner.plan.dropped == (4,) and planner.plan.neurons[0] == 1536 and planner.plan.neurons[22] == 704


def test_the_button_measures_the_plan_shown_and_keeps_the_order(planner):
    planner.measure_button.click()
    assert "0.500 nats per token (0.400 to 0.600)" in planner.facts.value
    first = planner.plan
    planner.widths.value = widget.WATER
    assert "not measured yet" in planner.facts.value
    planner.measure_button.click()
    assert set(planner.measured) == {first, planner.plan} and not planner.measure_button.disabled
    assert planner.results.value.index("0.500 nats") < planner.results.value.index("1120 to 1120")
    assert planner.results.value.count("<li>") == 2
    planner.widths.value = widget.UNIFORM
    assert "0.500 nats per token" in planner.facts.value  # it is remembered


def test_what_was_measured_is_not_measured_again_and_a_refusal_is_told():
    asked = []

    def refuse(plan):
        asked.append(plan)
        raise InputError("expected more text, got none: give some")

    planner = widget.Planner(SHAPE, MINDS, IMPORTANCE, measure=refuse, multiple=32)
    planner.measure_button.click()
    assert "expected more text" in planner.results.value and not planner.measure_button.disabled
    assert len(asked) == 1 and not planner.measured
    counted = widget.Planner(
        SHAPE, MINDS, IMPORTANCE, measure=lambda plan: asked.append(plan) or (1, 0, 2), multiple=32
    )
    counted.measure_button.click()
    counted.measure_button.click()
    assert len(asked) == 2


def test_without_a_measure_the_button_rests():
    assert widget.Planner(SHAPE, MINDS, IMPORTANCE, multiple=32).measure_button.disabled


def test_time_is_predicted_where_it_was_measured():
    timed = widget.Planner(SHAPE, MINDS, IMPORTANCE, line=(2.0, 0.5, 0.001), multiple=32)
    before, after = 2.0 + LAYERS * (0.5 + 1.536), 2.0 + LAYERS * (0.5 + 1.12)
    assert f"{after:.1f} of {before:.1f} ms" in timed.facts.value
    timed.dropped.value = (0, 1, 2, 3, 4, 5)
    assert f"{2.0 + 24 * (0.5 + 1.536):.1f} of" in timed.facts.value


def test_a_wish_that_cannot_be_met_is_answered_by_a_sentence(planner):
    height = planner.layout.min_height
    planner.of.value = "model"
    planner.ratio.value = planner.ratio.max
    assert planner.plan is None and planner.image.value == ""
    assert "expected a ratio that these layers and groups allow" in planner.facts.value
    assert "Traceback" not in planner.facts.value and planner.layout.min_height == height
    planner.measure_button.click()
    assert not planner.measured  # there is nothing to measure
    planner.ratio.value = 20
    assert planner.plan is not None and planner.image.value and "expected" not in planner.facts.value
    planner.dropped.value = tuple(range(LAYERS))
    assert planner.plan is None and "expected fewer than 30 layers to drop" in planner.facts.value


def test_a_tiny_model_can_be_planned_too():
    shape = Shape(32, 8, 2, (96, 80), (2, 2), 96, 1536, 64, 16_032)
    minds = stored_sensitivity({"gone": 32, "kl": [0.1, 0.2], "curves": [[0.0, 0.1, 0.3], [0.0, 0.2, 0.5]]})
    small = widget.Planner(shape, minds, [0.1, 0.2], multiple=8)
    assert len(small.dropped.options) == 2 and small.plan.removed >= 0.2
