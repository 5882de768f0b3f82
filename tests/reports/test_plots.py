"""Pictures of the commands: the same bytes every time, bars at their numbers, words for the blind."""

from __future__ import annotations

import ast
import base64
import math
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import pytest
from matplotlib.figure import Figure
from tools import FOUR_LAYERS

import comp_lib.reports.plots
from comp_lib.hybrid_granularity.plan import PlanRequest
from comp_lib.hybrid_granularity.uniform import uniform_plan
from comp_lib.reports.plots import figure_with_axes, mime_bundle, plot_kinds, plot_pruned, png
from comp_lib.reports.plots.base import plain_ticks
from course.figures import overlapping_texts

PLAN = uniform_plan(PlanRequest(FOUR_LAYERS, 0.4, drop=[2], multiple=4))
NAMES = ("prose", "code", "mean of 2")
DENSE = (2.0, 1.0, 1.5)
PRUNED = (2.5, 1.25, 1.875)
INCREASE_INTERVALS = ((0.3, 0.7), (0.2, 0.28), (0.3, 0.45))
LOSS_INTERVALS = ((2.2, 2.9), (1.0, 1.5), (1.7, 2.0))


def pruned():
    return plot_pruned(PLAN, FOUR_LAYERS.neurons, FOUR_LAYERS.kv_groups, [0.05, 0.08, 0.01])


def rows(compared, losses=PRUNED, increase_intervals=INCREASE_INTERVALS):
    table = {}
    columns = zip(NAMES, DENSE, losses, increase_intervals, LOSS_INTERVALS, strict=True)
    for name, dense_loss, loss, increase_interval, loss_interval in columns:
        values = {"loss": loss}
        intervals = {"loss": loss_interval}
        if compared:
            values |= {"dense_loss": dense_loss, "increase": loss - dense_loss}
            intervals |= {"increase": increase_interval}
        table[name] = (values, intervals)
    mean_row = table.popitem()
    return table, mean_row


def whiskers(axes):
    """(left, right) of each error bar, in the order of the bars."""
    [bars] = [container.errorbar for container in axes.containers if getattr(container, "errorbar", None)]
    return [tuple(segment[:, 0]) for segment in bars.lines[2][0].get_segments()]


def simple():
    figure, axes = figure_with_axes()
    axes.plot([1, 3, 2])
    return figure.with_alt_text('A line, "up" & down <again>.')


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


def test_an_image_carries_its_words_whatever_is_in_them():
    bundle = mime_bundle(simple())
    [(tag, attributes)] = Tags(bundle["text/html"]).tags
    assert tag == "img"
    assert attributes["alt"] == bundle["text/plain"] == 'A line, "up" & down <again>.'
    kind, data = attributes["src"].split(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data) == png(simple())
    with pytest.raises(AttributeError):
        mime_bundle(figure_with_axes()[0])  # without words it is not shown


@pytest.mark.parametrize("draw", [pruned, lambda: plot_kinds(*rows(True))])
def test_the_same_bytes_every_time_and_nothing_of_the_machine(draw):
    image = png(draw())
    assert image == png(draw())
    assert not any(word in image for word in (b"Software", b"matplotlib", b"Date"))
    assert overlapping_texts(draw()) == []


def imports(path):
    """Names of the modules, and of what is in them, that a file imports."""
    names = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


PLOTS = sorted(Path(comp_lib.reports.plots.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", PLOTS, ids=lambda path: path.stem)
def test_no_file_imports_pyplot(path):
    names = imports(path)
    assert names  # each file imports something
    assert [name for name in names if "pyplot" in name.split(".")] == []


def test_no_setting_of_matplotlib_is_changed():
    names = matplotlib.rcParams.keys() - {"backend"}  # which is set by reading it
    before = {name: matplotlib.rcParams[name] for name in names}
    pruned()
    assert {name: matplotlib.rcParams[name] for name in names} == before


def test_what_was_removed_has_two_charts():
    figure = pruned()
    assert [axes.get_ylabel().split("\n")[0] for axes in figure.axes] == ["MLP neurons", "error left after"]
    assert figure.axes[0].get_title().startswith("What was removed: ")
    assert figure.alt_text.startswith("Two charts over 4 decoder layers. 1 layers were dropped")
    assert "layer 1, 8.0%" in figure.alt_text


def test_dense_and_pruned_stand_in_order_with_the_increase_as_whiskers():
    figure = plot_kinds(*rows(True))
    [axes] = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [*DENSE, *PRUNED]
    middles = [bar.get_y() + bar.get_height() / 2 for bar in axes.patches]
    assert middles[:3] == sorted(middles[:3])
    assert all(dense < pruned for dense, pruned in zip(middles[:3], middles[3:], strict=True))
    assert axes.yaxis_inverted()
    assert [label.get_text() for label in axes.get_yticklabels()] == list(NAMES)
    for ends, dense, (low, high) in zip(whiskers(axes), DENSE, INCREASE_INTERVALS, strict=True):
        assert ends == pytest.approx((dense + low, dense + high))
    assert [text.get_text() for text in axes.texts] == ["+0.50", "+0.25", "+0.38"]
    assert "prose 2.00 dense, 2.50 pruned, +0.50 (0.30 to 0.70); code" in figure.alt_text


def test_alone_a_model_has_one_bar_with_the_interval_of_its_loss():
    figure = plot_kinds(*rows(False))
    [axes] = figure.axes
    assert [bar.get_width() for bar in axes.patches] == list(PRUNED)
    assert whiskers(axes) == [pytest.approx(bounds) for bounds in LOSS_INTERVALS]
    assert "code 1.25 (1.00 to 1.50); mean of 2 1.88" in figure.alt_text
    assert "dense" not in figure.alt_text
    assert overlapping_texts(figure) == []


@pytest.mark.parametrize("loss", [math.nan, 2.5])
def test_what_has_no_number_or_no_interval_is_drawn_without(loss):
    figure = plot_kinds(*rows(True, (loss, *PRUNED[1:]), [(math.nan, math.nan)] * 3))
    assert png(figure).startswith(b"\x89PNG")
    assert " to " not in figure.alt_text


LIMITS = [((0.9, 4.2), False), ((1e-6, 0.02), True), ((30, 33), False), ((1, 1e6), False), ((1, 1e30), False)]


@pytest.mark.parametrize("limits, percent", LIMITS)
def test_ticks_are_few_and_inside(limits, percent):
    axis = Figure().subplots()
    axis.set_xscale("log")
    axis.set_xlim(limits)
    plain_ticks(axis.xaxis, limits, percent)
    ticks = axis.get_xticks()
    assert 3 <= len(ticks) <= 8
    assert ticks.min() >= limits[0]
    assert ticks.max() <= limits[1]
    assert len({label.get_text() for label in axis.get_xticklabels()}) == len(ticks)
