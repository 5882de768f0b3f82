"""Layer statistics of the notebooks against transformers' own forward pass, and their cache."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from variants import build, tokens

from comp_lib.errors import InputError
from comp_lib.importance.layer_study import flat_cosine, hidden_harm, massive, rank_gap, ranks
from comp_lib.importance.layers import layers_to_drop, loss_increase
from comp_lib.lessons import layer_importance as studies
from comp_lib.lessons.layer_importance import (
    greedy_rounds,
    harm_at_position,
    harm_by_sequence,
    layer_study,
    loss_without,
    stream_statistics,
    without_layers,
)

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


def test_the_stream(model):
    ids = tokens()
    found, stream = stream_statistics(model, ids), states(model, ids)
    torch.testing.assert_close(found["norms"], stream.norm(dim=-1), rtol=1e-4, atol=1e-4)
    want = nn.functional.cosine_similarity(stream[:-1], stream[1:], dim=-1)
    torch.testing.assert_close(found["cosine"], want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["influence"], 1 - want.mean((1, 2)), rtol=1e-4, atol=1e-5)
    flat = [nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0) for a, b in itertools.pairwise(stream)]
    got = flat_cosine(found["cosine"], found["norms"])
    torch.testing.assert_close(got.float(), torch.stack(flat), rtol=1e-4, atol=1e-5)


def test_harm_by_sequence(model):
    ids = tokens()
    harm = harm_by_sequence(model, ids)
    assert harm.shape == (LAYERS, 4)
    for layer, sequence in ((0, 0), (2, 3), (4, 1)):
        row = ids[sequence][None]
        want = loss_of(without_layers(model, [layer]), row) - loss_of(model, row)
        assert float(harm[layer, sequence]) == pytest.approx(want, abs=1e-4)
    torch.testing.assert_close(harm.mean(1), loss_increase(model, ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_greedy_rounds_are_those_of_the_library(seed):
    model, ids = build(num_hidden_layers=LAYERS, seed=seed), tokens(seed=seed)
    rounds, order = greedy_rounds(model, ids, 3)
    assert list(order) == layers_to_drop("greedy", model, ids, 3)[0]
    for gone, harm in enumerate(rounds):
        assert harm.isnan().nonzero().flatten().tolist() == sorted(order[:gone])
        assert int(harm.nan_to_num(nan=9e9).argmin()) == order[gone]
    assert greedy_rounds(model, ids, 0)[0].shape == (0, LAYERS)


def test_a_study_is_computed_once(model, monkeypatch):
    ids = tokens()
    first = layer_study(model, ids, greedy=2)
    monkeypatch.setattr(studies, "sequence_loss_increase", None)  # calling it again would fail
    monkeypatch.setattr(studies, "through", None)
    again = layer_study(model, ids, greedy=2)
    assert again.order == first.order and len(first.order) == 2
    for name in ("influence", "cosine", "norms", "harm", "rounds"):
        torch.testing.assert_close(getattr(again, name), getattr(first, name), rtol=0, atol=0, equal_nan=True)
    assert layer_study(model, ids, greedy=1).order == first.order[:1], "fewer rounds are there too"
    with pytest.raises(TypeError):
        layer_study(model, ids[:1], greedy=1)


def test_the_spread_over_sequences(model):
    study = layer_study(model, tokens(), greedy=1)
    torch.testing.assert_close(study.mean_harm, study.harm.mean(1))
    want = torch.tensor([torch.std(row) / 2 for row in study.harm])
    torch.testing.assert_close(study.harm_error, want)
    assert layer_study(model, tokens(1), greedy=1).harm_error.tolist() == [0.0] * LAYERS


def test_without_layers_leaves_the_model_alone(model):
    ids = tokens()
    before = loss_of(model, ids)
    small = without_layers(model, [1, 3])
    assert len(small.model.layers) == small.config.num_hidden_layers == LAYERS - 2
    assert len(model.model.layers) == model.config.num_hidden_layers == LAYERS
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == list(range(LAYERS))
    assert small.model.layers[1].mlp.up_proj.weight is model.model.layers[2].mlp.up_proj.weight
    assert loss_of(model, ids) == before == pytest.approx(loss_without(model, ids), abs=1e-5)
    assert loss_without(model, ids, (3, 1)) == pytest.approx(loss_of(small, ids), abs=1e-5)


@pytest.mark.parametrize("position", [0, 7])
def test_harm_at_a_position(model, position):
    """By a hook that lets only some tokens pass the layer."""
    ids, layer = tokens(), 2
    there = torch.arange(ids.shape[1])[:, None] == position

    def loss_if(skipped):
        hook = model.model.layers[layer].register_forward_hook(
            lambda module, args, out: torch.where(skipped, args[0], out)
        )
        try:
            return loss_of(model, ids)
        finally:
            hook.remove()

    whole = loss_of(model, ids)
    found = harm_at_position(model, ids, layer, position)
    assert found == pytest.approx((loss_if(there) - whole, loss_if(~there) - whole), abs=1e-4)


def test_ranks_and_gaps():
    proxy, harm = torch.tensor([0.3, 0.1, 0.2, 0.9]), torch.tensor([0.0, 5.0, 1.0, 2.0])
    assert ranks(proxy).tolist() == [2, 0, 1, 3] and ranks(harm).tolist() == [0, 3, 1, 2]
    assert rank_gap(proxy, harm).tolist() == [-2, 3, 0, -1]
    # sorted harm 0, 1, 2, 5: what a layer at places 2, 0, 1, 3 should cost
    assert hidden_harm(proxy, harm).tolist() == [-2.0, 5.0, 0.0, -3.0]
    assert hidden_harm(harm.exp(), harm).tolist() == [0.0] * 4


def test_massive():
    norms = torch.tensor([1.0, 2.0, 4.0, 8.0])[:, None, None] * torch.linspace(1.0, 1.2, 9).expand(4, 2, 9)
    norms[2:, 1, 5] = 500.0
    layer, sequence, position, factor = massive(norms)
    assert (layer, sequence, position) == (1, 1, 5)
    assert factor == pytest.approx(500.0 / float(norms[2, 1].median()))


def test_bad_input(model):
    with pytest.raises(InputError, match=f"expected 0 to {LAYERS - 1} layers to remove, got {LAYERS}"):
        greedy_rounds(model, tokens(), LAYERS)
    for gone in ([LAYERS], [-1], range(LAYERS)):
        with pytest.raises(InputError, match="expected some of the layers 0 to 4, not all"):
            without_layers(model, gone)
    with pytest.raises(InputError, match=r"layers \+ 1, sequences, length\), got \(3, 4\)"):
        massive(torch.ones(3, 4))
