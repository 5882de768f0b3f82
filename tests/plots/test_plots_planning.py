"""Figures of planning: words computed from the numbers, units on the axes, and what is drawn is what was given."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from comp_lib.hybrid_granularity.uniform import uniform_plan
from comp_lib.plan import Plan, PlanRequest
from comp_lib.plots import hybrid_granularity as plots
from comp_lib.plots.base import GREEN, png
from comp_lib.shape import Shape

SHAPE = Shape(32, 8, 2, (48,) * 4, (2,) * 4, 96, 1536, 64, 16_032)
UNIFORM = uniform_plan(PlanRequest(SHAPE, 0.2, multiple=8))
MIXED = Plan("", 4, (0, 2, 3), (16, 48, 40), (2, 2, 2), 0.2, "decoder", 0.431)
CURVES = {
    "counts": torch.tensor([0, 8, 16]),
    "errors": torch.tensor([[0, 0.01, 0.02], [0, 0.1, 0.3], [0, 0.05, 0.25], [0, 0.001, 0.002]]),
}


def heights(axis, colour=None):
    """Of the bars of an axis, those of one colour only."""
    return [bar.get_height() for bar in axis.patches if colour is None or bar.get_facecolor()[:3] == colour]


def check(figure, *words):
    """It can be drawn, each axis has labels with units, and the alt text says these words."""
    assert png(figure).startswith(b"\x89PNG")
    for word in words:
        assert word in figure.alt_text
    return figure


def test_the_parts_add_up_to_the_model():
    figure = check(plots.plot_parameters(SHAPE), "Of 47,008 parameters", "39% belong to MLP", "48 neurons own 60%")
    model, layer = figure.axes
    assert sum(bar.get_width() for bar in model.patches) == pytest.approx(SHAPE.total / 1e6)
    assert sum(bar.get_width() for bar in layer.patches) == pytest.approx(SHAPE.layer(0) / 1e6)
    assert layer.get_xlabel() == "parameters (millions)"


def test_error_curves_name_the_flattest_and_the_steepest():
    figure = check(
        plots.plot_error_curves(CURVES, 48, [1]),
        "4 decoder layers",
        "16 of 48 neurons gone",
        "smallest in layer 3, 0.2%",
        "largest in layer 1, 30.0%",
    )
    axis = figure.axes[0]
    assert axis.get_yscale() == "log" and "%" in axis.get_ylabel() and "of 48" in axis.get_xlabel()
    assert np.array([line.get_ydata() for line in axis.lines]) == pytest.approx(CURVES["errors"][:, 1:].numpy())
    assert [text.get_text().strip() for text in axis.texts] == ["layer 1"]


def test_a_layer_without_a_measurement_does_not_spoil_the_words():
    narrow = {"counts": CURVES["counts"], "errors": CURVES["errors"].clone()}
    narrow["errors"][1, 2] = float("nan")
    check(plots.plot_error_curves(narrow, 48), "largest in layer 2, 25.0%")


def test_widths_and_errors_of_a_plan():
    errors = [0.02, 1.0, 0.0, 0.01]
    figure = check(
        plots.plot_widths(MIXED, SHAPE.neurons, errors),
        "layer 1 dropped",
        "16 (layer 0) to 48 of 48",
        "layer 0 has the largest predicted error, 2.0%",
    )
    top, bottom = figure.axes
    assert heights(top, GREEN) == [16, 48, 40] and heights(bottom) == [0.02, 0.0, 0.01]
    assert top.get_title() == "43.1% of the decoder's parameters go" and "%" in bottom.get_ylabel()
    assert top.get_ylabel() == "MLP neurons" and "decoder layer" in bottom.get_xlabel()
    fixed = plots.plot_widths(UNIFORM, SHAPE.neurons, errors, "a title", limit=0.5)
    assert fixed.axes[1].get_ylim()[1] == 0.5 and fixed.axes[0].get_title() == "a title"
    assert "no layer dropped" in fixed.alt_text


def test_nothing_lost_can_be_drawn():
    check(plots.plot_widths(UNIFORM, SHAPE.neurons, [0.0] * 4), "0.0%")


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


def test_prediction_beside_what_came_out():
    predicted, measured = {"a": 0.02, "b": 0.01}, {"a": 40.0, "b": 60.0}
    figure = check(
        plots.plot_prediction(predicted, measured, 30.0),
        "a 2.0% and 40.0; b 1.0% and 60.0",
        "Dense: 30.0",
        "Least predicted error: b; lowest perplexity: a.",
    )
    left, right = figure.axes
    assert [bar.get_width() for bar in left.patches] == [0.01, 0.02]  # bars grow upwards: the first name is on top
    assert [label.get_text() for label in left.get_yticklabels()] == ["b", "a"]
    assert "%" in left.get_xlabel() and "perplexity" in right.get_xlabel()


def test_narrowing_compares_the_layer_with_the_model():
    figure = check(
        plots.plot_narrowing([0, 5, 9], [0.001, 0.03, 0.02], [0.2, 0.01, -0.002], 16),
        "largest in layer 5 (3.0%), where the model's loss rises by 0.010 nats",
        "The loss rises most for layer 0, by 0.200 nats, at an error of 0.1%",
    )
    top, bottom = figure.axes
    assert heights(top) == [0.001, 0.03, 0.02] and heights(bottom) == [0.2, 0.01, -0.002]
    assert "%" in top.get_ylabel() and "nats" in bottom.get_ylabel()
    assert [label.get_text() for label in bottom.get_xticklabels()] == ["0", "5", "9"]  # none in between was measured


def test_latency_says_what_does_not_depend_on_the_width():
    found = {"widths": torch.tensor([10, 20]), "milliseconds": torch.tensor([[3.0, 3.5], [4.0, 9.0]])}
    figure = check(
        plots.plot_latency({1: found, 64: found}, {1: (2.0, 0.1), 64: (0.0, 0.2)}),
        "1 token at once: 4.00 ms at 20 neurons, of which 50% do not",
        "64 tokens at once: 4.00 ms",
    )
    first = figure.axes[0]
    assert np.asarray(first.collections[0].get_offsets()).tolist() == [[10, 3], [10, 3.5], [20, 4], [20, 9]]
    assert [text.get_text() for text in first.texts] == ["1 of 4 runs above"]
    assert "(ms)" in first.get_ylabel() and "neurons" in first.get_xlabel()
