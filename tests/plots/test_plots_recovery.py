"""Figures of recovery: they show the numbers they were given, say them in words, and have units on their axes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from comp_lib.plots import mask_tuning as plots
from comp_lib.plots import png

RNG = np.random.default_rng(0)
CALM, WILD = RNG.normal(1.05, 0.05, 200), RNG.normal(0, 30, 200)
RIDGES = (0.01, 0.1, 1.0)
CURVE = {
    "fitted": np.array([[[0.10, 0.11], [0.12, 0.12]], [[0.0, 0.02], [0.05, 0.06]]]),
    "unseen": np.array([[[0.16, 0.16], [0.15, 0.15]], [[0.94, 0.20], [0.14, 0.12]]]),
    "nothing": np.array([0.15, 0.17]),
}
FIGURES = {
    "calm masks": lambda: plots.plot_masks({"tuned": CALM}, "Layer 3"),
    "wild masks": lambda: plots.plot_masks({"unguarded": WILD, "guarded": CALM}, "Layer 3"),
    "variances": lambda: plots.plot_variances({"unguarded": [0.01, 9, 0], "guarded": [0.01, 0.04, 0]}, 0.05, "All"),
    "ridge path": lambda: plots.plot_ridge_path(
        RIDGES,
        [9.0, 0.3, 0.01],
        {"its own": [0.7, 0.8, 0.9], "per token": [200, 7, 0.3]},
        {"its own": 0.99, "per token": 0.31},
        0.05,
        "Layer 3",
    ),
    "perplexities": lambda: plots.plot_perplexities(
        {"lucky": {"none": 900.0, "guarded": 500.0}, "unlucky": {"none": 8000.0, "unguarded": 3e5, "guarded": 2000.0}},
        35.0,
        "Two draws",
    ),
    "token curve": lambda: plots.plot_token_curve([256, 512], 400, [0.01, 1.0], CURVE, ("mask", "least squares")),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_have_words_axes_and_the_same_bytes_every_time(name):
    figure = FIGURES[name]()
    assert isinstance(figure, Figure)
    assert len(figure.alt_text.split()) > 15
    for axis in figure.axes:
        assert axis.get_xlabel()
    assert figure.axes[0].get_ylabel() or axis.get_yticklabels()
    assert png(figure) == png(FIGURES[name]())


@pytest.mark.parametrize(
    "name, words",
    [
        ("wild masks", f"unguarded: from {WILD.min():.2f} to {WILD.max():.2f}"),
        ("wild masks", f"variance {WILD.var():.2g}"),
        ("variances", "highest 9 in layer 1, 1 of 3 layers above the bound"),
        ("variances", "highest 0.04 in layer 1, 0 of 3 layers above the bound"),
        ("ridge path", "falls from 9 to 0.01"),
        ("ridge path", "under the bound of 0.05 from 1 on"),
        ("ridge path", "per token: 200 at the weakest, 0.3 at the strongest, 0.31 untuned"),
        ("perplexities", "unguarded 300,000.0"),
        ("perplexities", "dense model has 35.0"),
        ("token curve", "at worst 94.0% with 256, 14.0% with the most"),
        ("token curve", "it is 17.0% on unseen tokens"),
    ],
)
def test_the_words_hold_the_numbers(name, words):
    assert words in FIGURES[name]().alt_text


def test_a_bound_that_is_met_nowhere_is_said():
    figure = plots.plot_ridge_path(RIDGES, [9, 8, 7], {"own": [1, 1, 1]}, {"own": 1.0}, 0.05, "Layer 3")
    assert "nowhere" in figure.alt_text


def test_wild_masks_may_be_tensors_and_are_not_cut_off():
    axis = plots.plot_masks({"wild": torch.from_numpy(WILD)}, "Layer 3").axes[0]
    low, high = axis.get_ylim()
    assert low < WILD.min() and high > WILD.max()


def test_lines_hold_the_numbers():
    axis = plots.plot_masks({"tuned": CALM}, "Layer 3").axes[0]
    np.testing.assert_array_equal(axis.lines[0].get_ydata(), np.sort(CALM))
    left, right = FIGURES["token curve"]().axes
    np.testing.assert_allclose(right.lines[0].get_ydata(), [94, 14])
    np.testing.assert_allclose(left.lines[0].get_ydata(), [16, 15])
