"""Layer statistics of the notebooks against transformers' own forward pass, and their cache."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from variants import build, tokens

from comp_lib.evaluation.confidence import confidence_interval, confidence_intervals
from comp_lib.reports.checkup import frames
from course import layer_importance as studies
from course.layer_importance import attention_maps, layer_study, rank_gap, ranks, stream_statistics

pytestmark = pytest.mark.usefixtures("own_cache")

LAYERS = 5


@pytest.fixture(scope="module")
def model():
    return build(num_hidden_layers=LAYERS)


def stream_by_hooks(model, ids):
    """The stream (n + 1, S, L, d): what each of transformers' layers reads, and what the last norm reads."""
    states = []
    modules = [*model.model.layers, model.model.norm]
    hooks = [
        module.register_forward_pre_hook(lambda module, args: states.append(args[0])) for module in modules
    ]
    with torch.inference_mode():
        model(ids)
    for hook in hooks:
        hook.remove()
    return torch.stack(states)


def test_the_stream(model):
    ids = tokens()
    statistics = stream_statistics(model, ids)
    stream = stream_by_hooks(model, ids)
    torch.testing.assert_close(statistics["norms"], stream.norm(dim=-1), rtol=1e-4, atol=1e-4)
    cosine = nn.functional.cosine_similarity(stream[:-1], stream[1:], dim=-1)
    torch.testing.assert_close(statistics["cosine"], cosine, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(statistics["influence"], 1 - cosine.mean((1, 2)), rtol=1e-4, atol=1e-5)


def refuse_to_compute(*arguments, **options):
    raise RuntimeError("computed, not found in the cache")


def test_a_study_is_computed_once(model, monkeypatch):
    ids = tokens()
    first = layer_study(model, ids)
    monkeypatch.setattr(frames, "sequence_loss_increase", refuse_to_compute)
    monkeypatch.setattr(studies, "walk", refuse_to_compute)
    second = layer_study(model, ids)
    for name in ("influence", "cosine", "norms", "harm"):
        torch.testing.assert_close(getattr(second, name), getattr(first, name), rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="computed, not found"):  # other tokens are not in the cache
        layer_study(model, ids[:1])


def test_the_interval_over_sequences(model):
    study = layer_study(model, tokens(8))
    torch.testing.assert_close(study.mean_harm, study.harm.mean(1))
    intervals = [confidence_interval(harm_of_layer.tolist()) for harm_of_layer in study.harm]
    torch.testing.assert_close(study.harm_interval, torch.tensor(intervals, dtype=torch.float64))
    assert layer_study(model, tokens(1)).harm_interval.isnan().all()
    assert confidence_intervals(torch.ones(3, 8).numpy()) == pytest.approx(torch.ones(3, 2).numpy())


def test_each_position_spreads_its_attention_over_what_it_sees(model):
    ids = tokens(2)
    usual = model.config._attn_implementation
    with torch.no_grad():
        maps = attention_maps(model, ids)
    length = ids.shape[1]
    assert maps.shape == (LAYERS, 2, length, length)
    torch.testing.assert_close(maps.sum(-1), torch.ones(LAYERS, 2, length))
    assert maps.triu(1).abs().max() == 0  # later positions are not seen
    assert model.config._attn_implementation == usual


def test_ranks_and_gaps():
    proxy = torch.tensor([0.3, 0.1, 0.2, 0.9])
    harm = torch.tensor([0.0, 5.0, 1.0, 2.0])
    assert ranks(proxy).tolist() == [2, 0, 1, 3]
    assert ranks(harm).tolist() == [0, 3, 1, 2]
    assert rank_gap(proxy, harm).tolist() == [-2, 3, 0, -1]
