"""Figures of the lessons: they show the numbers given, say them in words, and no text lies on another."""

from __future__ import annotations

import ast
import functools
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from studies import study_of
from tools import FOUR_LAYERS

import course.figures
from comp_lib.hybrid_granularity.plan import PlanRequest
from comp_lib.hybrid_granularity.uniform import uniform_plan
from comp_lib.reports.plots import figure_with_axes
from comp_lib.reports.plots.base import GREEN, note
from comp_lib.reports.speed import Timing
from comp_lib.utils.errors import InputError
from course.figures import (
    after_pruning,
    differences,
    mask_tuning,
    on_device,
    overlapping_texts,
    scale,
    start_here,
    your_own_model,
)
from course.figures import comp_vs_baselines as baselines
from course.figures import hybrid_granularity as plans
from course.figures import layer_importance as layers
from course.figures import matrix_condition as neurons
from course.figures import metrics_on_trial as trial

pytestmark = pytest.mark.slow
NOTEBOOKS = Path(course.figures.__file__).parents[2]
RNG = np.random.default_rng(0)
N = 60
ENERGY = np.exp(RNG.normal(-8, 1.5, N))
CONDITION = 1 + np.exp(RNG.normal(-0.5, 0.6, N))
REMOVED = np.arange(N) % 5 == 0
UNIFORM_PLAN = uniform_plan(PlanRequest(FOUR_LAYERS, 0.2, multiple=8))
MIXED_PLAN = PlanRequest(FOUR_LAYERS, 0.2, drop=[1], multiple=8).plan_with((16, 48, 40))
# means, and the ends of their intervals
SMALL_LOSS = (0.4, 0.3, 0.5)
LARGE_LOSS = (0.6, 0.55, 0.7)
GAIN = (-0.05, -0.06, -0.04)
ROWS = {"one": (0.3, 0.2, 0.35), "two": (0.4, 0.39, 0.41), "three": (0.7, 0.5, 0.8)}
SPREADS = {"bare": {"layer 2": ROWS}, "refitted": {"layer 2": ROWS, "layer 5": dict(reversed(ROWS.items()))}}
UNSEEN = [(0.3, 0.25, 0.35), (0.2, 0.18, 0.22), (0.25, 0.2, 0.3)]
STUDY = study_of()
GIB = scale.GIB
SPEEDS = [
    Timing(name, size, (1.0,), (1.0,), decode)
    for name, size, decode in (("dense", 150, (10.0, 20.0, 5.0)), ("small", 100, (14.0, 28.0, 8.0)))
]

