"""Layer importance against models from which the modules were really removed."""

from __future__ import annotations

import copy
import weakref

import pytest
import torch
from tools import without
from torch import nn
from variants import build, tokens

from comp_lib.decoder.decoder import copy_layer
from comp_lib.importance.layers import LAYER_METRICS, block_influence, layers_to_drop, sequence_loss_increase
from comp_lib.importance.names import LAYER_METRIC_NAMES

NAMES = ["gqa", "all-at-once", "eager", "mistral-window", "qwen2"]
LAYERS = 5


def model_of(name="gqa"):
    return build(name, num_hidden_layers=LAYERS)


@torch.inference_mode()
def loss_of(model, layers, ids) -> float:
    """Calibration loss with only these layers, by transformers."""
    small = copy.copy(model)
    small._modules = dict(model._modules)
    small.model = copy.copy(model.model)
    small.model._modules = dict(model.model._modules)
    small.model.layers = nn.ModuleList([model.model.layers[index] for index in layers])
    small.model.config = copy.copy(model.config)
    small.model.config.num_hidden_layers = len(layers)
    return float(small(ids, labels=ids, use_cache=False).loss)


def test_brute_force_itself_leaves_the_model_alone():
    model = model_of()
    ids = tokens()
    dense_loss = loss_of(model, range(LAYERS), ids)
    assert loss_of(model, [0], ids) != dense_loss
    assert loss_of(model, range(LAYERS), ids) == dense_loss == float(model(ids, labels=ids).loss.detach())


@pytest.mark.parametrize("name", NAMES)
def test_block_influence_is_one_minus_the_mean_cosine(name):
    model = model_of(name)
    ids = tokens(5)
    streams = []
    hooks = [
        layer.register_forward_hook(lambda module, args, out: streams.append((args[0], out)))
        for layer in model.model.layers
    ]
    with torch.inference_mode():
        model(ids)
    for hook in hooks:
        hook.remove()
    expected = [
        1.0 - float(nn.functional.cosine_similarity(before.double(), after.double(), dim=-1).mean())
        for before, after in streams
    ]
    torch.testing.assert_close(block_influence(model, ids), torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_block_influence_of_a_layer_that_does_nothing_is_zero():
    model = model_of()
    for linear in (model.model.layers[2].mlp.down_proj, model.model.layers[2].self_attn.o_proj):
        nn.init.zeros_(linear.weight)
    influence = block_influence(model, tokens())
    assert float(influence[2]) == pytest.approx(0.0, abs=1e-6)
    assert int(influence.argmin()) == 2
    assert float(influence[1]) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_loss_increase_is_that_of_a_model_without_the_layer(name):
    model = model_of(name)
    ids = tokens()
    dense_loss = loss_of(model, range(LAYERS), ids)
    expected = torch.tensor(
        [loss_of(model, without(LAYERS, index), ids) - dense_loss for index in range(LAYERS)]
    )
    torch.testing.assert_close(sequence_loss_increase(model, ids).mean(1), expected, rtol=1e-4, atol=1e-4)
    assert float(expected.abs().max()) > 0.01, "the layers must matter, or the test shows nothing"


def test_layers_that_kept_their_old_numbers():
    model = model_of()
    ids = tokens()
    del model.model.layers[1]
    model.config.num_hidden_layers = LAYERS - 1
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, *range(2, LAYERS)]
    assert bool(sequence_loss_increase(model, ids).isfinite().all())


def test_the_names_without_torch_are_those_of_the_metrics():
    assert LAYER_METRIC_NAMES == tuple(LAYER_METRICS)


@pytest.mark.parametrize("name", LAYER_METRIC_NAMES)
def test_the_least_important_layers_go_first(name):
    model = model_of()
    ids = tokens()
    drop, importance = layers_to_drop(name, model, ids, 2)
    scores = (
        block_influence(model, ids)
        if name == "block-influence"
        else sequence_loss_increase(model, ids).mean(1)
    )
    torch.testing.assert_close(importance, scores)
    assert drop == scores.argsort()[:2].tolist()
    assert layers_to_drop(name, model, ids, 0)[0] == []


@pytest.mark.parametrize("name", LAYER_METRIC_NAMES)
def test_measuring_leaves_the_model_alone(name):
    model = model_of()
    ids = tokens()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    layers_to_drop(name, model, ids, 2)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert len(model.model.layers) == model.config.num_hidden_layers == LAYERS
    assert all(not layer._forward_hooks for layer in model.model.layers)


def test_progress_counts_layers():
    calls = []
    block_influence(model_of(), tokens(), progress=lambda *call: calls.append(call))
    assert calls == [("block influence", i + 1, LAYERS) for i in range(LAYERS)]
    calls.clear()
    sequence_loss_increase(model_of(), tokens(), progress=lambda *call: calls.append(call))
    labels = ("loss increase", "loss without a layer")
    assert calls == [(label, i + 1, LAYERS) for label in labels for i in range(LAYERS)]


@pytest.mark.parametrize("name", LAYER_METRIC_NAMES)
def test_one_layer_at_a_time_is_on_the_device(name, monkeypatch):
    """The promise of a run on a small device: no metric may gather all layers there."""
    copies = []
    largest_count = 0

    def counted(*arguments, **keywords):
        nonlocal largest_count
        copied = copy_layer(*arguments, **keywords)
        copies.append(weakref.ref(copied))
        largest_count = max(largest_count, sum(copy() is not None for copy in copies))
        return copied

    monkeypatch.setattr("comp_lib.decoder.decoder.copy_layer", counted)
    layers_to_drop(name, model_of(), tokens(2, 16), 2, device=torch.device("cpu"))
    assert len(copies) >= LAYERS
    assert largest_count == 1
