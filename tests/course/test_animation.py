"""Animations of the lessons: a GIF that begins with its end, a still that says the same, right numbers."""

from __future__ import annotations

import base64
import functools
import io
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from studies import study_of

import course.figures
from comp_lib.reports.plots import figure_with_axes
from comp_lib.reports.plots.base import RED
from course.figures import animation, layer_importance, matrix_condition, overlapping_texts

pytestmark = pytest.mark.slow
NOTEBOOKS = Path(course.figures.__file__).parents[2]
LAYERS = 12
STUDY = study_of(LAYERS, length=64)  # layer 3 turns position 0 last
REMOVED = np.inf  # price of a neuron that has left
TOY = [  # lesson 02's: energies, prices, error
    ((4, 5, 1), (0.8, 1, 1), 0),
    ((0, 16.2, 1), (REMOVED, 16.2, 1), 0.8),
    ((0, 16.2, 0), (REMOVED, 16.2, REMOVED), 1.8),
    ((0, 0, 0), (REMOVED,) * 3, 18),
]
KEPT = [1120, 0, *[1120] * (LAYERS - 2)]
DRIFT = [0.02 * layer for layer in range(1, LAYERS)] + [0.2]
ANIMATIONS = {  # name: the function that makes it, how many frames, words of its alt text
    "leaving": (
        lambda: matrix_condition.leaving(TOY),
        1 + 3 * 4,
        [
            "Neuron 1 leaves, and the price of neuron 2 rises from 1.0 to 16.2.",
            "neurons 1, 3, 2",
            "to 0.8, 1.8, 18.0.",
        ],
    ),
    "passing": (
        lambda: layer_importance.passing(STUDY, 3),
        1 + LAYERS + 1,  # at last all lines with the arrows of layer 3: the still
        ["Layer 3 makes position 0 long; the next 8 hardly turn it.", "to 2000"],
    ),
}


@functools.cache
def frames_of(name):
    make, _, _ = ANIMATIONS[name]
    return make()


def pictures(gif):
    """The frames of a GIF as arrays of colours, each with its milliseconds."""
    image = Image.open(io.BytesIO(gif))
    for frame in range(image.n_frames):
        image.seek(frame)
        yield np.asarray(image.convert("RGB")), image.info["duration"]


@pytest.mark.parametrize("name", ANIMATIONS)
def test_an_animation_is_small_moves_and_says_its_reading(name):
    _, count, phrases = ANIMATIONS[name]
    frames = frames_of(name)
    gif, still = animation.gif_and_still(frames)
    assert len(gif) < 300_000
    assert len(still) < 50_000
    images = [image for image, _ in pictures(gif)]
    assert len(images) == len(frames) == count
    assert all((image != following).any() for image, following in itertools.pairwise(images[1:]))
    middle, _ = frames[count // 2]
    last, _ = frames[-1]
    assert overlapping_texts(middle) == overlapping_texts(last) == []
    assert last.alt_text.startswith(last.get_suptitle())
    assert all(phrase in last.alt_text for phrase in phrases), last.alt_text


def coloured(*colours):
    """A frame for each colour: a small bar on a large page."""
    for colour in colours:
        figure, axes = figure_with_axes((3.0, 2.0))
        axes.bar(0, 1, color=colour)
        axes.set(xlim=(-20, 20))
        yield figure.with_alt_text(f"A thin bar in {colour}."), 0.5


def test_it_begins_with_its_end_which_is_the_still_and_stays_longest():
    frames = list(coloured("red", "lime", "blue"))
    gif, still = animation.gif_and_still(frames)
    images, durations = zip(*pictures(gif), strict=True)
    assert durations == (1000 * animation.LAST, 500, 500)
    for image, colour in zip(images, ("blue", "red", "lime"), strict=True):
        assert (image == 255 * np.array(to_rgb(colour))).all(-1).any(), colour
    assert (images[0] == np.asarray(Image.open(io.BytesIO(still)).convert("RGB"))).all()
    assert Image.open(io.BytesIO(gif)).info["loop"] == 0  # for ever


def test_it_is_shown_with_words_and_offers_its_still(monkeypatch):
    displayed = []
    monkeypatch.setattr(animation, "display", lambda data, raw: displayed.append(data))
    frames = list(coloured("red", "blue"))
    animation.play(frames)
    [data] = displayed
    gif, still = (base64.b64encode(part).decode() for part in animation.gif_and_still(frames))
    assert data["image/png"] == still
    assert data["text/plain"] == "A thin bar in blue."
    page = data["text/html"]
    moving, resting = re.findall(r"<img [^>]*>", page)
    assert gif in moving
    assert still in resting
    assert all('alt="A thin bar in blue."' in tag for tag in (moving, resting))
    assert re.search(r"<details><summary>[^<]+</summary><img", page)
    source = r'<picture><source media="\(prefers-reduced-motion: reduce\)" srcset="([^"]*)"'
    assert re.search(source, page)[1].endswith(still)
    assert "<script" not in page


def test_each_animation_is_played_in_a_lesson():
    lessons = "".join(path.read_text("utf-8") for path in NOTEBOOKS.glob("[0-9]*.ipynb"))
    assert [name for name in ANIMATIONS if not re.search(rf"play\((plots\.)?{name}\(", lessons)] == []


# --- what is drawn is what was given ------------------------------------------------------------------------


def test_bars_of_the_toy_are_its_prices_and_energies():
    first, last = (frames_of("leaving")[frame][0].axes[0] for frame in (0, -1))
    assert [bar.get_height() for bar in first.patches] == [0.8, 4, 1, 5, 1, 1, 0, 0]
    without_1 = [16.2, 16.2, 1, 1, 0.8, 0.8]  # prices and energies in turn, then the error
    without_1_and_3 = [16.2, 16.2, 1.8, 1.8]
    empty = [18, 18]
    assert [bar.get_height() for bar in last.patches][8:] == without_1 + without_1_and_3 + empty
    red = [bar.get_height() for bar in last.patches if bar.get_facecolor()[:3] == pytest.approx(to_rgb(RED))]
    assert red == [0.8, 1, 16.2]  # who leaves next


def test_angles_and_lengths_are_those_of_the_layers_passed():
    figure = frames_of("passing")[6][0]  # layers 0 to 5
    _, above, below = figure.axes
    first, median = (line.get_ydata() for line in above.lines)
    cosines = STUDY.cosine[:6, 0].double()
    np.testing.assert_allclose(np.cos(np.radians(first)), cosines[:, 0], atol=1e-5)
    np.testing.assert_allclose(np.cos(np.radians(median)), cosines.sort(1).values[:, 32], atol=1e-5)
    np.testing.assert_allclose(below.lines[0].get_ydata(), STUDY.norms[1:7, 0, 0])
    assert "layer 5" in [text.get_text() for text in figure.axes[0].texts]
