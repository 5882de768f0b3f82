"""Figures of neurons: they show the numbers they were given, say them in words, and have units on their axes."""

from __future__ import annotations

import numpy as np
import pytest

from comp_lib.plots import png
from comp_lib.plots.base import overlapping_texts
from course.figures import matrix_condition as plots

RNG = np.random.default_rng(0)
N = 60
ENERGY = np.exp(RNG.normal(-8, 1.5, N))
CONDITION = 1 + np.exp(RNG.normal(-0.5, 0.6, N))
GONE = np.arange(N) % 5 == 0
GRAM = (lambda x: x.T @ x)(RNG.normal(size=(40, N)))

FIGURES = {
    "projections": lambda: plots.plot_projections({"toy": [[4, 4], [4, 5]], "right angle": [[4, 0], [0, 5]]}),
    "cosines": lambda: plots.plot_cosines({"inputs": GRAM, "contributions": GRAM**3}, list(range(12))),
    "energy_condition": lambda: plots.plot_energy_condition(ENERGY, CONDITION, GONE, "Layer 3", picked=7),
    "choices": lambda: plots.plot_choices(ENERGY, CONDITION, {"energy": GONE, "cost": ~GONE}),
    "cuts": lambda: plots.plot_cuts(),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_words_units_and_the_same_bytes(name):
    figure = FIGURES[name]()
    assert len(figure.alt_text) > 80 and "nan" not in figure.alt_text
    shown = [axis for axis in figure.axes if axis.axison and (axis.collections or axis.lines or axis.images)]
    assert name == "cuts" or (any(axis.get_xlabel() for axis in shown) and any(axis.get_ylabel() for axis in shown))
    assert overlapping_texts(figure) == []
    assert png(FIGURES[name]()) == png(FIGURES[name]())


def test_projections_draw_the_cost():
    figure = FIGURES["projections"]()
    lost = [line for line in figure.axes[0].lines if line.get_linestyle() == "--" and len(line.get_ydata())]
    assert max(lost[0].get_ydata()) ** 2 == pytest.approx(4 - 4**2 / 5)
    assert "cost 0.80 of 4.00" in figure.alt_text and "90 degrees apart, condition 1.00" in figure.alt_text


def test_the_scatter_shows_every_neuron_once_and_marks_who_goes():
    figure = FIGURES["energy_condition"]()
    kept, removed, picked = figure.axes[0].collections[:3]
    np.testing.assert_allclose(removed.get_offsets(), np.c_[ENERGY, CONDITION][GONE])
    np.testing.assert_allclose(kept.get_offsets(), np.c_[ENERGY, CONDITION][~GONE])
    np.testing.assert_allclose(picked.get_offsets(), [[ENERGY[7], CONDITION[7]]])
    assert "12 neurons are marked as removed" in figure.alt_text and "Neuron 7 has" in figure.alt_text


def test_lines_of_equal_cost_have_equal_cost():
    lines = [line for line in FIGURES["energy_condition"]().axes[0].lines if len(line.get_xdata()) == 50]
    assert lines
    for line in lines:
        costs = line.get_xdata() / line.get_ydata() ** 2
        np.testing.assert_allclose(costs, costs[0])


def test_cosines():
    figure = FIGURES["cosines"]()
    shown = figure.axes[0].collections[0].get_array().reshape(12, 12)
    size = np.sqrt(GRAM.diagonal()[:12])
    np.testing.assert_allclose(shown, GRAM[:12, :12] / np.outer(size, size))


def test_the_drawing_of_the_cuts_marks_one_neuron_and_one_group():
    figure = FIGURES["cuts"]()
    red = [[patch for patch in axis.patches if patch.get_alpha()] for axis in figure.axes]
    assert [len(patches) for patches in red] == [3, 4]  # gate, up and down; q, k, v and o
    assert "one head of k_proj and of v_proj, the 3 heads of q_proj" in figure.alt_text
