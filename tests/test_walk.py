"""The layer-by-layer walk against transformers' own forward pass."""

from __future__ import annotations

import pytest
import torch
from variants import VARIANTS, build, tokens

from comp_lib import walk as walk_module
from comp_lib.decoder import copy_layer
from comp_lib.families.run import embed, head, rotary
from comp_lib.families.steps import attention_step, mlp_step
from comp_lib.walk import batches, sequence_losses, through, walk


def outputs(model, ids) -> list[torch.Tensor]:
    """What flows into the first layer, and out of each, in transformers' own forward pass."""
    seen = []
    hooks = [
        layer.register_forward_hook(lambda module, args, out: seen.append(out))
        for layer in model.model.layers
    ]
    first = model.model.layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.inference_mode():
        model(ids)
    for hook in (*hooks, first):
        hook.remove()
    return [out[0] if isinstance(out, tuple) else out for out in seen]


@pytest.mark.parametrize("length", [24, 1])
@pytest.mark.parametrize("name", VARIANTS)
@torch.inference_mode()
def test_walk_reproduces_the_model(name, length):
    model, ids = build(name), tokens(3, length)
    want = model(ids, output_hidden_states=True)
    hidden = embed(model, ids)
    rope = rotary(model, length, "cpu", hidden.dtype)
    for layer, states in zip(model.model.layers, want.hidden_states, strict=False):
        torch.testing.assert_close(hidden, states, rtol=1e-5, atol=1e-5)
        hidden = through(layer, hidden, rope, "cpu")
    # transformers norms the last one
    torch.testing.assert_close(model.model.norm(hidden), want.hidden_states[-1], rtol=1e-5, atol=1e-5)
    logits = head(model, model.model.norm(hidden))
    torch.testing.assert_close(logits, want.logits, rtol=1e-4, atol=1e-4)


def test_a_walk_visits_each_layer_once_and_takes_what_its_visitor_computed():
    model, ids = build(), tokens()
    hidden = embed(model, ids)
    for visit in walk(model, ids):
        assert torch.equal(visit.before, hidden)
        if visit.index == 1:
            visit.after = torch.zeros_like(hidden)  # instead of what the layer computes
        hidden = visit.after
    last_layer = model.model.layers[-1]
    rope = rotary(model, ids.shape[1], "cpu", hidden.dtype)
    assert visit.index == 2
    assert torch.equal(hidden, through(last_layer, torch.zeros_like(hidden), rope, "cpu"))


@pytest.mark.parametrize("name", ["gqa", "eager", "all-at-once", "qwen2"])
@torch.inference_mode()
def test_steps_give_the_inputs_of_the_dense_layers(name):
    model, ids = build(name), tokens()
    seen = {}
    layer = model.model.layers[1]
    for key, module in (("o", layer.self_attn.o_proj), ("down", layer.mlp.down_proj)):
        module.register_forward_pre_hook(lambda module, args, key=key: seen.__setitem__(key, args[0]))
    hidden, after = outputs(model, ids)[1:3]
    want = dict(seen)
    rope = rotary(model, ids.shape[1], "cpu", hidden.dtype)
    residual, x_o = attention_step(layer, hidden, rope)
    out, x = mlp_step(layer, residual)
    torch.testing.assert_close(x_o, want["o"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x, want["down"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out, after, rtol=1e-5, atol=1e-5)
    # both steps are residual: r = h + o_proj(X_o), h' = r + down_proj(X)
    torch.testing.assert_close(residual, hidden + layer.self_attn.o_proj(x_o))
    torch.testing.assert_close(out, residual + layer.mlp.down_proj(x))


@torch.inference_mode()
def test_attention_step_leaves_no_hook_behind_even_after_an_error():
    model, ids = build(), tokens()
    layer, hidden = model.model.layers[0], embed(model, ids)
    rope = rotary(model, ids.shape[1], "cpu", hidden.dtype)
    attention_step(layer, hidden, rope)
    with pytest.raises((RuntimeError, ValueError)):
        attention_step(layer, hidden[..., :-1], rope)
    assert not layer.self_attn.o_proj._forward_pre_hooks


@torch.inference_mode()
def test_through_is_the_same_in_any_batching(monkeypatch):
    model, ids = build(), tokens(5, 8)
    hidden = embed(model, ids)
    rope = rotary(model, 8, "cpu", hidden.dtype)
    before = hidden.clone()
    whole = through(model.model.layers[0], hidden, rope, "cpu")
    monkeypatch.setattr(walk_module, "BATCH_TOKENS", 16)
    torch.testing.assert_close(
        through(model.model.layers[0], hidden, rope, "cpu"), whole, rtol=1e-5, atol=1e-5
    )
    assert torch.equal(hidden, before)


@pytest.mark.parametrize(
    ("count", "length", "expected"),
    [(5, 1024, [2, 2, 1]), (3, 4096, [1, 1, 1]), (7, 1, [7]), (0, 16, []), (2, 2048, [1, 1])],
)
def test_batches_cover_all_sequences_once(count, length, expected):
    assert walk_module.BATCH_TOKENS == 2048
    rows = [list(range(count))[part] for part in batches(count, length)]
    assert [len(part) for part in rows] == expected
    assert sum(rows, []) == list(range(count))


@pytest.mark.parametrize("name", ["gqa", "tied"])
@torch.inference_mode()
def test_sequence_losses_are_the_loss_of_transformers(name):
    model, ids = build(name), tokens()
    losses = sequence_losses(model, outputs(model, ids)[-1], ids)
    want = torch.stack([model(row[None], labels=row[None]).loss for row in ids])
    torch.testing.assert_close(losses, want, rtol=1e-5, atol=1e-5)


def test_a_copied_layer_is_independent_of_the_original_but_shares_tensors_and_config():
    model = build()
    layer = model.model.layers[1]
    other = copy_layer(layer, "cpu")
    assert other is not layer and other.mlp is not layer.mlp
    assert other.self_attn.config is model.config
    assert [p.data_ptr() for p in other.parameters()] == [p.data_ptr() for p in layer.parameters()]
    other.mlp.down_proj = torch.nn.Linear(2, 2)
    assert layer.mlp.down_proj.in_features == 48


def test_a_copied_layer_can_have_its_own_memory():
    model = build()
    layer = model.model.layers[1]
    other = copy_layer(layer, "cpu", share_tensors=False)
    assert not {p.data_ptr() for p in other.parameters()} & {p.data_ptr() for p in layer.parameters()}
    assert all(torch.equal(*pair) for pair in zip(other.parameters(), layer.parameters(), strict=True))
    assert other.self_attn.config is model.config
