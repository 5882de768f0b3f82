"""A shrunk model against the same model with rows and columns set to zero."""

from __future__ import annotations

import copy

import pytest
import torch
from tools import logits, silence, storages
from variants import VARIANTS, WHOLE_ATTENTION, build, tokens

from comp_lib.decoder.blocks import inputs_of_blocks
from comp_lib.decoder.shape import Shape
from comp_lib.decoder.surgery import keep_layers, shallow_copy, shrink, update_config

KEPT = torch.tensor([0, 3, 4, 11, 30, 47])


@pytest.mark.parametrize("name", VARIANTS)
def test_removed_neurons_equal_silent_neurons(name):
    small = build(name, dtype=torch.float64)
    ids = tokens()
    masked = copy.deepcopy(small)
    shrink(small.model.layers[1], "mlp", KEPT)
    silence(masked.model.layers[1], neurons=set(range(48)) - set(KEPT.tolist()))
    torch.testing.assert_close(logits(small, ids), logits(masked, ids), rtol=1e-5, atol=1e-5)
    mlp = small.model.layers[1].mlp
    inputs = [mlp.gate_up_proj] if name == "phi3" else [mlp.gate_proj, mlp.up_proj]
    assert sum(linear.out_features for linear in inputs) == 12
    assert mlp.down_proj.in_features == 6
    assert all(linear.weight.shape == (linear.out_features, 32) for linear in inputs)
    assert mlp.down_proj.weight.shape == (32, 6)
    assert getattr(mlp, "intermediate_size", 6) == 6


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in WHOLE_ATTENTION])
def test_removed_groups_equal_silent_groups(name):
    small = build(name, dtype=torch.float64)
    ids = tokens()
    masked = copy.deepcopy(small)
    groups = Shape.of(small).kv_groups[0]
    shrink(small.model.layers[1], "attention", torch.arange(1, groups))
    silence(masked.model.layers[1], groups=[0])
    torch.testing.assert_close(logits(small, ids), logits(masked, ids), rtol=1e-5, atol=1e-5)
    assert Shape.of(small).kv_groups == (groups, groups - 1, groups)


@pytest.mark.parametrize("name", ["gqa", "all-at-once"])
def test_new_weights_replace_those_of_the_output(name):
    """New weights are (n, m), in the orientation y = X W, of which `shrink` takes only the rows that stay."""
    small = build(name, dtype=torch.float64)
    ids = tokens()
    masked = copy.deepcopy(small)
    layer = small.model.layers[0]
    masked_layer = masked.model.layers[0]
    generator = torch.Generator().manual_seed(5)
    for linear in (masked_layer.mlp.down_proj, masked_layer.self_attn.o_proj):
        linear.weight.data = torch.randn(linear.weight.shape, generator=generator, dtype=torch.float64)
    down = masked_layer.mlp.down_proj.weight.detach().T.clone()
    output = masked_layer.self_attn.o_proj.weight.detach().T.clone()
    shrink(layer, "mlp", KEPT, down)
    shrink(layer, "attention", torch.tensor([1]), output)
    silence(masked_layer, neurons=set(range(48)) - set(KEPT.tolist()), groups=[0])
    torch.testing.assert_close(logits(small, ids), logits(masked, ids), rtol=1e-5, atol=1e-5)


def test_surgery_never_writes_into_the_old_tensors():
    model = build("all-at-once")
    layer = model.model.layers[0]
    old = {name: (tensor, tensor.clone()) for name, tensor in layer.named_parameters()}
    shrink(layer, "mlp", KEPT)
    shrink(layer, "attention", torch.tensor([0]))
    for tensor, before in old.values():
        assert torch.equal(tensor, before)
    old_addresses = {tensor.untyped_storage().data_ptr() for tensor, _ in old.values()}
    cut = [parameter for name, parameter in layer.named_parameters() if "norm" not in name]
    new_addresses = {parameter.untyped_storage().data_ptr() for parameter in cut}
    assert new_addresses
    assert new_addresses.isdisjoint(old_addresses), "a view would keep the old memory"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("trainable", [True, False])
def test_what_stays_keeps_its_class_names_dtype_and_state(dtype, trainable):
    model = build("all-at-once", dtype=dtype).requires_grad_(trainable).train(trainable)
    layer = model.model.layers[0]
    names = list(layer.state_dict())
    classes = [type(module) for module in layer.modules()]
    shrink(layer, "mlp", KEPT, layer.mlp.down_proj.weight.detach().T.double().contiguous())
    shrink(layer, "attention", torch.tensor([0]))
    assert list(layer.state_dict()) == names, "no mask, no wrapper"
    assert [type(module) for module in layer.modules()] == classes
    assert {p.dtype for p in layer.parameters()} == {dtype}
    assert {p.requires_grad for p in layer.parameters()} == {trainable}
    assert {module.training for module in layer.modules()} == {trainable}
    assert all(p.is_contiguous() for p in layer.parameters())


