"""Figures of metrics on trial: they show the numbers they were given, say them in words, and nothing overlaps."""

from __future__ import annotations

import numpy as np
import pytest

from comp_lib.plots import png
from comp_lib.plots.base import overlapping_texts
from course.figures import metrics_on_trial as plots

TOKENS = np.exp(np.random.default_rng(0).normal(size=(3, 9)))
ROWS = {"one": (0.3, 0.2, 0.35), "two": (0.4, 0.39, 0.41), "three": (0.7, 0.5, 0.8)}
FOUND = {"bare": {"layer 2": ROWS}, "re-tuned": {"layer 2": ROWS, "layer 5": dict(reversed(ROWS.items()))}}
UNSEEN = [(0.3, 0.25, 0.35), (0.2, 0.18, 0.22), (0.25, 0.2, 0.3)]

FIGURES = {
    "judges": plots.plot_judges,
    "agreement": lambda: plots.plot_spreads(FOUND, "Spearman's correlation"),
    "errors": lambda: plots.plot_spreads(FOUND, "error left (%)", percent=True, log=True),
    "losses": lambda: plots.plot_spreads({"": FOUND["bare"]}, "rise of the loss (nats per token)", reference=0.0),
    "ridges": lambda: plots.plot_ridges([0.01, 0.1, 1.0], {"few": ([0.1, 0.12, 0.2], UNSEEN)}, [3, 2, 1.1], 0.2),
    "token_energy": lambda: plots.plot_token_energy(TOKENS, TOKENS**2, np.sqrt(TOKENS), "Norms in layer 3"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_words_units_and_the_same_bytes(name):
    figure = FIGURES[name]()
    assert len(figure.alt_text) > 80 and "nan" not in figure.alt_text and overlapping_texts(figure) == []
    assert name == "judges" or all(axis.get_xlabel() for axis in figure.axes)
    assert png(FIGURES[name]()) == png(FIGURES[name]())


@pytest.mark.parametrize("name, best", [("agreement", "three"), ("errors", "one"), ("losses", "one")])
def test_the_best_is_on_top(name, best):
    figure = FIGURES[name]()
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()][-1] == best


def test_dots_and_intervals_are_the_numbers():
    figure = FIGURES["errors"]()
    for axis, series in zip(figure.axes, FOUND.values(), strict=True):
        assert len(axis.containers) == len(series)
        for container, rows in zip(axis.containers, series.values(), strict=True):
            line, _, bars = container
            np.testing.assert_allclose(line.get_xdata(), [mean for mean, _, _ in rows.values()])
            ends = np.array([segment[:, 0] for segment in bars[0].get_segments()])
            np.testing.assert_allclose(ends, [(low, high) for _, low, high in rows.values()])
    assert "re-tuned, layer 5: one 30.0%, two 40.0%, three 70.0%" in figure.alt_text


def test_the_lowest_ridge_is_said():
    assert "is lowest at 20.0% with a ridge of 0.1, and ends at 25.0%" in FIGURES["ridges"]().alt_text
