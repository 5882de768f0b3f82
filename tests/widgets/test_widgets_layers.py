"""The layer explorer, driven without a browser."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch
from studies import study_of
from variants import build, tokens

from course.figures.layer_importance import METRICS, plot_layer
from course.layer_importance import layer_study
from course.widgets.explorers import LayerExplorer


def test_it_shows_the_layer_that_is_chosen():
    study = study_of()
    box = LayerExplorer(study)
    for layer, metric, sequence in ((0, "block influence", 0), (3, "loss increase", 1), (1, "greedy, last round", 0)):
        box.layer.value, box.metric.value, box.sequence.value = layer, metric, sequence
        assert f'alt="{plot_layer(study, layer, metric, sequence).alt_text}"' in box.image.value
        assert f"Layer {layer}: block influence {study.influence[layer]:.4f}" in box.facts.value


def test_it_says_how_far_the_proxy_is_off():
    box = LayerExplorer(replace(study_of(), influence=torch.tensor([0.9, 0.05, 0.04, 0.02, 0.01, 0.03])), layer=3)
    assert "(place 2 of 6), loss increase 2.000 nats per token (95%: 1.800 to 2.200; place 5 of 6" in box.facts.value
    assert "puts it 3 places too low" in box.facts.value
    box.layer.value = 5
    assert "puts it 1 place too low" in box.facts.value
    box.layer.value = 1
    assert "puts it 4 places too high" in box.facts.value
    box.layer.value = 0
    assert "the two agree" in box.facts.value


@pytest.mark.parametrize("sequence", [-1, 2])
def test_wrong_input_is_answered_with_a_sentence(sequence):
    box = LayerExplorer(study_of())
    image = box.image.value
    box.sequence.value = sequence
    assert f"expected a sequence from 0 to 1, got {sequence}" in box.facts.value and "Traceback" not in box.facts.value
    assert box.image.value == image, "the last good picture stays"
    box.sequence.value = 1
    assert "expected" not in box.facts.value and box.image.value != image


def test_the_page_does_not_jump_and_nothing_is_drawn_on_the_way():
    box = LayerExplorer(study_of())
    assert box.image.layout.min_height and box.layout.min_height
    assert not box.layer.continuous_update and not box.sequence.continuous_update


def test_no_garbage_is_collected_before_the_answer_and_some_may_be_after(monkeypatch):
    explorer, seen = LayerExplorer(study_of()), []
    answer = explorer.answer
    monkeypatch.setattr(explorer, "answer", lambda: seen.append(gc.isenabled()) or answer())
    explorer.layer.value = 1
    explorer.sequence.value = 99  # which there is not: refused
    assert seen == [False, False] and gc.isenabled()


def test_without_greedy_there_is_no_such_metric():
    assert list(LayerExplorer(study_of()).metric.options) == list(METRICS)
    study = replace(study_of(), rounds=torch.empty(0, 6), order=())
    assert list(LayerExplorer(study).metric.options) == ["block influence", "loss increase"]


def test_from_a_model(tmp_path, monkeypatch):
    monkeypatch.setenv("COMP_LIB_CACHE", str(tmp_path))
    model, ids = build(), tokens()
    box = LayerExplorer(layer_study(model, ids, greedy=1), layer=2)
    monkeypatch.setattr(type(model), "forward", None)  # no call of the model from here on
    box.layer.value = 1
    assert "Layer 1 in sequence 0" in box.image.value
