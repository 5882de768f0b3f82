"""Figures of a model on a device: what they draw, and what their alt text says."""

from __future__ import annotations

import dataclasses

import pytest
from variants import build

from comp_lib.on_device.benchmark import Measured
from comp_lib.on_device.latency import CostModel
from comp_lib.plots.base import png
from comp_lib.plots.on_device import Point, bandwidth, plot_costs, plot_quality, plot_sizes, plot_speedup
from comp_lib.shape import Shape


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
    figure = check(plot_speedup(ROWS), "small in llama.cpp, 1.40 of at most 1.50", "transformers, 1.20 of at most 1.50")
    points = [container[0].get_xydata()[0].tolist() for container in figure.axes[0].containers]
    assert points[0] == points[2] == [1, 1]
    assert points[1] == pytest.approx([1.5, 1.4]) and points[3] == pytest.approx([1.5, 1.2])


def test_names_of_neighbours_do_not_write_over_each_other():
    sizes = {"dense": 150, "a long name": 126.0, "another one": 125.5, "a third of them": 124.0, "far": 100}
    rows = [measured(name, "llama.cpp", size, (150 / size,) * 3) for name, size in sizes.items()]
    figure = plot_speedup(rows)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert {name for text in figure.axes[0].texts for name in text.get_text().split("\n")} == set(sizes)
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])


def test_one_model_alone_can_be_drawn():
    check(plot_speedup(ROWS[:1]), "one model only")


def test_costs_are_parts_of_a_whole():
    shape = Shape.of(build("gqa"))  # 3 layers of 48 neurons and 2 groups
    cost = CostModel("decode", fixed=1.0, layer=1.0, group=0.5, neuron=0.02)
    assert cost.parts(shape) == {"fixed": 1.0, "of each layer": 3.0, "KV groups": 3.0, "neurons": pytest.approx(2.88)}
    figure = check(
        plot_costs({"decode": cost.parts(shape)}, shape), "decode: fixed 10%, of each layer 30%", "parameters: fixed"
    )
    widths = [patch.get_width() for patch in figure.axes[0].patches]
    assert sum(widths[:4]) == pytest.approx(1) and sum(widths[4:]) == pytest.approx(1)
    sizes = [shape.other_parameters, 3 * shape.layer_parameters]
    sizes += [6 * shape.group_parameters, 144 * shape.neuron_parameters]
    assert widths[4:] == pytest.approx([size / shape.total for size in sizes])


def test_the_front_of_quality_against_speed():
    points = [Point("a", "layers", 1.1, 0.2), Point("b", "neurons", 1.2, 0.1), Point("c", "layers", 1.5, 0.9)]
    figure = check(plot_quality(points), "fastest first: c (1.50, 0.90 nats), b (1.20, 0.10 nats).")
    legend = {text.get_text() for text in figure.axes[0].get_legend().get_texts()}
    assert legend == {"layers", "neurons", "Pareto front"}


def test_sizes_are_sorted():
    figure = check(plot_sizes({"q8_0": [(100, 0.1), (50, 0.9)]}), "q8_0 from 0.10 nats at 100 MB to 0.90 at 50")
    assert figure.axes[0].lines[0].get_xdata().tolist() == [50, 100]


def test_bandwidth_is_bytes_in_a_second():
    assert bandwidth(dataclasses.replace(ROWS[0], bytes_per_token=2_000_000_000)) == 20.0
