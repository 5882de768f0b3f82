"""Figures of a model on a device: what they draw, and what their alt text says."""

from __future__ import annotations

import pytest

from comp_lib.on_device.benchmark import Measured
from comp_lib.plots.base import figure_with_axes, name_points, overlapping_texts, png
from comp_lib.shape import Shape
from course.figures.on_device import Point, plot_quality, plot_reads, plot_sizes, plot_speedup, plot_times


def measured(name, runtime, size, decode):
    return Measured(name, runtime, None, size, 0, (1.0,), (1.0,), decode)


ROWS = [
    measured("dense", "llama.cpp", 150, (10.0, 20.0, 5.0)),
    measured("small", "llama.cpp", 100, (14.0, 28.0, 8.0)),
    measured("dense", "transformers", 600, (1.0, 1.0, 1.0)),
    measured("small", "transformers", 400, (1.2, 1.2, 1.2)),
]


def check(figure, *words):
    assert png(figure).startswith(b"\x89PNG")
    for axis in figure.axes:
        assert axis.get_xlabel()
    for word in words:
        assert word in figure.alt_text, figure.alt_text
    return figure


def test_speedups_are_over_the_first_model_of_the_same_runtime():
    figure = check(
        plot_speedup(ROWS), "small in llama.cpp, 1.40 beside a byte ratio of 1.50", "transformers, 1.20 beside a byte"
    )
    points = [container[0].get_xydata()[0].tolist() for container in figure.axes[0].containers]
    assert points == [pytest.approx([1.4, 0]), pytest.approx([1.2, 1])]
    ratios = [line.get_xydata()[0].tolist() for line in figure.axes[0].lines if line.get_markersize() == 16]
    assert ratios == [pytest.approx([1.5, 0]), pytest.approx([1.5, 1])]


def test_names_of_neighbours_do_not_write_over_each_other():
    sizes = {"dense": 150, "a long name": 126.0, "another one": 125.5, "a third of them": 124.0, "far": 100}
    rows = [measured(name, "llama.cpp", size, (150 / size,) * 3) for name, size in sizes.items()]
    figure = plot_speedup(rows)
    assert overlapping_texts(figure) == []
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [*sizes][1:]


def test_one_model_alone_can_be_drawn():
    check(plot_speedup(ROWS[:1]), "one model only")


SHAPE = Shape(8, 4, 1, (10, 10), (2, 2), 24, 64, 16, 1000)


def test_what_is_read_is_drawn_to_scale():
    figure = check(plot_reads({"dense": SHAPE, "half": SHAPE.with_widths((10,), (2,))}, 1000, 16), "of 2 layers")
    widths = [patch.get_width() * 1e6 for patch in figure.axes[0].patches]
    assert widths[:5] == pytest.approx([256, 480, 256, 480, 16_000])  # bytes: attention, neurons, twice; head
    assert widths[5:8] == pytest.approx([256, 480, 16_000])
    assert overlapping_texts(figure) == []


def test_times_are_stacked_beside_what_was_measured():
    parts = {"dense": {"rest": 1.0, "layers": 2.0, "bytes": 3.0}, "small": {"rest": 1.0, "layers": 1.0, "bytes": 2.0}}
    figure = check(plot_times(parts, {"dense": 6.5, "small": 4.0}, "ms"), "dense: rest 1.00, layers 2.00, bytes 3.00")
    ends = [patch.get_x() + patch.get_width() for patch in figure.axes[0].patches]
    assert ends == pytest.approx([1, 3, 6, 1, 2, 4])
    assert figure.axes[0].lines[0].get_xdata() == pytest.approx([6.5, 4.0])


def point(name, family, speed, increase):
    return Point(name, family, speed, increase, increase - 0.05, increase + 0.1)


def test_the_front_of_quality_against_speed():
    points = [point("a", "layers", 1.1, 0.2), point("b", "neurons", 1.2, 0.1), point("c", "layers", 1.5, 0.9)]
    figure = check(plot_quality(points), "fastest first: c (1.50, 0.90 nats), b (1.20, 0.10 nats).")
    legend = {text.get_text() for text in figure.axes[0].get_legend().get_texts()}
    assert legend == {"layers", "neurons", "Pareto front"}
    spans = [segment[:, 1].tolist() for segment in figure.axes[0].containers[1].lines[2][0].get_segments()]
    assert spans == [pytest.approx([0.05, 0.2])]


def test_names_of_points_cover_neither_each_other_nor_a_point():
    figure, axes = figure_with_axes((5.0, 4.0), xlabel="x", ylabel="y")
    points = {f"plan number {place}": (1 + 0.004 * place, 1 + 0.01 * place) for place in range(6)}
    axes.plot(*zip(*points.values(), strict=True), "o")
    axes.set(xlim=(0.9, 1.2), ylim=(0.9, 1.2))
    name_points(axes, points)
    assert overlapping_texts(figure) == []
    assert {text.get_text() for text in axes.texts} == set(points)


def test_sizes_are_sorted():
    files = {"q8_0": [(100, 0.1, 0.05, 0.2), (50, 0.9, 0.8, 1.0)]}
    figure = check(plot_sizes(files), "q8_0 from 0.10 nats at 100 MB to 0.90 at 50")
    assert figure.axes[0].lines[0].get_xdata().tolist() == [50, 100]
