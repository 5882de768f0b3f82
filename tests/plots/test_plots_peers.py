"""Figures of methods beside each other: of a grid, comparisons below each other, and what each method reads."""

from __future__ import annotations

import math

import pytest
from rows import rows_of

from comp_lib.compare.figures import plot_increase, plot_latency
from comp_lib.compare.summary import finished
from comp_lib.plots.base import overlapping_texts
from course.figures.comp_vs_baselines import SCORES, Duel, plot_duels, plot_methods_by_kind, plot_scores
from course.figures.on_device import plot_sizes
from course.figures.start_here import plot_variants


def test_duels_stand_below_each_other_with_the_intervals_that_are_known():
    unknown = (0.5, math.nan, math.nan)
    figure = plot_duels([Duel("first", (0.7, 0.6, 0.9), (0.4, 0.3, 0.5)), Duel("second", (0.6, 0.5, 0.7), unknown)])
    axes = figure.axes[0]
    ours, theirs = axes.containers
    assert ours[0].get_xdata().tolist() == [0.7, 0.6] and theirs[0].get_xdata().tolist() == [0.4, 0.5]
    spans = [segment[:, 0].tolist() for segment in theirs.lines[2][0].get_segments()]
    assert spans == [pytest.approx([0.3, 0.5]), pytest.approx([0.5, 0.5])]
    assert axes.yaxis_inverted() and [label.get_text() for label in axes.get_yticklabels()] == ["first", "second"]
    assert "first: 0.700 against 0.400; second: 0.600 against 0.500." in figure.alt_text
    assert overlapping_texts(figure) == []


def test_the_drawing_says_what_each_method_reads():
    figure = plot_scores()
    assert [axes.get_title() for axes in figure.axes] == list(SCORES)
    assert overlapping_texts(figure) == []
    assert "FLAP reads how much it varies, times what it writes with; then its mean becomes a bias" in figure.alt_text
    thick = [sum(line.get_linewidth() > 2 for line in axes.lines) for axes in figure.axes]
    assert thick == [3, 3, 6, 3]  # LLM-Pruner reads the weights on both sides


def test_of_one_ratio_the_methods_stand_below_each_other():
    rows = finished(rows_of({("comp", 0.2): (0.7, 0.8), ("wanda-sp", 0.2): (0.45, 0.75)}))
    rows["removed"] = [0.2, 0.2, 0.203, 0.203]
    axes = plot_increase(rows).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["wanda-sp", "comp + least-squares"]
    marks = [container.lines[0].get_xydata()[0].tolist() for container in axes.containers]
    assert marks == [pytest.approx([0.75, 1.0]), pytest.approx([0.6, 0.0])]
    [[left, right]] = axes.containers[0].lines[2][0].get_segments()[0][:, 0].reshape(1, 2)
    assert (left, right) == (pytest.approx(rows.increase_low[:2].mean()), pytest.approx(rows.increase_high[:2].mean()))
    seeds = {tuple(line.get_xdata()) for line in axes.lines if line.get_marker() == "."}
    assert seeds == {(0.7, 0.8), (0.45, 0.75)}
    assert axes.get_title() == "20.0% to 20.3% of the decoder's parameters removed" and axes.get_xlim()[0] == 0
    assert "wanda-sp 0.60 nats; comp + least-squares 0.75 nats" in plot_increase(rows).alt_text


def test_there_are_more_ratios_than_marks():
    ratios = [round(0.05 * place, 2) for place in range(1, 13)]
    rows = finished(rows_of({("comp", ratio): (0.4 + ratio,) for ratio in ratios}))
    assert plot_latency(rows).axes


def test_a_model_better_than_its_parent_is_not_cut_off():
    """Healed or hardly pruned, an increase below zero is an ordinary outcome."""
    below = (-0.05, -0.06, -0.04)
    span = {"COMP": {"prose": [below], "code": [(0.1, 0.05, 0.2)]}}
    figures = {
        "x": (
            plot_duels([Duel("first", below, (0.4, 0.3, 0.5))]),
            plot_variants({"COMP": [-0.05], "other": [0.1]}, "COMP"),
            plot_methods_by_kind({"a quarter": span}),
        ),
        "y": (plot_sizes({"q8_0": [(50.0, *below), (100.0, 0.1, 0.05, 0.2)]}),),
    }
    for side, drawn in figures.items():
        for figure in drawn:
            [axes, *_] = figure.axes
            assert getattr(axes, f"get_{side}lim")()[0] <= -0.05
