"""The neuron explorer, driven without a browser."""

from __future__ import annotations

import pytest
import torch

from comp_lib.lessons.dense_stream import survey
from comp_lib.widgets import explorers as widget


@pytest.fixture
def explorer(tiny_llama, tmp_path, monkeypatch):
    monkeypatch.setenv("COMP_LIB_CACHE", str(tmp_path))
    ids = torch.randint(512, (4, 24), generator=torch.Generator().manual_seed(2))
    return widget.neuron_explorer(tiny_llama(), ids, layer=1)


def test_it_opens_with_a_figure_that_has_words(explorer):
    assert 'alt="Layer 1: 10 of 48 neurons go by full-condition, in rounds. Scatter' in explorer.image.value
    assert "leave an error of" in explorer.facts.value
    assert not any(control.continuous_update for control in (explorer.layer, explorer.share, explorer.neuron))
    assert explorer.layout.min_height and explorer.image.layout.min_height


def test_every_control_draws_anew(explorer):
    seen = {explorer.image.value}
    explorer.layer.value = 2
    seen.add(explorer.image.value)
    explorer.share.value = 40
    seen.add(explorer.image.value)
    for metric in widget.CHOICES[1:]:
        explorer.metric.value = metric
        seen.add(explorer.image.value)
        assert explorer.removed().sum() == 19
    assert len(seen) == 3 + len(widget.CHOICES) - 1
    explorer.neuron.value = 7
    assert "Neuron 7:" in explorer.facts.value and "Neuron 7 has energy" in explorer.image.value


def test_what_goes_is_what_the_metric_likes_least(explorer):
    found = {name: values[1] for name, values in explorer._survey.items() if name in ("energy", "condition", "order")}
    explorer.metric.value = "energy"
    gone = explorer.removed()
    assert found["energy"][gone].max() < found["energy"][~gone].min()
    explorer.metric.value = "condition alone"
    gone = explorer.removed()
    assert found["condition"][gone].min() > found["condition"][~gone].max()
    explorer.metric.value = "full-condition, one look"
    gone = explorer.removed()
    cost = found["energy"] / found["condition"] ** 2
    assert cost[gone].max() < cost[~gone].min()
    explorer.metric.value = widget.IN_ROUNDS
    assert sorted(found["order"][explorer.removed()]) == list(range(1, 11))


def test_a_neuron_that_is_not_there_is_answered_by_a_sentence(explorer):
    before = explorer.image.value
    explorer.neuron.value = 48
    assert "expected a neuron from 0 to 47, got 48: choose one, or -1" in explorer.facts.value
    assert "Traceback" not in explorer.facts.value and explorer.image.value == before
    explorer.neuron.value = widget.NOBODY
    assert "expected" not in explorer.facts.value


def test_a_narrow_layer_has_fewer_points(tiny_llama, tmp_path, monkeypatch):
    from comp_lib.surgery import shrink_mlp

    monkeypatch.setenv("COMP_LIB_CACHE", str(tmp_path))
    model = tiny_llama()
    shrink_mlp(model.model.layers[1], torch.arange(20))
    found = survey(model, torch.randint(512, (4, 24)), block_rounds=4)
    explorer = widget.NeuronExplorer(found, layer=1)
    assert "of 20 neurons" in explorer.image.value
    explorer.neuron.value = 30
    assert "from 0 to 19" in explorer.facts.value
