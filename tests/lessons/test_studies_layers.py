"""Layer statistics of the notebooks against transformers' own forward pass, and their cache."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from variants import build, tokens

from comp_lib.analysis import harm as harms
from comp_lib.analysis.columns import Sample
from comp_lib.errors import InputError
from comp_lib.evaluation.confidence import confidence_interval, confidence_intervals
from comp_lib.importance.layers import layers_to_drop
from course import layer_importance as studies
from course.layer_importance import layer_study, rank_gap, ranks, step_harm, stream_statistics

pytestmark = pytest.mark.usefixtures("own_cache")

LAYERS = 5


@pytest.fixture(scope="module")
def model():
    return build(num_hidden_layers=LAYERS)


def states(model, ids):
    """The stream (n + 1, S, L, d) by hooks on transformers' layers."""
    seen = []
    hooks = [layer.register_forward_pre_hook(lambda module, args: seen.append(args[0])) for layer in model.model.layers]
    hooks.append(model.model.norm.register_forward_pre_hook(lambda module, args: seen.append(args[0])))
    with torch.inference_mode():
        model(ids)
    for hook in hooks:
        hook.remove()
    return torch.stack(seen)


@torch.inference_mode()
def loss_of(model, ids) -> float:
    return float(model(ids, labels=ids, use_cache=False).loss)


def loss_if(model, ids, layer, part=None) -> float:
    """The loss with one layer skipped, or with one part of it saying nothing: by a hook on transformers' module."""
    module = model.model.layers[layer]

    def skip(module, args, out):
        return args[0]

    def silence(module, args, out):
        return (torch.zeros_like(out[0]), *out[1:]) if isinstance(out, tuple) else torch.zeros_like(out)

    hook = getattr(module, part).register_forward_hook(silence) if part else module.register_forward_hook(skip)
    try:
        return loss_of(model, ids)
    finally:
        hook.remove()


def test_the_stream(model):
    ids = tokens()
    found, stream = stream_statistics(model, ids), states(model, ids)
    torch.testing.assert_close(found["norms"], stream.norm(dim=-1), rtol=1e-4, atol=1e-4)
    want = nn.functional.cosine_similarity(stream[:-1], stream[1:], dim=-1)
    torch.testing.assert_close(found["cosine"], want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["influence"], 1 - want.mean((1, 2)), rtol=1e-4, atol=1e-5)


def sample(seed=0):
    ids = tokens(seed=seed)
    return Sample(ids, ("prose",) * len(ids))


@pytest.mark.parametrize(("which", "part"), [("attention", "self_attn"), ("mlp", "mlp")])
def test_the_harm_of_a_step_is_that_of_a_module_that_says_nothing(model, which, part):
    found, ids = step_harm(model, sample(), which), tokens()
    want = torch.tensor([loss_if(model, ids, layer, part) - loss_of(model, ids) for layer in range(LAYERS)])
    torch.testing.assert_close(found.mean(1), want, rtol=1e-4, atol=1e-4)
    assert float(want.abs().max()) > 0.01


@pytest.mark.parametrize("seed", range(3))
def test_greedy_rounds_are_those_of_the_library(seed):
    model, ids = build(num_hidden_layers=LAYERS, seed=seed), tokens(seed=seed)
    study = layer_study(model, ids, greedy=3)
    rounds, order = study.rounds, study.order
    assert list(order) == layers_to_drop("greedy", model, ids, 3)[0]
    for gone, harm in enumerate(rounds):
        assert harm.isnan().nonzero().flatten().tolist() == sorted(order[:gone])
        assert int(harm.nan_to_num(nan=9e9).argmin()) == order[gone]
    assert layer_study(model, ids, greedy=0).rounds.shape == (0, LAYERS)


def test_a_study_is_computed_once(model, monkeypatch):
    ids = tokens()
    first = layer_study(model, ids, greedy=2)
    monkeypatch.setattr(harms, "sequence_loss_increase", None)  # calling it again would fail
    monkeypatch.setattr(studies, "through", None)
    again = layer_study(model, ids, greedy=2)
    assert again.order == first.order and len(first.order) == 2
    for name in ("influence", "cosine", "norms", "harm", "rounds"):
        torch.testing.assert_close(getattr(again, name), getattr(first, name), rtol=0, atol=0, equal_nan=True)
    assert layer_study(model, ids, greedy=1).order == first.order[:1], "fewer rounds are there too"
    with pytest.raises(TypeError):
        layer_study(model, ids[:1], greedy=1)


def test_the_interval_over_sequences(model):
    study = layer_study(model, tokens(8), greedy=1)
    torch.testing.assert_close(study.mean_harm, study.harm.mean(1))
    want = torch.tensor([confidence_interval(row.tolist()) for row in study.harm], dtype=torch.float64)
    torch.testing.assert_close(study.harm_interval, want)
    assert layer_study(model, tokens(1), greedy=1).harm_interval.isnan().all()
    assert confidence_intervals(torch.ones(3, 8).numpy()) == pytest.approx(torch.ones(3, 2).numpy())


def test_ranks_and_gaps():
    proxy, harm = torch.tensor([0.3, 0.1, 0.2, 0.9]), torch.tensor([0.0, 5.0, 1.0, 2.0])
    assert ranks(proxy).tolist() == [2, 0, 1, 3] and ranks(harm).tolist() == [0, 3, 1, 2]
    assert rank_gap(proxy, harm).tolist() == [-2, 3, 0, -1]


def test_bad_input(model):
    with pytest.raises(InputError, match=f"expected 0 to {LAYERS - 1} layers to remove, got {LAYERS}"):
        layer_study(model, tokens(), LAYERS)
