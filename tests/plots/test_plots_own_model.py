"""Figures of lesson 06: what pruning can reach, and the sweep with its rivals."""

from __future__ import annotations

import pytest
from variants import build

from comp_lib.plots.base import overlapping_texts
from comp_lib.shape import Shape
from course.figures.your_own_model import plot_reach, plot_sweep


@pytest.mark.parametrize("variant", ["gqa", "qwen3", "gemma3", "tied"])
def test_the_drawing_is_to_scale(variant):
    shape = Shape.of(build(variant))
    figure = plot_reach(shape, shape.with_widths([width // 2 for width in shape.neurons], shape.kv_groups))
    whole, stays = figure.axes[0].patches[::2], figure.axes[0].patches[1::2]
    assert sum(patch.get_width() for patch in whole) == pytest.approx(1.0)
    assert [patch.get_height() for patch in stays] == pytest.approx([1.0, 1.0, 0.5], abs=0.02)
    mlp = shape.layers * shape.neurons[0] * shape.neuron_parameters
    assert whole[2].get_width() == pytest.approx(mlp / shape.total)
    assert "of which 50% stay" in figure.alt_text and overlapping_texts(figure) == []


def test_the_drawing_of_a_large_model_names_its_narrow_columns():
    shape = Shape(4096, 128, 1, (11008,) * 32, (32,) * 32, 12288, 2097152, 8192, 262144000)
    assert overlapping_texts(plot_reach(shape, shape)) == []


def test_whole_layers_that_go_leave_the_columns_of_the_others():
    shape = Shape.of(build())
    figure = plot_reach(shape, shape.with_widths(shape.neurons[1:], shape.kv_groups[1:]))
    assert f"{shape.layers} layers, of which {shape.layers - 1} stay" in figure.axes[0].texts[-1].get_text()


def test_the_sweep_has_whiskers_and_reads_out_its_rivals():
    sweep = [(0.3, 0.7, 0.6, 0.8), (0.1, 0.2, 0.15, 0.24)]
    figure = plot_sweep(sweep, {"FLAP": (0.2, 0.45, 0.4, 0.5)})
    ours, theirs = figure.axes[0].containers
    assert list(ours.lines[0].get_xdata()) == [10.0, 30.0] and ours.lines[0].get_linestyle() == "-"
    assert abs(theirs.lines[0].get_xdata()[0] - 20.0) < 1 and theirs.lines[0].get_linestyle() == "None"
    ends = sorted(y for segment in theirs.lines[2][0].get_segments() for _, y in segment)
    assert ends == pytest.approx([0.4, 0.5])
    assert "COMP at 10% 0.20 nats (0.15 to 0.24)" in figure.alt_text and "FLAP at 20% 0.45" in figure.alt_text
    assert overlapping_texts(figure) == []
