"""The layer-by-layer walk against transformers' own forward pass."""

from __future__ import annotations

import pytest
import torch
from variants import VARIANTS, build, tokens

from comp_lib.decoder import walk as walk_module
from comp_lib.decoder.decoder import Decoder, copy_layer
from comp_lib.decoder.run import attention_step, embed, head, layer_arguments, mlp_step
from comp_lib.decoder.walk import batches, send_through, sequence_losses, walk
from comp_lib.pruning.sink import Sink


def outputs(model, ids) -> list[torch.Tensor]:
    """The input of the first layer and the output of each, in transformers' own forward pass."""
    states = []
    first_layer = model.model.layers[0]
    hooks = [first_layer.register_forward_pre_hook(lambda module, args: states.append(args[0]))]
    for layer in model.model.layers:
        hooks.append(layer.register_forward_hook(lambda module, args, output: states.append(output)))
    with torch.inference_mode():
        model(ids)
    for hook in hooks:
        hook.remove()
    return [state[0] if isinstance(state, tuple) else state for state in states]


@pytest.mark.parametrize("length", [24, 1])
@pytest.mark.parametrize("name", VARIANTS)
@torch.inference_mode()
def test_walk_reproduces_the_model(name, length):
    model = build(name)
    ids = tokens(3, length)
    expected = model(ids, output_hidden_states=True)
    for visit, states in zip(walk(model, ids), expected.hidden_states, strict=False):
        torch.testing.assert_close(visit.before, states, rtol=1e-5, atol=1e-5)
    assert visit.index == len(model.model.layers) - 1
    # transformers puts the last hidden states through the norm
    normed = model.model.norm(visit.after)
    torch.testing.assert_close(normed, expected.hidden_states[-1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(head(model, normed), expected.logits, rtol=1e-4, atol=1e-4)


def test_a_walk_visits_each_layer_once_and_takes_what_its_visitor_computed():
    model = build()
    ids = tokens()
    hidden = embed(model, ids)
    for visit in walk(model, ids):
        assert torch.equal(visit.before, hidden)
        if visit.index == 1:
            visit.after = torch.zeros_like(hidden)  # instead of what the layer computes
        hidden = visit.after
    last_layer = model.model.layers[-1]
    arguments = layer_arguments(model, ids.shape[1], "cpu", hidden.dtype)
    assert visit.index == 2
    assert torch.equal(hidden, send_through(last_layer, torch.zeros_like(hidden), arguments, "cpu"))


@pytest.mark.parametrize("name", ["gqa", "eager", "all-at-once", "qwen2"])
@torch.inference_mode()
def test_steps_give_the_inputs_of_the_dense_layers(name):
    model = build(name)
    ids = tokens()
    inputs = {}  # linear -> its input, at every call
    layer = model.model.layers[1]
    for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
        linear.register_forward_pre_hook(lambda linear, args: inputs.__setitem__(linear, args[0]))
    hidden, after = outputs(model, ids)[1:3]
    expected = dict(inputs)  # of transformers' own pass, before the steps run the same linears
    arguments = layer_arguments(model, ids.shape[1], "cpu", hidden.dtype)
    residual, x_o = attention_step(layer, hidden, arguments)
    out, x = mlp_step(layer, residual)
    torch.testing.assert_close(x_o, expected[layer.self_attn.o_proj], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x, expected[layer.mlp.down_proj], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out, after, rtol=1e-5, atol=1e-5)
    # both steps are residual: r = h + o_proj(X_o), h' = r + down_proj(X)
    torch.testing.assert_close(residual, hidden + layer.self_attn.o_proj(x_o))
    torch.testing.assert_close(out, residual + layer.mlp.down_proj(x))


@torch.inference_mode()
def test_attention_step_leaves_no_hook_behind_even_after_an_error():
    model = build()
    ids = tokens()
    layer = model.model.layers[0]
    hidden = embed(model, ids)
    arguments = layer_arguments(model, ids.shape[1], "cpu", hidden.dtype)
    attention_step(layer, hidden, arguments)
    with pytest.raises(RuntimeError, match="size of tensor"):
        attention_step(layer, hidden[..., :-1], arguments)
    assert not layer.self_attn.o_proj._forward_pre_hooks


@torch.inference_mode()
def test_send_through_is_the_same_in_any_batching(monkeypatch):
    model = build()
    ids = tokens(5, 8)
    hidden = embed(model, ids)
    arguments = layer_arguments(model, 8, "cpu", hidden.dtype)
    before = hidden.clone()
    expected = send_through(model.model.layers[0], hidden, arguments, "cpu")
    monkeypatch.setattr(walk_module, "BATCH_TOKENS", 16)
    in_batches = send_through(model.model.layers[0], hidden, arguments, "cpu")
    torch.testing.assert_close(in_batches, expected, rtol=1e-5, atol=1e-5)
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
    model = build(name)
    ids = tokens()
    losses = sequence_losses(model, outputs(model, ids)[-1], ids)
    expected = torch.stack([model(row[None], labels=row[None]).loss for row in ids])
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)


def test_a_copied_layer_is_independent_of_the_original_but_shares_tensors_and_config():
    model = build()
    layer = model.model.layers[1]
    copied = copy_layer(layer, "cpu")
    assert copied is not layer
    assert copied.mlp is not layer.mlp
    assert copied.self_attn.config is model.config
    assert [p.data_ptr() for p in copied.parameters()] == [p.data_ptr() for p in layer.parameters()]
    copied.mlp.down_proj = torch.nn.Linear(2, 2)
    assert layer.mlp.down_proj.in_features == 48


def test_a_copied_layer_can_have_its_own_memory():
    model = build()
    layer = model.model.layers[1]
    copied = copy_layer(layer, "cpu", share_tensors=False)
    assert not {p.data_ptr() for p in copied.parameters()} & {p.data_ptr() for p in layer.parameters()}
    assert all(torch.equal(*pair) for pair in zip(copied.parameters(), layer.parameters(), strict=True))
    assert copied.self_attn.config is model.config


def test_a_decoder_or_a_sink_that_forgets_a_method_cannot_be_made():
    class WithoutHead(Decoder):
        pass

    class WithoutPut(Sink):
        pass

    for incomplete, method in ((WithoutHead, "head_pieces"), (WithoutPut, "put")):
        with pytest.raises(TypeError, match=f"abstract.*{method}"):
            incomplete()
