"""Figures of lesson 05: the loop in its order, and the variants with their seeds and intervals."""

from __future__ import annotations

import pytest

from comp_lib.plots.base import overlapping_texts
from course.figures.comp_from_scratch import STEPS, plot_loop, plot_parts


def test_the_loop_shows_its_steps_from_left_to_right():
    figure = plot_loop()
    places = {text.get_text(): text.get_position()[0] for text in figure.axes[0].texts}
    assert [name for name in sorted(places, key=places.get) if name in STEPS] == list(STEPS)
    assert overlapping_texts(figure) == []
    assert "watch, choose, re-tune, cut, pass on" in figure.alt_text


def test_parts_are_sorted_marked_and_read_out():
    increases = {"COMP": [0.4, 0.5, 0.45], "random": [0.8, 0.9, 0.85], "energy": [0.41]}
    figure = plot_parts(increases, {"random": [0.4, 0.4, 0.4], "energy": [0.01]}, "COMP")
    left, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["random", "COMP", "energy"]
    dots = [collection.get_offsets()[:, 0].tolist() for collection in left.collections]
    assert dots == [increases[name] for name in ("random", "COMP", "energy")]
    for axes, reach in ((left, (0.4, 0.5)), (right, (-0.1, 0.1))):
        band = axes.patches[0]
        assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx(reach)
    random, comp, energy = (tuple(collection.get_facecolor()[0]) for collection in left.collections)
    assert len({random, comp, energy}) == 3  # beyond the band, the reference, within it
    assert "COMP spans 0.400 to 0.500" in figure.alt_text
    assert "energy +0.010 (1 seed); random +0.400 (3 seeds)" in figure.alt_text
    assert overlapping_texts(figure) == []
