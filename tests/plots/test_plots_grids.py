"""Figures of a grid beside the increase: fronts, time, memory, calibration text."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from rows import rows_of

from comp_lib.compare.summary import finished
from course.figures.grids import pareto_front, plot_latency, plot_memory, plot_sequences


def brute_front(points):
    def beaten(p):
        return any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in points)

    return {i for i, p in enumerate(points) if not beaten(p)}


@pytest.mark.parametrize("seed", range(20))
def test_the_pareto_front_is_what_none_beats(seed):
    import random

    draw = random.Random(seed)
    points = [(float(draw.randint(0, 5)), float(draw.randint(0, 5))) for _ in range(12)]  # with ties and twins
    front = pareto_front(points)
    assert set(front) == brute_front(points) and [points[i][0] for i in front] == sorted(points[i][0] for i in front)
    assert len(front) == len(set(front))


def test_methods_at_one_place_are_drawn_beside_each_other():
    figure = plot_sequences(finished(rows_of({("comp", 0.2): (0.5,), ("wanda-sp", 0.2): (0.5,)})))
    figure.draw_without_rendering()
    places = [
        container.lines[0].get_transform().transform(container.lines[0].get_xydata())[0, 0]
        for container in figure.axes[0].containers
    ]
    assert 3 < places[1] - places[0] < 12  # pixels
    assert not [line for line in figure.axes[0].lines if line.get_marker() == "."]  # one seed is no spread


def line(axes, name="Pareto front"):
    (found,) = [line for line in axes.lines if line.get_label() == name]
    return [tuple(map(float, point)) for point in found.get_xydata()]


def test_latency_has_no_front_for_its_order_is_noise():
    figure = plot_latency(finished(rows_of()))
    assert not figure.axes[0].lines
    assert "Fastest first: wanda-sp at 50% (0.5, 1.10 nats)" in figure.alt_text
    assert "comp + least-squares at 20% (0.8, 0.50 nats)" in figure.alt_text
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert {"comp + least-squares", "wanda-sp", "20% to remove", "50% to remove"} == set(labels)
    assert not figure.axes[0].texts  # colours and marks say it, no labels that could cover each other


def test_memory_has_a_front_for_each_ratio():
    figure = plot_memory(finished(rows_of()))
    assert [axes.get_title() for axes in figure.axes] == ["20% to remove", "50% to remove"]
    assert line(figure.axes[0]) == [(60.0, pytest.approx(0.6)), (90.0, pytest.approx(0.5))]
    assert line(figure.axes[1]) == [(60.0, pytest.approx(1.1))]
    assert len({axes.get_xlim() for axes in figure.axes}) == 1  # side by side, so on one scale
    assert "MiB" in figure.axes[0].get_xlabel() and "at 50%, wanda-sp (60, 1.10 nats)" in figure.alt_text


def test_sequences_go_along_the_axis():
    rows = pd.concat([rows_of(sequences=8), rows_of({("comp", 0.2): (0.2, 0.3)}, sequences=32)])
    figure = plot_sequences(finished(rows))
    comp = figure.axes[0].lines[0]
    assert list(comp.get_xdata()) == [8, 32] and list(comp.get_ydata()) == pytest.approx([0.5, 0.25])
    assert "comp + least-squares at 20% from 0.50 to 0.25 nats" in figure.alt_text
    assert [axes.get_title() for axes in figure.axes] == ["20% to remove"]  # the other ratio has one number only
    alone = plot_sequences(finished(rows_of()))
    assert len(alone.axes) == 2 and math.isclose(alone.axes[1].lines[0].get_ydata()[0], 2.5)
