"""The neuron explorer, driven without a browser."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from comp_lib.lessons.dense_stream import survey
from comp_lib.widgets import explorers as widget


@pytest.fixture
def explorer(tiny_llama, tmp_path, monkeypatch):
    monkeypatch.setenv("COMP_LIB_CACHE", str(tmp_path))
    ids = torch.randint(512, (4, 24), generator=torch.Generator().manual_seed(2))
    return widget.NeuronExplorer(survey(tiny_llama(), ids), layer=1)


def test_it_opens_with_a_figure_that_has_words(explorer):
    assert 'alt="Layer 1: 10 of 48 neurons go by full-condition, in rounds. Scatter' in explorer.image.value
    assert "leave an error of" in explorer.facts.value
    assert not any(control.continuous_update for control in (explorer.layer, explorer.share, explorer.place))
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
    explorer.metric.value = "energy"
    explorer.place.value = 7
    energy, condition = (explorer._survey[name][2] for name in ("energy", "condition"))
    neuron = (energy / condition**2).argsort()[6]
    assert f"Neuron {neuron}:" in explorer.facts.value and f"Neuron {neuron} has energy" in explorer.image.value
    assert "number 7 of 48 from the cheapest" in explorer.facts.value


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


def test_it_says_whether_energy_and_cost_agree_on_the_neuron(explorer):
    """What the task of the lesson asks for: a neuron that goes by energy and stays by its cost."""
    explorer._survey["condition"][1] = np.linspace(1.0, 4.0, 48)  # a random model's are all alike
    by_energy, by_cost = (explorer.removed(name) for name in ("energy", widget.ONE_LOOK))
    assert (by_energy & ~by_cost).any(), "the task has an answer"
    energy, condition = (explorer._survey[name][1] for name in ("energy", "condition"))
    for place, neuron in list(enumerate((energy / condition**2).argsort(kind="stable"), 1))[::5]:
        explorer.place.value = place
        words = ["goes" if gone[neuron] else "stays" for gone in (by_energy, by_cost)]
        assert f"it {words[0]} by energy and {words[1]} by full-condition, one look." in explorer.facts.value


def test_some_layers_keep_their_numbers(tiny_llama, tmp_path, monkeypatch):
    monkeypatch.setenv("COMP_LIB_CACHE", str(tmp_path))
    model, ids = tiny_llama(), torch.randint(512, (4, 24), generator=torch.Generator().manual_seed(2))
    some, every = survey(model, ids, every=2), survey(model, ids)
    explorer = widget.NeuronExplorer(some, layers=range(0, 3, 2))
    explorer.layer.value = 2
    assert "Layer 2: 10 of 48" in explorer.image.value
    assert explorer.image.value == widget.NeuronExplorer(every, layer=2).image.value


def test_a_narrow_layer_has_fewer_points(tiny_llama, tmp_path, monkeypatch):
    from comp_lib.surgery import shrink_mlp

    monkeypatch.setenv("COMP_LIB_CACHE", str(tmp_path))
    model = tiny_llama()
    shrink_mlp(model.model.layers[1], torch.arange(20))
    found = survey(model, torch.randint(512, (4, 24)), block_rounds=4)
    explorer = widget.NeuronExplorer(found, layer=0)
    explorer.place.value = 48
    explorer.layer.value = 1
    assert "of 20 neurons" in explorer.image.value
    assert explorer.place.value == explorer.place.max == 20 and "number 20 of 20" in explorer.facts.value
