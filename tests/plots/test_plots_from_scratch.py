"""Figures of lesson 05: the loop in its order, and the variants with their seeds and intervals."""

from __future__ import annotations

import pytest

from comp_lib.plots.base import overlapping_texts
from comp_lib.plots.comp_from_scratch import STEPS, plot_loop, plot_parts


def test_the_loop_shows_its_steps_from_left_to_right():
    figure = plot_loop()
    places = {text.get_text(): text.get_position()[0] for text in figure.axes[0].texts}
    assert [name for name in sorted(places, key=places.get) if name in STEPS] == list(STEPS)
    assert overlapping_texts(figure) == []
    assert "watch, choose, re-tune, cut, pass on" in figure.alt_text


def test_parts_are_sorted_marked_and_read_out():
    increases = {"COMP": [0.4, 0.5, 0.45], "random": [0.8, 0.9, 0.85], "energy": [0.41, 0.5, 0.47]}
    differences = {"random": (0.4, 0.35, 0.45), "energy": (0.01, -0.01, 0.03)}
    figure = plot_parts(increases, differences, ["random"], "COMP")
    left, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["random", "energy", "COMP"]
    dots = [collection.get_offsets()[:, 0].tolist() for collection in left.collections]
    assert dots == [increases[name] for name in ("random", "energy", "COMP")]
    band = left.patches[0]
    assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx((0.4, 0.5))
    middles = {bar.lines[0].get_xdata()[0]: bar.lines[0].get_color() for bar in right.containers}
    assert set(middles) == {0.4, 0.01} and middles[0.4] != middles[0.01]
    assert "COMP spans 0.400 to 0.500" in figure.alt_text and "random +0.400 (+0.350 to +0.450)" in figure.alt_text
    assert overlapping_texts(figure) == []
