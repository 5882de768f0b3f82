"""Figures: the same picture every time, and words for those who cannot see it."""

from __future__ import annotations

import ast
import base64
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

import comp_lib.plots
from comp_lib.hybrid_granularity.uniform import uniform_plan
from comp_lib.plan import PlanRequest
from comp_lib.plots import COLOURS, figure_with_axes, mime_bundle, plot_pruned, png
from comp_lib.plots.base import note, overlapping_texts, plain_ticks
from comp_lib.shape import Shape
from course.figures.start_here import plot_block, plot_comparison, plot_variants

MODULES = sorted(Path(comp_lib.plots.__file__).parent.glob("*.py"))


@pytest.fixture(scope="module")
def shape(tiny_llama):
    return Shape.of(tiny_llama(num_hidden_layers=4))


@pytest.fixture
def figures(shape):
    """Calls that draw each figure of the base notebooks anew."""
    plan = uniform_plan(PlanRequest(shape, 0.4, drop=[2], multiple=4))
    return {
        "pruned": lambda: plot_pruned([0.9, 0.2, 0.1, 0.3], plan, shape.neurons, shape.kv_groups, [0.05, 0.08, 0.01]),
        "comparison": lambda: plot_comparison({"parameters": 0.8}, {"decode": (1.2, 1.1, 1.4)}),
        "block": lambda: plot_block(shape),
        "variants": lambda: plot_variants({"COMP": [0.3, 0.4, 0.5], "random": [0.8]}, "COMP"),
    }


NAMES = ("pruned", "comparison", "block", "variants")


def simple():
    figure, axes = figure_with_axes()
    axes.plot([1, 3, 2])
    figure.alt_text = 'A line, "up" & down <again>.'
    return figure


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


def test_an_image_carries_its_words_whatever_is_in_them():
    [(tag, attributes)] = Tags(mime_bundle(simple())["text/html"]).tags
    assert tag == "img" and attributes["alt"] == 'A line, "up" & down <again>.'
    kind, data = attributes["src"].split(",")
    assert kind == "data:image/png;base64" and base64.b64decode(data) == png(simple())


def test_every_reader_gets_something():
    bundle = mime_bundle(simple())
    assert set(bundle) == {"text/html", "image/png", "text/plain"}
    assert bundle["text/plain"] == simple().alt_text
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")


def test_a_figure_without_words_is_not_shown():
    figure, _ = figure_with_axes()
    with pytest.raises(AttributeError):
        mime_bundle(figure)


def test_no_window_and_no_pyplot(figures):
    before = {
        name: value for name, value in matplotlib.rcParams.items() if name != "backend"
    }  # reading that one sets it
    for draw in figures.values():
        draw()
    assert {name: matplotlib.rcParams[name] for name in before} == before
    for path in MODULES:
        assert "pyplot" not in path.read_text("utf-8").replace("pyplot's state", "").replace(
            "matplotlib.pyplot.subplots", ""
        )


def test_colours_differ_for_the_colour_blind():
    grey = np.array(COLOURS[:6]) @ [0.299, 0.587, 0.114]
    assert len(COLOURS) >= 6 and len(np.unique(grey.round(3))) == 6


@pytest.mark.parametrize("name", NAMES)
def test_the_same_bytes_every_time(figures, name):
    first, second = figures[name](), figures[name]()
    assert png(first) == png(second) == png(first)
    assert first.alt_text == second.alt_text


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_the_machine_is_in_the_file(figures, name):
    data = png(figures[name]())
    assert b"Software" not in data and b"matplotlib" not in data and b"Date" not in data


@pytest.mark.parametrize("name", NAMES)
def test_axes_are_labelled(figures, name):
    figure = figures[name]()
    axes = [axis for axis in figure.get_axes() if axis.axison]  # a drawing has none
    if not axes:
        return
    # the lowest axis of a column names x for all; y is named by a label or by its ticks
    assert axes[-1].get_xlabel()
    for axis in axes:
        assert axis.get_ylabel() or any(
            not text.get_text().replace(".", "").isdigit() for text in axis.get_yticklabels()
        )


@pytest.mark.parametrize("name", NAMES)
def test_it_is_not_blank(figures, name, tmp_path):
    (tmp_path / "figure.png").write_bytes(png(figures[name]()))
    assert imread(tmp_path / "figure.png")[..., :3].std() > 0.05


