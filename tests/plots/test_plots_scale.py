"""Figures of lessons 09 and 09b, and the shapes that lesson 09 counts from."""

from __future__ import annotations

import pytest
from matplotlib.patches import Rectangle
from transformers import LlamaConfig

from comp_lib.models.skeleton import skeleton
from comp_lib.plots.base import overlapping_texts
from comp_lib.shape import Shape
from course.figures.scale import GIB, plot_depth, plot_memory, plot_one_layer, plot_phases, plot_sum_tree, plot_sums


def test_a_shape_on_paper_is_that_of_the_model(tiny_llama):
    model = tiny_llama()
    assert Shape.of(skeleton(LlamaConfig(**model.config.to_dict()))) == Shape.of(model)


def test_memory_shows_lines_and_marks():
    figure = plot_memory(
        {"all": [(2_000_000_000, 4 * GIB), (1_000_000_000, 2 * GIB)]}, {"measured": [(1_000_000_000, GIB)]}
    )
    lines = figure.axes[0].lines
    assert list(lines[0].get_xdata()) == [1.0, 2.0] and list(lines[0].get_ydata()) == [2.0, 4.0]
    assert lines[0].get_linestyle() == "-" and lines[1].get_linestyle() == "None"
    assert list(lines[1].get_ydata()) == pytest.approx([1.0])
    assert "all: 2.00 GiB at 1.00 billion parameters, 4.00 GiB at 2.00 billion" in figure.alt_text


def test_sums_show_both_forms_and_where_they_are_equal():
    figure = plot_sums(100, {"C": [(10, GIB), (1000, GIB)], "dual": [(10, GIB // 4), (1000, 4 * GIB)]}, 200)
    first, second, switch = figure.axes[0].lines
    assert list(first.get_ydata()) == [1.0, 1.0] and list(second.get_ydata()) == [0.25, 4.0]
    assert list(switch.get_xdata()) == [200, 200] and "equal at 200 tokens" in figure.alt_text
    assert "dual: 0.25 GiB at 10 tokens" in figure.alt_text


def test_depth_is_a_bar_for_each_model():
    figure = plot_depth((16, 32), (500.0, 501.0), (60.0, 120.0))
    heights = [[bar.get_height() for bar in axes.patches] for axes in figure.axes]
    assert heights == [[500.0, 501.0], [60.0, 120.0]]
    assert figure.alt_text.endswith("16 layers, 500 MiB and 60 s; 32 layers, 501 MiB and 120 s.")


def test_phases_are_stacked_in_parts_of_their_run():
    took, least = {"planning": 5.0, "read": 2.0, "MLP": 6.0}, {"read": 1.0, "MLP": 3.0}
    figure = plot_phases({"small": (took, least), "large": ({"read": 10.0, "MLP": 10.0}, {"read": 5.0, "MLP": 0.0})})
    (axes,) = figure.axes
    bars = [(bar.get_x(), bar.get_width()) for bar in axes.patches]
    assert bars[:4] == [(0.0, 0.25), (0.25, 0.75), (0.0, 0.125), (0.125, 0.375)] and bars[4] == (0.0, 0.5)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["read", "MLP"]  # planning has no least
    assert "small took 8 s where 4 s is the least; large took 20 s where 5 s is the least." in figure.alt_text
    assert overlapping_texts(figure) == []


@pytest.mark.parametrize("layers, current", [(7, 3), (5, 0), (9, 8)])
def test_the_drawing_shows_one_layer_in_memory(layers, current):
    figure = plot_one_layer(layers, current)
    words = [text.get_text() for text in figure.axes[0].texts]
    assert words.count(f"layer {current}") == 2  # in the file and in memory
    assert all(words.count(f"layer {done}") == 2 for done in range(current))  # in both files
    assert all(words.count(f"layer {later}") == 1 for later in range(current + 1, layers))
    assert f"layer {current} alone" in figure.alt_text and overlapping_texts(figure) == []


@pytest.mark.parametrize("shards", [2, 4, 8])
def test_the_tree_adds_in_pairs(shards):
    figure = plot_sum_tree(shards)
    boxes = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    words = [text.get_text() for text in figure.axes[0].texts]
    assert len(boxes) == shards + 2 * shards - 1 and "C" in words and "C1+C2" in words or shards == 2
    assert f"{shards} parts" in figure.alt_text
