"""Figures of layer importance: what they draw is what they were given, and their words say it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from studies import study_of

from comp_lib.errors import InputError
from comp_lib.plots.base import COLOURS, overlapping_texts, png
from course.figures.layer_importance import (
    METRICS,
    plot_greedy,
    plot_layer,
    plot_layer_importance,
    plot_norms,
    plot_proxy,
    plot_skipping,
    plot_sublayers,
    plot_turns,
    values_of,
)

RED = COLOURS[3]


def heights(axis):
    return [patch.get_height() for patch in axis.patches]


def red(axis):
    return [i for i, patch in enumerate(axis.patches) if patch.get_facecolor()[:3] == pytest.approx(RED)]


def all_axes_are_named(figure):
    return all(axis.get_ylabel() for axis in figure.axes) and figure.axes[-1].get_xlabel()


def test_the_two_importances():
    study = study_of()
    figure = plot_layer_importance(study, 2)
    top, bottom = figure.axes
    assert heights(top) == pytest.approx(study.influence.tolist())
    assert heights(bottom) == pytest.approx(study.mean_harm.tolist())
    assert red(top) == sorted(study.influence.argsort()[:2].tolist()) and red(bottom) == [1, 4]
    whiskers = bottom.collections[0].get_segments()
    assert [ends[:, 1].tolist() for ends in whiskers] == [pytest.approx(row) for row in study.harm_interval.tolist()]
    assert "By loss increase, the 2 that go first are 1 and 4." in figure.alt_text
    assert all_axes_are_named(figure) and "nats per token" in bottom.get_ylabel()
    assert overlapping_texts(figure) == []


def test_a_bent_scale_says_so():
    study = study_of()
    harm = study.harm.clone()
    harm[0] *= 10
    for figure in (plot_layer_importance(replace(study, harm=harm), 1), plot_proxy(replace(study, harm=harm), 0.1, 0)):
        bent = [axes.get_ylabel() for axes in figure.axes if axes.get_yscale() == "symlog"]
        assert any(label.startswith("loss increase") and label.endswith("log scale above 0.3") for label in bent)
    straight = plot_layer_importance(replace(study, harm=study.harm.clamp(max=1.0)), 1).axes[1]
    assert straight.get_yscale() == "linear" and "log" not in straight.get_ylabel()


def test_greedy():
    study = study_of()
    figure = plot_greedy(study)
    [axes] = figure.axes
    assert heights(axes) == pytest.approx(study.rounds[-1].nan_to_num(0.0).tolist())
    assert [text.get_text() for text in axes.texts] == ["1.", "2."] and red(axes) == [1, 4]
    assert axes.collections[0].get_offsets().data[:, 1] == pytest.approx(study.mean_harm.numpy())
    assert "drops 1 and 4, in this order" in figure.alt_text and figure.alt_text.endswith("last of them goes: 5.")
    assert plot_greedy(replace(study, rounds=study.rounds / 2)).alt_text.endswith("goes: none.")
    assert all_axes_are_named(figure) and overlapping_texts(figure) == []
    with pytest.raises(InputError, match="expected at least 1 greedy round"):
        plot_greedy(replace(study, rounds=torch.empty(0, 6), order=()))


def test_layers_and_their_halves():
    study = study_of()
    figure = plot_sublayers(study, torch.stack([0.25 * study.harm, 0.5 * study.harm], 1))
    [axes] = figure.axes
    whole, attention, mlp = (heights(axes)[part : part + 6] for part in (0, 6, 12))
    assert whole == pytest.approx(study.mean_harm.tolist())
    assert attention == pytest.approx([height / 4 for height in whole])
    assert mlp == pytest.approx([height / 2 for height in whole])
    assert "attention only 0.088 in the median, 1.75 in layer 0; MLP only" in figure.alt_text
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["layer", "attention only", "MLP only"]
    assert overlapping_texts(figure) == []


def test_skipping_is_drawn():
    figure = plot_skipping()
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert "skipped: adds nothing" in words and "20°" in words and "11°" in words
    assert overlapping_texts(figure) == [] and "turns it by a smaller angle" in figure.alt_text


def test_the_proxy_and_the_harm():
    study = study_of()
    influence = torch.tensor([0.9, 0.05, 0.04, 0.02, 0.01, 0.03])  # layer 3 has place 2, and place 5 by harm
    figure = plot_proxy(replace(study, influence=influence), 0.5, 3)
    values, places = figure.axes
    points = torch.stack([influence, study.mean_harm], dim=1)
    assert values.collections[0].get_offsets().data == pytest.approx(points.numpy())
    assert places.collections[0].get_offsets().data.tolist() == [[6, 6], [5, 1], [4, 3], [2, 5], [1, 2], [3, 4]]
    assert places.collections[1].get_offsets().data.tolist() == [[2, 5]]
    assert "Layer 3 is marked: place 2 by block influence, place 5 by loss increase, 2.00" in figure.alt_text
    assert "Spearman 0.50" in places.get_title() and all_axes_are_named(figure)
    assert overlapping_texts(figure) == []


def test_a_layer_that_helps_by_going_can_be_drawn():
    study = study_of()
    harm = study.harm.clone()
    harm[2] = -0.2
    changed = replace(study, harm=harm)
    for figure in (plot_proxy(changed, 0.1, 2), plot_layer_importance(changed, 2), plot_greedy(changed)):
        png(figure)
    low, _ = plot_proxy(changed, 0.1, 2).axes[0].get_ylim()
    assert low < -0.2


def test_turns():
    study = study_of()
    figure = plot_turns(study, 1, layer=3)
    shown = figure.axes[0].images[0].get_array().data
    assert shown == pytest.approx((1 - study.cosine[:, 1]).clamp(min=1e-5).numpy())
    assert "stands out most in layer 3" in figure.alt_text and "less than the median token in" in figure.alt_text
    assert figure.axes[0].get_xlabel() == "position in the sequence (tokens)"
    png(figure)


def test_norms():
    figure = plot_norms(study_of(), writer=3, position=0, sequence=1)
    assert figure.axes[0].get_title() == "Layer 3 writes a massive activation at position 0 (sequence 1)"
    assert figure.axes[0].get_yscale() == "log"
    assert "grows from 5 to 2000 in layer 3" in figure.alt_text
    png(figure)


@pytest.mark.parametrize("metric", METRICS)
def test_a_layer(metric):
    study = study_of()
    figure = plot_layer(study, 3, metric, sequence=1)
    left, right = figure.axes
    assert left.lines[0].get_ydata() == pytest.approx(study.cosine[3, 1].numpy())
    assert heights(right) == pytest.approx(values_of(study, metric).nan_to_num(0.0).tolist()) and red(right) == [3]
    assert "lowest 0.050 at position 0" in figure.alt_text and "2.00 nats per token" in figure.alt_text
    place = {"block influence": "place 5 of 6", "loss increase": "place 5 of 6", "greedy, last round": "place 4 of 5"}
    assert place[metric] in figure.alt_text and place[metric] in right.get_title()


def test_a_layer_that_is_gone():
    assert "By greedy, last round: gone in round 1" in plot_layer(study_of(), 1, "greedy, last round").alt_text


def test_bad_input():
    study = study_of()
    with pytest.raises(InputError, match="expected a layer from 0 to 5, got 6"):
        plot_layer(study, 6)
    with pytest.raises(InputError, match="layer metric.*'los increase'.*did you mean 'loss increase'"):
        plot_layer(study, 0, "los increase")
    for draw in (plot_turns, lambda study, sequence: plot_norms(study, 3, 0, sequence)):
        with pytest.raises(InputError, match="expected a sequence from 0 to 1, got 2"):
            draw(study, 2)
    with pytest.raises(InputError, match="expected a sequence from 0 to 1, got 2"):
        plot_layer(study, 0, sequence=2)
    with pytest.raises(InputError, match="expected at least 1 greedy round"):
        values_of(replace(study, rounds=torch.empty(0, 6), order=()), "greedy, last round")