def test_words_say_the_numbers(figures):
    assert figures["pruned"]().alt_text.startswith(
        "Three charts over 4 decoder layers. Block influence is highest in layer 0"
    )
    assert "1 layers were dropped" in figures["pruned"]().alt_text and "layer 1, 8.0%" in figures["pruned"]().alt_text
    words = figures["comparison"]().alt_text
    assert "parameters 80%" in words and "decode 120% (from 110% to 140%)" in words


def test_what_is_better_has_its_own_colour(figures):
    [axes] = figures["comparison"]().axes
    less, more = axes.patches
    assert less.get_facecolor() != more.get_facecolor()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["less is better", "more is better"]


def test_the_block_says_what_a_cut_takes(figures, shape):
    words = figures["block"]().alt_text
    assert f"one neuron ({shape.neuron_parameters:,} parameters)" in words
    assert f"one KV group ({shape.group_parameters:,})" in words and f"one layer ({shape.layer(0):,})" in words


def test_the_variants_beside_the_seeds_of_one(figures):
    figure = figures["variants"]()
    [axes] = figure.axes
    dots = [collection.get_offsets().data.tolist() for collection in axes.collections]
    assert dots == [[[0.3, 0], [0.4, 0], [0.5, 0]], [[0.8, 1]]]
    band = axes.patches[0].get_extents().transformed(axes.transData.inverted())
    assert (band.x0, band.x1) == pytest.approx((0.3, 0.5))
    assert "COMP 0.400 (0.300 to 0.500, 3 seeds); random 0.800." in figure.alt_text


@pytest.mark.parametrize("name", NAMES)
def test_no_text_lies_on_another(figures, name):
    assert overlapping_texts(figures[name]()) == []


def test_one_layer_does_not_dwarf_the_others(shape):
    plan = uniform_plan(PlanRequest(shape, 0.4, drop=[2], multiple=4))

    def importance(values):
        return plot_pruned(values, plan, shape.neurons, shape.kv_groups, [0.05, 0.08, 0.01]).axes[0]

    bars, dots = importance([0.3, 0.2, 0.1, 0.2]), importance([0.9, 0.02, 0.01, 0.03])
    assert bars.get_yscale() == "linear" and len(bars.patches) == 4
    assert dots.get_yscale() == "log" and dots.get_ylabel().endswith("log scale") and not dots.patches
    assert dots.collections[0].get_offsets().data[:, 1] == pytest.approx([0.9, 0.02, 0.01, 0.03])
    assert importance([0.9, 0.0, 0.01, 0.03]).get_yscale() == "linear"  # zero has no logarithm


def plot_functions():
    for path in MODULES:
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("plot_"):
                yield pytest.param(node, id=f"{path.stem}.{node.name}")


def gives_words(function):
    """Whether a plot function describes its figure, or hands the work to one that does."""
    stored = any(isinstance(node, ast.Attribute) and node.attr == "described" for node in ast.walk(function))
    called = any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.startswith(("plot_", "_"))
        for node in ast.walk(function)
    )
    return stored or called


@pytest.mark.parametrize("function", list(plot_functions()))
def test_each_plot_function_gives_words(function):
    assert gives_words(function)
    assert ast.get_docstring(function)


def test_a_plot_function_without_words_is_noticed():
    [function] = ast.parse("def plot_x(values):\n    figure, axes = figure_with_axes()\n    return figure").body
    assert not gives_words(function)


LIMITS = [((0.9, 4.2), False), ((1e-6, 0.02), True), ((30, 33), False), ((1, 1e6), False), ((1, 1e30), False)]


@pytest.mark.parametrize("limits, percent", LIMITS)
def test_ticks_are_few_and_inside(limits, percent):
    axis = Figure().subplots()
    axis.set_xscale("log")
    axis.set_xlim(limits)
    plain_ticks(axis.xaxis, limits, percent)
    ticks = axis.get_xticks()
    assert 3 <= len(ticks) <= 8 and ticks.min() >= limits[0] and ticks.max() <= limits[1]
    assert len({label.get_text() for label in axis.get_xticklabels()}) == len(ticks)


def test_texts_on_each_other_and_over_the_edge_are_found():
    figure, axes = figure_with_axes((4.0, 3.0))
    axes.plot([0, 1], [0, 1])
    assert overlapping_texts(figure) == []
    note(axes, "one label", (0.5, 0.5))
    note(axes, "another label", (0.5, 0.5))
    assert overlapping_texts(figure) == ["'one label' on 'another label'"]
    far, axes = figure_with_axes((4.0, 3.0))
    axes.annotate("far to the right", (1.2, 0.5), xycoords="figure fraction").set_in_layout(False)
    assert overlapping_texts(far) == ["'far to the right' over the edge"]
