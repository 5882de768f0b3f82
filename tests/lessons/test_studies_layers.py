"""Layer statistics of the notebooks against transformers' own forward pass, and their cache."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from variants import build, tokens

from comp_lib.analysis import frames
from comp_lib.evaluation.confidence import confidence_interval, confidence_intervals
from course import layer_importance as studies
from course.layer_importance import layer_study, rank_gap, ranks, stream_statistics

pytestmark = pytest.mark.usefixtures("own_cache")

LAYERS = 5


@pytest.fixture(scope="module")
def model():
    return build(num_hidden_layers=LAYERS)


def states(model, ids):
    """The stream (n + 1, S, L, d) by hooks on transformers' layers."""
    seen = []
    hooks = [
        layer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        for layer in model.model.layers
    ]
    hooks.append(model.model.norm.register_forward_pre_hook(lambda module, args: seen.append(args[0])))
    with torch.inference_mode():
        model(ids)
    for hook in hooks:
        hook.remove()
    return torch.stack(seen)


def test_the_stream(model):
    ids = tokens()
    found, stream = stream_statistics(model, ids), states(model, ids)
    torch.testing.assert_close(found["norms"], stream.norm(dim=-1), rtol=1e-4, atol=1e-4)
    want = nn.functional.cosine_similarity(stream[:-1], stream[1:], dim=-1)
    torch.testing.assert_close(found["cosine"], want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["influence"], 1 - want.mean((1, 2)), rtol=1e-4, atol=1e-5)


def test_a_study_is_computed_once(model, monkeypatch):
    ids = tokens()
    first = layer_study(model, ids)
    monkeypatch.setattr(frames, "sequence_loss_increase", None)  # calling it again would fail
    monkeypatch.setattr(studies, "through", None)
    again = layer_study(model, ids)
    for name in ("influence", "cosine", "norms", "harm"):
        torch.testing.assert_close(getattr(again, name), getattr(first, name), rtol=0, atol=0)
    with pytest.raises(TypeError):
        layer_study(model, ids[:1])


def test_the_interval_over_sequences(model):
    study = layer_study(model, tokens(8))
    torch.testing.assert_close(study.mean_harm, study.harm.mean(1))
    want = torch.tensor([confidence_interval(row.tolist()) for row in study.harm], dtype=torch.float64)
    torch.testing.assert_close(study.harm_interval, want)
    assert layer_study(model, tokens(1)).harm_interval.isnan().all()
    assert confidence_intervals(torch.ones(3, 8).numpy()) == pytest.approx(torch.ones(3, 2).numpy())


def test_ranks_and_gaps():
    proxy, harm = torch.tensor([0.3, 0.1, 0.2, 0.9]), torch.tensor([0.0, 5.0, 1.0, 2.0])
    assert ranks(proxy).tolist() == [2, 0, 1, 3] and ranks(harm).tolist() == [0, 3, 1, 2]
    assert rank_gap(proxy, harm).tolist() == [-2, 3, 0, -1]
