"""Figures of a grid: the right numbers in the right places, and in the words."""

from __future__ import annotations

import pytest
from rows import rows_of

from comp_lib.compare.summary import finished
from comp_lib.plots.comp_vs_peers import plot_ablation, plot_increase, plot_ratios, plot_spread


def test_ablation_orders_the_variants_and_marks_the_reference():
    figure = plot_ablation({"COMP": 0.3, "random": 2.0, "mask": 0.5}, "COMP")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["random", "mask", "COMP"]
    assert [bar.get_width() for bar in axes.patches] == [2.0, 0.5, 0.3]
    colours = [bar.get_facecolor() for bar in axes.patches]
    assert colours[0] == colours[1] != colours[2]
    assert "Best is COMP with 0.30" in figure.alt_text and "nats" in axes.get_xlabel()


def test_ratios_sorts_the_points():
    figure = plot_ratios({"COMP": [(0.5, 2.0), (0.1, 0.1)], "peer": [(0.1, 0.2), (0.5, 3.0)]})
    line = figure.axes[0].lines[0]
    assert list(line.get_xdata()) == [10.0, 50.0] and list(line.get_ydata()) == [0.1, 2.0]
    assert "peer goes from 0.20 to 3.00" in figure.alt_text


def test_spread_shows_every_run():
    figure = plot_spread({"a": [0.3, 0.4], "b": [0.5]})
    assert figure.axes[0].collections[0].get_offsets()[:, 1].tolist() == pytest.approx([0.3, 0.4])
    assert "mean 0.350" in figure.alt_text


def test_one_ratio_alone_does_not_magnify_rounding():
    rows = finished(rows_of({("comp", 0.2): (0.4, 0.6), ("wanda-sp", 0.2): (0.45, 0.75)}))
    rows["removed"] = [0.2, 0.2, 0.200001, 0.200001]
    figure = plot_increase(rows)
    figure.draw_without_rendering()
    axis = figure.axes[0].xaxis
    low, high = figure.axes[0].get_xlim()
    assert high - low >= 1 and low < 20 < high  # percent
    labels = [label.get_text() for label in axis.get_ticklabels()]
    assert len(set(labels)) == len(labels) > 2 and max(map(len, labels)) <= 5
    assert not axis.get_offset_text().get_text()
