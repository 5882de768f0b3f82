"""The figure of lesson 10."""

from __future__ import annotations

from comp_lib.plots.base import overlapping_texts
from course.figures.after_pruning import plot_divergence


def test_divergence_has_a_line_for_each_text_and_where_it_began():
    figure = plot_divergence({"taught": [(0, 0.8), (4, 0.5)], "held out": [(0, 0.7), (4, 0.6)]})
    lines = figure.axes[0].lines
    assert list(lines[0].get_ydata()) == [0.8, 0.5] and list(lines[1].get_ydata()) == [0.8, 0.8]
    assert list(lines[2].get_xdata()) == [0, 4] and figure.axes[0].get_ylim()[0] == 0
    assert "held out: 0.700 before, 0.600 after 4 steps" in figure.alt_text
    assert overlapping_texts(figure) == []