FIGURES = {  # name: the function that draws it, phrases of its alt text
    "comparison": (
        lambda: start_here.plot_comparison({"parameters": 0.8}, {"decode": (1.2, 1.1, 1.4)}),
        ["parameters 80%", "decode 120% (from 110% to 140%)"],
    ),
    "error of each layer": (
        lambda: start_here.plot_layers([1.0, 0.01, 0.1], [0.01, 0.02, 0.06]),
        ["highest in layer 0", "largest in layer 2, 6.0% of its output's energy; in layer 0 it is 1.0%"],
    ),
    "variants": (
        lambda: start_here.plot_variants(
            {"COMP": [0.3, 0.4, 0.5], "random": [0.8]}, "COMP", {"COMP": 0.2, "random": 1.0}
        ),
        ["COMP 0.400 (0.300 to 0.500, 3 seeds), Gemma 3 0.200; random 0.800, Gemma 3 1.000."],
    ),
    "hidden harm": (
        lambda: layers.plot_hidden_harm(study_of(sequences=8), 3),
        ["Layer 3 is marked: at place 5 its harm is 2.00", "promises 2.00"],
    ),
    "sink": (
        lambda: layers.plot_sink(
            torch.eye(9), 2, {"as it is": torch.full((6,), 0.5), "without": torch.zeros(6)}, 3
        ),
        ["as it is, 50% from layer 3 on; without, 0% from"],
    ),
    "layer": (
        lambda: layers.plot_layer(STUDY, 3, "loss increase", 1),
        ["lowest 0.050 at position 0", "place 5 of 6", "2.00 nats per token"],
    ),
    "projections": (
        lambda: neurons.plot_projections({"toy": [[4, 4], [4, 5]], "right angle": [[4, 0], [0, 5]]}),
        ["cost 0.80 of 4.00", "90 degrees apart, condition 1.00"],
    ),
    "energy and condition": (
        lambda: neurons.plot_energy_condition(ENERGY, CONDITION, REMOVED, "Layer 3", picked=7),
        ["12 neurons are marked as removed", "Neuron 7 has energy"],
    ),
    "agreement": (
        lambda: trial.plot_spreads(SPREADS, "Spearman's correlation"),
        ["bare, layer 2: one 0.300"],
    ),
    "errors": (
        lambda: trial.plot_spreads(SPREADS, "error left (%)", percent=True, log=True),
        ["refitted, layer 5: one 30.0%, two 40.0%, three 70.0%"],
    ),
    "rise": (
        lambda: trial.plot_spreads({"": SPREADS["bare"]}, "rise of the loss", reference=0.0),
        ["one 0.300"],
    ),
    "widths": (
        lambda: plans.plot_widths(MIXED_PLAN, FOUR_LAYERS.neurons, [0.02, math.nan, 0.0, 0.01]),
        ["layer 1 dropped", "16 (layer 0) to 48 of 48", "layer 0 has the largest predicted error, 2.00%"],
    ),
    "plans": (
        lambda: plans.plot_plans({"even": UNIFORM_PLAN, "odd": MIXED_PLAN}, FOUR_LAYERS.neurons),
        ["2 plans", "even: no layer dropped", "odd: layer 1 dropped"],
    ),
    "narrowed alone": (
        lambda: plans.plot_divergence(
            {0: 1e-3, 2: 1e-3, 3: 2e-4},
            {layer: np.linspace(0.9, 1.1, 8) * mean for layer, mean in ((0, 0.08), (2, 0.01), (3, 0.2))},
            (0, 2),
        ),
        ["layer 0 0.100% and 0.0800 nats (0.0753 to 0.0847); layer 2 0.100% and 0.0100 nats"],
    ),
    "differences": (
        lambda: differences.plot_differences(
            {"small": {"a": GAIN, "b": LARGE_LOSS}, "large": {"a": (0.1, -0.1, 0.3)}},
            "COMP",
            "Two models",
            {"small": {"a": [-0.06, -0.04]}, "large": {}},
        ),
        [
            "Two models. Loss minus that of COMP",
            "small, b: +0.600 (+0.550 to +0.700); large, a: +0.100 (-0.100",
        ],
    ),
    "variances": (
        lambda: mask_tuning.plot_variances(
            {"unguarded": [0.01, 9, 0], "guarded": [0.01, 0.04, 0]}, 0.05, "All"
        ),
        ["highest 9 in layer 1, 1 of 3 layers above", "highest 0.04 in layer 1, 0 of 3 layers above"],
    ),
    "losses": (
        lambda: mask_tuning.plot_losses(
            {"lucky": {"none": SMALL_LOSS}, "not": {"none": LARGE_LOSS}}, {"dense": 0.1}, "Two draws"
        ),
        ["not: none 0.60 (0.55 to 0.70)", "dense: 0.10"],
    ),
    "reach": (
        lambda: your_own_model.plot_reach(FOUR_LAYERS, FOUR_LAYERS.with_widths((24,) * 4, (2,) * 4)),
        ["of which 50% stay"],
    ),
    "sweep": (
        lambda: your_own_model.plot_sweep([(0.3, *LARGE_LOSS), (0.1, *SMALL_LOSS)], 0.5),
        ["a limit at 0.5 nats: 10% removed 0.40 nats (0.30 to 0.50); 30% removed 0.60"],
    ),
    "kinds": (
        lambda: your_own_model.plot_kinds({"prose": SMALL_LOSS, "code": GAIN}, 0.45, "Two kinds"),
        ["a limit at 0.45: prose +0.40 (+0.30 to +0.50); code -0.05"],
    ),
    "windows": (
        lambda: baselines.plot_windows({"COMP": [3.0, 1.0, 2.0], "FLAP": [3.1, 1.1, 1.9]}),
        ["go from 1.00 to 3.00 nats; the models differ by 0.10 in a window"],
    ),
    "intervals": (
        lambda: baselines.plot_intervals({"first": SMALL_LOSS, "second": GAIN}, "nats per token", "Two"),
        ["first +0.40 (+0.30 to +0.50); second -0.05 (-0.06 to -0.04)"],
    ),
    "reads": (
        lambda: on_device.plot_reads(
            {"dense": FOUR_LAYERS, "half": FOUR_LAYERS.with_widths((48,) * 2, (2,) * 2)}, 1000, 16
        ),
        ["of 2 layers"],
    ),
    "speedup": (lambda: on_device.plot_speedup(SPEEDS), ["small, 1.40 beside a byte ratio of 1.50"]),
    "parts of a token": (
        lambda: on_device.plot_parts({"dense": (1, 2, 3), "half": (1, 1, 1)}, {"dense": 6.5, "half": 3.0}),
        ["dense 6.0 fitted, 6.5 measured; half 3.0 fitted, 3.0 measured"],
    ),
    "sums": (
        lambda: scale.plot_sums(
            100, {"C": [(10, GIB), (1000, GIB)], "dual": [(10, GIB // 4), (1000, 4 * GIB)]}, 200
        ),
        ["equal at 200 tokens", "dual: 0.25 GiB at 10 tokens"],
    ),
    "memory": (
        lambda: scale.plot_memory(
            {"all": [(2 * 10**9, 4 * GIB), (10**9, 2 * GIB)]}, {"measured": [(10**9, GIB)]}
        ),
        ["all: 2.00 GiB at 1.00 billion parameters, 4.00 GiB at 2.00 billion"],
    ),
    "answers": (
        lambda: after_pruning.plot_answers(
            ["sea", "north"], {"parent": [0.5, 0.1], "pruned": [0.2, 0.3]}, "To the"
        ),
        ["parent: sea 0.50, north 0.10; pruned: sea 0.20, north 0.30"],
    ),
    "gains and duels": (
        lambda: after_pruning.plot_gains_and_duels({"healed": GAIN}, {"one\nminus two": SMALL_LOSS}, "Both"),
        [
            "before it: healed -0.050 (-0.060 to -0.040); duels",
            "loses less: one minus two +0.400 (+0.300 to +0.500)",
        ],
    ),
    "low rank": (lambda: after_pruning.plot_low_rank(100, 60, 5), ["W 100 × 60; B 100 × 5; A 5 × 60"]),
    "divergence": (
        lambda: after_pruning.plot_divergence(
            {0: {"taught": [(0, 0.8), (4, 0.5)]}, 1: {"held out": [(0, 0.7), (4, 0.6)]}}, "One"
        ),
        ["held out, seed 1: 0.700 before, 0.600 after 4 steps"],
    ),
}


@functools.cache  # once for all tests, none of which changes it
def draw(name):
    plot, _ = FIGURES[name]
    return plot()


def ticks(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


def whiskers(container):
    """(low, high) of each point of an error bar, whose whiskers are horizontal or vertical."""
    ends = np.array(container.lines[2][0].get_segments())  # (points, 2 ends, x and y)
    vertical = np.ptp(ends[:, :, 1]) > 0 and np.allclose(ends[:, 0, 0], ends[:, 1, 0])
    return ends[:, :, 1 if vertical else 0].tolist()


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_says_its_numbers_in_words_and_can_be_read(name):
    figure = draw(name)
    _, phrases = FIGURES[name]
    assert all(phrase in figure.alt_text for phrase in phrases), figure.alt_text
    assert "nan" not in figure.alt_text
    assert overlapping_texts(figure) == []
    with_axes = [axes for axes in figure.axes if axes.axison]
    if with_axes:
        assert any(axes.get_xlabel() for axes in with_axes) or figure.get_supxlabel()
        assert with_axes[0].get_ylabel() or any(not text.isdigit() for text in ticks(with_axes[0]))


def test_each_plot_function_of_the_course_is_drawn_here_and_in_a_lesson():
    """What no lesson shows has no place in the course."""
    drawn = Path(__file__).read_text("utf-8")
    lessons = "".join(path.read_text("utf-8") for path in NOTEBOOKS.glob("*.ipynb"))
    widgets = "".join(path.read_text("utf-8") for path in (NOTEBOOKS / "course" / "widgets").glob("*.py"))
    for path in (NOTEBOOKS / "course" / "figures").glob("*.py"):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("plot_"):
                assert ast.get_docstring(node), node.name
                assert f".{node.name}(" in drawn, node.name
                assert node.name in lessons or node.name in widgets, node.name


def test_each_drawing_has_words_and_a_lesson():
    lessons = [nbformat.read(path, 4) for path in NOTEBOOKS.glob("*.ipynb")]
    sources = "\n".join(cell.source for lesson in lessons for cell in lesson.cells)
    drawings = sorted((NOTEBOOKS / "course" / "drawings").glob("*.svg"))
    assert len(drawings) == len(set(re.findall(r'drawing\("(\w+)"', sources))) > 5
    for path in drawings:
        description = ElementTree.parse(path).getroot().findtext("{http://www.w3.org/2000/svg}desc")
        assert len(description.split()) > 20, path.name
        assert f'drawing("{path.stem}"' in sources, path.name


# --- what is drawn is what was given ------------------------------------------------------------------------


def test_a_comparison_without_a_title_leaves_the_word_to_the_lesson():
    figure = differences.plot_differences({"small": {"a": GAIN}}, "COMP")
    assert figure.get_suptitle() == ""
    assert figure.alt_text.startswith("Loss minus that of COMP")


def test_a_comparison_can_keep_the_order_of_its_variants():
    rows = {"first": LARGE_LOSS, "second": GAIN}
    for by_size, downwards in ((True, ["second", "first"]), (False, ["first", "second"])):
        figure = differences.plot_differences({"small": rows}, "COMP", by_size=by_size)
        labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
        assert labels[::-1] == downwards


def test_harms_stand_at_their_places_beside_what_the_places_promise():
    study = study_of(sequences=8)
    axes = layers.plot_hidden_harm(study, 3).axes[0]
    line, *_ = axes.lines
    np.testing.assert_allclose(line.get_ydata(), sorted(study.mean_harm.tolist()))
    (dots,) = (
        collection for collection in axes.collections if len(collection.get_offsets()) == len(study.influence)
    )
    positions = dots.get_offsets()[:, 0].astype(int) - 1  # from 0
    np.testing.assert_allclose(np.sort(study.influence.numpy())[positions], study.influence.numpy())
    np.testing.assert_allclose(dots.get_offsets()[:, 1], study.mean_harm.numpy())
    whiskers_drawn, hidden = (
        collection.get_segments() for collection in axes.collections if collection is not dots
    )
    assert [ends[:, 1].tolist() for ends in whiskers_drawn] == [
        pytest.approx(row) for row in study.harm_interval.tolist()
    ]
    promised = sorted(study.mean_harm.tolist())[positions[3]]
    assert hidden[0][:, 1].tolist() == pytest.approx([promised, float(study.mean_harm[3])])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: layers.plot_layer(STUDY, 6), "expected a layer from 0 to 5, got 6"),
        (lambda: layers.plot_layer(STUDY, 0, "los increase"), "did you mean 'loss increase'"),
    ],
)
def test_wrong_input_is_a_sentence(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_neurons_stand_where_their_numbers_are():
    axes = draw("energy and condition").axes[0]
    kept, removed, picked = axes.collections[:3]
    np.testing.assert_allclose(removed.get_offsets(), np.c_[ENERGY, CONDITION][REMOVED])
    np.testing.assert_allclose(kept.get_offsets(), np.c_[ENERGY, CONDITION][~REMOVED])
    np.testing.assert_allclose(picked.get_offsets(), [[ENERGY[7], CONDITION[7]]])
    *prices, _ = axes.lines  # of equal cost, and the legend's
    assert len(prices) > 1
    for line in prices:
        costs = line.get_xdata() / line.get_ydata() ** 2
        np.testing.assert_allclose(costs, costs[0])
    dashed = [line for line in draw("projections").axes[0].lines if line.get_linestyle() == "--"]
    lost = next(line for line in dashed if len(line.get_ydata()))
    assert max(lost.get_ydata()) ** 2 == pytest.approx(4 - 4**2 / 5)


@pytest.mark.parametrize(
    "name, top", [("agreement", "one"), ("errors", "one"), ("rise", "one"), ("differences", "a")]
)
def test_the_first_row_or_the_best_is_on_top(name, top):
    assert ticks(draw(name).axes[0])[-1] == top


def test_dots_and_whiskers_are_the_numbers():
    for axes, series in zip(draw("errors").axes, SPREADS.values(), strict=True):
        for container, rows in zip(axes.containers, series.values(), strict=True):
            np.testing.assert_allclose(container[0].get_xdata(), [mean for mean, _, _ in rows.values()])
            np.testing.assert_allclose(whiskers(container), [ends for _, *ends in rows.values()])
    small, large = draw("differences").axes
    assert [container[0].get_xdata()[0] for container in small.containers] == [GAIN[0], LARGE_LOSS[0]]
    assert whiskers(small.containers[1]) == [pytest.approx(LARGE_LOSS[1:])]
    colours = [container[0].get_color() for container in (*small.containers, *large.containers)]
    assert len(set(colours)) == 3  # below 0, above 0, and an interval that holds 0
    assert [text.get_text() for text in (*small.texts, *large.texts)] == ["no run"]  # "b" of the large one
    (rows,) = draw("intervals").axes[0].containers
    assert rows[0].get_xdata().tolist() == [0.4, -0.05]
    assert whiskers(rows)[0] == pytest.approx([0.3, 0.5])
    comp, flap = draw("windows").axes[0].lines
    assert comp.get_xdata().tolist() == [1, 2, 3]
    assert flap.get_xdata().tolist() == [1.1, 1.9, 3.1]
    (sweep,) = draw("sweep").axes[0].containers
    assert sweep[0].get_xdata().tolist() == [0.1, 0.3]
    assert whiskers(sweep)[0] == pytest.approx([0.3, 0.5])
    (layer_0, *_) = draw("narrowed alone").axes[0].containers
    assert layer_0[0].get_xydata().tolist() == [pytest.approx([0.1, 0.08])]
    kinds = draw("kinds").axes[0]
    assert whiskers(kinds.containers[0])[0] == pytest.approx([0.3, 0.5])
    assert [line.get_xdata()[0] for line in kinds.lines[-2:]] == [0.0, 0.45]  # the dense model, the limit


def test_drawings_to_scale():
    bars = [bar.get_width() * 1e6 for bar in draw("reads").axes[0].patches]
    attention = 2 * FOUR_LAYERS.group_parameters * 2  # bytes
    mlp = 48 * FOUR_LAYERS.neuron_parameters * 2
    assert bars[:9] == pytest.approx([attention, mlp] * 4 + [1000 * 32 * 2])
    widths = [bar.get_width() for bar in draw("parts of a token").axes[0].patches]
    assert widths == [1, 2, 3, 1, 1, 1]
    outlines, fillings = (draw("reach").axes[0].patches[start::2] for start in (0, 1))
    assert sum(bar.get_width() for bar in outlines) == pytest.approx(1.0)
    assert [bar.get_height() for bar in fillings] == pytest.approx([1.0, 1.0, 0.5])
    top, bottom = draw("widths").axes
    green = [bar for bar in top.patches if bar.get_facecolor()[:3] == pytest.approx(to_rgb(GREEN))]
    assert [bar.get_height() for bar in green] == [16, 48, 40]
    assert [bar.get_height() for bar in bottom.patches] == [0.02, 0.0, 0.01]


def test_a_model_better_than_its_parent_is_not_cut_off():
    """Healed or hardly pruned, an increase below zero is an ordinary outcome."""
    rows = baselines.plot_intervals({"first": GAIN, "second": SMALL_LOSS}, "nats per token", "Two")
    variants = start_here.plot_variants({"COMP": [-0.05], "other": [0.1]}, "COMP")
    assert all(figure.axes[0].get_xlim()[0] <= -0.05 for figure in (rows, variants))
    [sweep] = your_own_model.plot_sweep([(0.1, *GAIN), (0.2, *SMALL_LOSS)], 0.5).axes
    assert sweep.get_ylim()[0] <= -0.06


# --- what says that a figure cannot be read ----------------------------------------------------------------


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
