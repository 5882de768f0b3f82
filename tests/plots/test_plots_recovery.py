"""Figures of recovery: they show the numbers they were given, say them in words, and have units on their axes."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from comp_lib.plots import png
from comp_lib.plots.base import overlapping_texts
from course.figures import mask_tuning as plots

RIDGES = (0.01, 0.1, 1.0)
CURVE = {
    "own": {"mask": [0.10, 0.12], "least squares": [0.0, 0.06]},
    "unseen": {
        "mask": [(0.16, 0.15, 0.17), (0.15, 0.14, 0.16)],
        "least squares": [(0.94, 0.9, 1.0), (0.12, 0.1, 0.14)],
    },
    "untuned": (0.17, 0.16, 0.18),
}
PASSING = {"variance guard": [False, False, True], "size guard": [False, False, False]}
FIGURES = {
    "recoveries": lambda: plots.plot_recoveries(1536, 1088, 576),
    "variances": lambda: plots.plot_variances({"unguarded": [0.01, 9, 0], "guarded": [0.01, 0.04, 0]}, 0.05, "All"),
    "ridge path": lambda: plots.plot_ridge_path(
        RIDGES,
        {"its own": [0.7, 0.8, 0.9], "per token": [200, 7, 0.3]},
        {"its own": 0.99, "per token": 0.31},
        PASSING,
        "Layer 3",
        1,
    ),
    "losses": lambda: plots.plot_losses(
        {"lucky": {"none": (6.8, 6.6, 7.0)}, "unlucky": {"none": (8.7, 8.4, 9.0), "unguarded": (14.5, 14.0, 15.1)}},
        {"dense model": 3.5, "blind guess": 10.8},
        "Two draws",
    ),
    "one case": lambda: plots.plot_losses(
        {"some": {"none": (6.8, 6.6, 7.0), "guarded": (6.2, 6.0, 6.4)}}, {"dense model": 3.5}, "One draw"
    ),
    "token curve": lambda: plots.plot_token_curve(
        [256, 512], 400, CURVE["own"], CURVE["unseen"], CURVE["untuned"], "Layer 3"
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_have_words_axes_and_the_same_bytes_every_time(name):
    figure = FIGURES[name]()
    assert isinstance(figure, Figure)
    assert len(figure.alt_text.split()) > 15
    for axis in figure.axes:
        assert axis.get_xlabel() or not axis.axison
    assert figure.axes[0].get_ylabel() or axis.get_yticklabels()
    assert overlapping_texts(figure) == []
    assert png(FIGURES[name]()) == png(FIGURES[name]())


@pytest.mark.parametrize(
    "name, words",
    [
        ("variances", "highest 9 in layer 1, 1 of 3 layers above the bound"),
        ("variances", "highest 0.04 in layer 1, 0 of 3 layers above the bound"),
        ("recoveries", "free are 626,688 weights, it aims at the dense model's stream, minus what flows past"),
        ("ridge path", "per token: 200 at the weakest, 0.3 at the strongest, 0.31 untuned"),
        ("ridge path", "variance guard lets pass from 1 on; size guard lets pass nothing"),
        ("losses", "unguarded 14.50 (14.00 to 15.10)"),
        ("losses", "dense model: 3.50"),
        ("token curve", "at worst 94.0% with 256, 12.0% with the most"),
        ("token curve", "it is 17.0% on unseen tokens"),
    ],
)
def test_the_words_hold_the_numbers(name, words):
    assert words in FIGURES[name]().alt_text


def test_lines_hold_the_numbers():
    np.testing.assert_allclose(FIGURES["token curve"]().axes[0].lines[0].get_ydata(), [16, 15])
    path = FIGURES["ridge path"]().axes[0]
    np.testing.assert_allclose(path.lines[0].get_ydata(), [70, 80, 90])
    np.testing.assert_allclose(path.lines[4].get_xdata(), [1.0])
