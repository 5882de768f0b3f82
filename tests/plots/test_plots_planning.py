"""Figures of planning: words computed from the numbers, units on the axes, and what is drawn is what was given."""

from __future__ import annotations

import pytest

from comp_lib.hybrid_granularity.uniform import uniform_plan
from comp_lib.plan import Plan, PlanRequest
from comp_lib.plots.base import GREEN, png
from comp_lib.shape import Shape
from course.figures import hybrid_granularity as plots

SHAPE = Shape(32, 8, 2, (48,) * 4, (2,) * 4, 96, 1536, 64, 16_032)
UNIFORM = uniform_plan(PlanRequest(SHAPE, 0.2, multiple=8))
MIXED = Plan("", 4, (0, 2, 3), (16, 48, 40), (2, 2, 2), 0.2, "decoder", 0.431)


def heights(axis, colour=None):
    """Of the bars of an axis, those of one colour only."""
    return [bar.get_height() for bar in axis.patches if colour is None or bar.get_facecolor()[:3] == colour]


def check(figure, *words):
    """It can be drawn, each axis has labels with units, and the alt text says these words."""
    assert png(figure).startswith(b"\x89PNG")
    for word in words:
        assert word in figure.alt_text
    return figure


def test_units_are_drawn_to_scale_and_counted():
    figure = check(plots.plot_units(SHAPE), "one MLP neuron: 96 parameters", "one layer: 7,744 parameters (all of it)")
    shares = []
    for axis in figure.axes:
        whole = sum(bar.get_width() * bar.get_height() for bar in axis.patches if bar.get_facecolor()[:3] != plots.RED)
        red = sum(bar.get_width() * bar.get_height() for bar in axis.patches if bar.get_facecolor()[:3] == plots.RED)
        shares.append(red / max(whole, red))
    block = 2 * SHAPE.group_parameters + 48 * SHAPE.neuron_parameters
    assert shares[1] == pytest.approx(SHAPE.group_parameters / block)
    assert shares[3] == 1.0 and shares[0] < 0.05
    attention = sum(bar.get_width() * bar.get_height() for bar in figure.axes[2].patches[:4])
    assert attention == 2 * SHAPE.group_parameters  # one unit of area is one parameter
    assert [text.get_text() for text in figure.axes[0].texts] == ["q", "k", "v", "o", "gate", "up", "down"]


def test_widths_and_errors_of_a_plan():
    errors = [0.02, float("nan"), 0.0, 0.01]
    figure = check(
        plots.plot_widths(MIXED, SHAPE.neurons, errors),
        "layer 1 dropped",
        "16 (layer 0) to 48 of 48",
        "layer 0 has the largest predicted error, 2.00%",
    )
    top, bottom = figure.axes
    assert heights(top, GREEN) == [16, 48, 40] and heights(bottom) == [0.02, 0.0, 0.01]
    assert top.get_title() == "43.1% of the decoder's parameters go" and "%" in bottom.get_ylabel()
    assert top.get_ylabel() == "MLP neurons" and "decoder layer" in bottom.get_xlabel()
    assert "no layer dropped" in plots.plot_widths(UNIFORM, SHAPE.neurons, errors).alt_text


def test_nothing_lost_can_be_drawn():
    check(plots.plot_widths(UNIFORM, SHAPE.neurons, [0.0] * 4), "0.00%")


def test_several_plans_are_told_apart():
    figure = check(
        plots.plot_plans({"even": UNIFORM, "odd": MIXED}, SHAPE.neurons),
        "2 plans",
        f"even: no layer dropped, {UNIFORM.neurons[0]} of 48 neurons in every layer",
        "odd: layer 1 dropped",
    )
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["removed", "kept", "layer dropped"]  # though the first row has none
    assert all(axis.get_ylabel() for axis in figure.axes)


LOSSES = {"a": (0.4, 0.3, 0.5), "b": (0.6, 0.55, 0.7)}


def test_prediction_beside_what_came_out():
    figure = check(
        plots.plot_prediction({"a": 0.02, "b": 0.01}, LOSSES),
        "a 2.0% and 0.40; b 1.0% and 0.60",
        "Least predicted error: b; lowest loss: a.",
    )
    left, right = figure.axes
    assert [bar.get_width() for bar in left.patches] == [0.01, 0.02]  # bars grow upwards: the first name is on top
    assert [label.get_text() for label in left.get_yticklabels()] == ["b", "a"]
    assert [list(line.get_xdata()) for line in right.lines] == [[0.55, 0.7], [0.3, 0.5]]
    assert "%" in left.get_xlabel() and "nats" in right.get_xlabel()


def test_hybrids_show_every_plan_with_its_interval():
    figure = check(
        plots.plot_hybrids({"20% gone": LOSSES, "50% gone": {"a": (2.0, 1.5, 2.5)}}, "a"),
        "2 plans under 2 budgets",
        "20% gone: best is a (0.40), worst b (0.60), a has 0.40",
    )
    first, second = figure.axes
    assert [label.get_text() for label in first.get_yticklabels()] == ["b", "a"]  # the best on top
    assert [0.3, 0.5] in [list(line.get_xdata()) for line in first.lines]
    assert first.get_xscale() == "log" and "nats per token" in figure.get_supxlabel()
    assert len(figure.legends[0].get_texts()) == 3 and [1.5, 2.5] in [list(line.get_xdata()) for line in second.lines]


def test_narrowing_shows_every_reading_beside_the_others():
    readings = {"error\n(% of its energy)": [0.001, 0.03, 0.02], "harm\n(nats)": [0.2, 0.01, 0.002]}
    figure = check(
        plots.plot_narrowing([0, 5, 9], readings, 16),
        "3 decoder layers, each narrowed alone by 16 neurons",
        "error (% of its energy) is largest in layer 5; harm (nats) is largest in layer 0",
    )
    left, right = figure.axes
    assert heights(left) == [0.001, 0.03, 0.02] and heights(right) == [0.2, 0.01, 0.002]
    assert left.get_yticklabels()[0].get_text().endswith("%") and "nats" in right.get_ylabel()
    assert [label.get_text() for label in right.get_xticklabels()] == ["0", "5", "9"]  # none in between was measured


def test_loss_against_time_keeps_families_apart():
    points = {"neurons": [(0.8, LOSSES["a"]), (0.7, LOSSES["b"])], "layers only": [(0.75, LOSSES["b"])]}
    figure = check(plots.plot_time(points), "neurons: 0.60 at 70%, 0.40 at 80%; layers only: 0.60 at 75%")
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["neurons", "layers only"]
    assert axis.get_yscale() == "log" and "nats" in axis.get_ylabel() and "%" in axis.get_xlabel()