def test_a_shrunk_model_can_be_trained():
    model = build("all-at-once")
    shrink(model.model.layers[0], "mlp", KEPT)
    shrink(model.model.layers[0], "attention", torch.tensor([1]))
    ids = tokens()
    model(ids, labels=ids).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("kept", [[], [0], [2, 0, 1]])
def test_blocks_expand_to_their_consecutive_inputs(kept):
    blocks = torch.tensor(kept, dtype=torch.long)
    assert inputs_of_blocks(blocks, 3).tolist() == [3 * block + j for block in kept for j in range(3)]
    assert inputs_of_blocks(blocks, 1).tolist() == kept


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("kept", [[0, 2], [1]])
def test_dropped_layers_equal_skipped_layers(name, kept):
    model = build(name, dtype=torch.float64)
    ids = tokens()
    skipped = copy.deepcopy(model)
    for index, layer in enumerate(skipped.model.layers):
        if index not in kept:
            layer.forward = lambda hidden_states, *args, **kwargs: hidden_states
    keep_layers(model, kept)
    torch.testing.assert_close(logits(model, ids), logits(skipped, ids), rtol=1e-5, atol=1e-5)
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == list(range(len(kept)))
    assert model.config.num_hidden_layers == len(kept)


@pytest.mark.parametrize(
    ("name", "field", "before"),
    [
        ("qwen2-window", "layer_types", ["full_attention", "sliding_attention", "sliding_attention"]),
        ("gemma3", "layer_types", ["sliding_attention", "full_attention", "sliding_attention"]),
        ("smollm3", "no_rope_layers", [1, 0, 1]),
    ],
)
def test_lists_over_the_layers_follow_them(name, field, before):
    model = build(name)
    assert getattr(model.config, field) == before
    keep_layers(model, [0, 1])
    assert getattr(model.config, field) == before[:2]


def test_a_list_of_something_else_stays_though_it_is_as_long_as_the_layers():
    model = build()
    model.config.favourite_tokens = [7, 8, 9]
    assert len(model.model.layers) == 3
    keep_layers(model, [0, 1])
    assert model.config.favourite_tokens == [7, 8, 9]


@pytest.mark.parametrize("name", VARIANTS)
def test_generation_with_a_cache_equals_generation_without(name):
    model = build(name)
    keep_layers(model, [1, 2])
    for layer in model.model.layers:
        shrink(layer, "mlp", KEPT)
        if name not in WHOLE_ATTENTION:
            shrink(layer, "attention", torch.tensor([1]))
    update_config(model)
    # "rope-longrope" may have 8 tokens, answer included: beyond them the cached keys have other frequencies
    prompt = tokens(2, 6)[:, :4] if name == "rope-longrope" else tokens(2, 6)
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    cached = model.generate(prompt, use_cache=True, **options)
    assert torch.equal(cached, model.generate(prompt, use_cache=False, **options))
    assert cached.shape[1] == prompt.shape[1] + options["max_new_tokens"]


def test_cache_holds_one_entry_for_each_layer_that_stays():
    model = build()
    keep_layers(model, [1, 2])
    with torch.inference_mode():
        cache = model(tokens(1, 6), use_cache=True).past_key_values
    assert [layer.keys.shape[-2] for layer in cache.layers] == [6, 6]


@pytest.mark.parametrize("name", VARIANTS)
def test_config_describes_uniform_tensors(name):
    model = build(name)
    head_dim = Shape.of(model).head_dim
    for layer in model.model.layers:
        shrink(layer, "mlp", KEPT)
        if name not in WHOLE_ATTENTION:
            shrink(layer, "attention", torch.tensor([0]))
    update_config(model)
    config = model.config
    groups = 2 if name == "olmo2" else 1
    assert (config.intermediate_size, config.num_key_value_heads, config.head_dim) == (6, groups, head_dim)
    assert config.num_attention_heads == groups * Shape.of(model).group_heads
    # a model made from this config has room for exactly these tensors
    type(model)(copy.deepcopy(config)).load_state_dict(model.state_dict(), strict=True)


def test_config_is_left_alone_when_widths_differ():
    model = build()
    shrink(model.model.layers[0], "mlp", KEPT)
    update_config(model)
    assert model.config.intermediate_size == 48


def test_a_shallow_copy_has_its_own_structure_around_the_same_tensors():
    parent = build("all-at-once")
    shared = shallow_copy(parent)
    assert storages(shared) == storages(parent)
    assert shared.config is not parent.config
    assert shared.model.layers is not parent.model.layers
    assert shared.lm_head.weight is shared.model.embed_tokens.weight, "still tied"
    assert not {id(module) for module in parent.modules()} & {id(module) for module in shared.modules()}
