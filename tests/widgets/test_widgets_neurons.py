"""The neuron explorer, driven without a browser."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from comp_lib.analysis import Sample, curves, neurons
from course.widgets import explorers as widget


def frames(model, layers=None, tokens=(4, 24)):
    ids = torch.randint(512, tokens, generator=torch.Generator().manual_seed(2))
    sample = Sample(ids, ("prose",) * len(ids))
    return neurons(model, sample, layers), curves(model, sample, layers)


@pytest.fixture
def explorer(tiny_llama, own_cache):
    return widget.NeuronExplorer(*frames(tiny_llama()), layer=1)


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
    neuron = explorer._neurons[2].cost.to_numpy().argsort(kind="stable")[6]
    assert f"Neuron {neuron}:" in explorer.facts.value and f"Neuron {neuron} has energy" in explorer.image.value
    assert "number 7 of 48 from the cheapest" in explorer.facts.value


def test_what_goes_is_what_the_metric_likes_least(explorer):
    found = explorer._neurons[1]
    for metric, worth in (
        ("energy", widget.energies(found)),
        ("condition alone", 1 / found.condition),
        ("full-condition, one look", found.cost),
        ("wanda-sp", found.wanda_sp),
        ("activation", found.activation),
        ("magnitude", found.magnitude),
    ):
        explorer.metric.value = metric
        gone = explorer.removed()
        assert gone.sum() == 10 and worth[gone].max() < worth[~gone].min(), metric
    explorer.metric.value = widget.IN_ROUNDS
    places = found.removed_at[explorer.removed()] * len(found)
    assert sorted(places.round().astype(int)) == list(range(1, 11))


def test_no_metric_is_followed_further_than_the_sweep(explorer):
    explorer.share.value = explorer.share.max
    swept = int(explorer._neurons[1].removed_at.notna().sum())
    for metric in (widget.IN_ROUNDS, widget.ONE_LOOK, "energy"):
        explorer.metric.value = metric
        assert explorer.removed().sum() == swept <= 0.6 * 48


def test_a_neuron_that_writes_nothing_has_its_point(tiny_llama, own_cache):
    model = tiny_llama()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[:, 3] = 0.0
    drawn = widget.NeuronExplorer(*frames(model), layer=1)
    assert "Scatter" in drawn.image.value and not np.isnan(drawn.removed()).any()


def test_it_says_whether_energy_and_cost_agree_on_the_neuron(explorer):
    """What the task of the lesson asks for: a neuron that goes by energy and stays by its cost."""
    found = explorer._neurons[1]
    energy = widget.energies(found)
    found["condition"] = np.linspace(1.0, 4.0, 48)  # a random model's are all alike
    found["cost"] = energy / found.condition**2
    by_energy, by_cost = (explorer.removed(name) for name in ("energy", widget.ONE_LOOK))
    assert (by_energy & ~by_cost).any(), "the task has an answer"
    for place, neuron in list(enumerate(found.cost.to_numpy().argsort(kind="stable"), 1))[::5]:
        explorer.place.value = place
        words = ["goes" if gone[neuron] else "stays" for gone in (by_energy, by_cost)]
        assert f"it {words[0]} by energy and {words[1]} by full-condition, one look." in explorer.facts.value


def test_some_layers_keep_their_numbers(tiny_llama, own_cache):
    explorer = widget.NeuronExplorer(*frames(tiny_llama(), (0, 2)))
    explorer.layer.value = 2
    assert "Layer 2: 10 of 48" in explorer.image.value
    assert explorer.image.value == widget.NeuronExplorer(*frames(tiny_llama()), layer=2).image.value


def test_a_narrow_layer_has_fewer_points(tiny_llama, own_cache):
    from comp_lib.surgery import shrink_mlp

    model = tiny_llama()
    shrink_mlp(model.model.layers[1], torch.arange(20))
    explorer = widget.NeuronExplorer(*frames(model))
    explorer.place.value = 48
    explorer.layer.value = 1
    assert "of 20 neurons" in explorer.image.value
    assert explorer.place.value == explorer.place.max == 20 and "number 20 of 20" in explorer.facts.value
