"""Tiny random decoders of each type: those that fit are pruned, and what does not fit is named."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from conftest import TINY_CONFIG, randomise
from transformers import AutoConfig, AutoModelForCausalLM
from variants import SPECIAL_TOKENS, build, tokens

from comp_lib.checkpoints.gguf.architectures import architecture_of
from comp_lib.checkpoints.load import open_model
from comp_lib.decoder.probe import OutputPath
from comp_lib.decoder.run import attention_step, embed, head, layer_arguments, mlp_step
from comp_lib.decoder.shape import Shape
from comp_lib.decoder.structure import has_inseparable_groups
from comp_lib.decoder.surgery import keep_layers
from comp_lib.decoder.walk import send_through
from comp_lib.pruning.comp import prune
from comp_lib.pruning.settings import Settings
from comp_lib.utils.errors import InputError

HYBRID_LAYERS = {
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
WINDOWS = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
FITTING_TYPES = {  # model type: fields of its config beside those of TINY_CONFIG
    "llama": {},
    "mistral": {"sliding_window": 5},
    "qwen2": {},
    "qwen3": {},
    "smollm3": {"no_rope_layers": [1, 0, 1]},
    "gemma3_text": WINDOWS,
    "phi3": {},
    "granite": {"embedding_multiplier": 3.0, "residual_multiplier": 0.4, "logits_scaling": 2.0},
    "olmo2": {},
    "ernie4_5": {},
    "gemma": {},
    "gemma2": WINDOWS | {"attn_implementation": "eager", "query_pre_attn_scalar": 8},
    "vaultgemma": WINDOWS | {"attn_implementation": "eager", "query_pre_attn_scalar": 8},
    "ministral": WINDOWS,
    "ministral3": {},
    "olmo": {},
    "olmo3": WINDOWS,
    "qwen3_5_text": HYBRID_LAYERS,
    "exaone4": WINDOWS,
    "seed_oss": {},
    "hunyuan_v1_dense": {},
    "glm": {},
    "glm4": {},
    "helium": {},
    "cwm": {},
    "stablelm": {"num_key_value_heads": 4},
    "hyperclovax": {},
}
NORM_AFTER = ("gemma3_text", "gemma2", "olmo2", "olmo3", "exaone4", "glm4", "hyperclovax")
# Their configs cannot say that fewer heads are left: o_proj has d inputs, or a head's size follows from d.
HEADS_FIXED = ("helium", "stablelm")
GROUPS_STAY = ("olmo2", "olmo3", "qwen3_5_text")
REFUSED_TYPES = {  # model type: words of the error that refuses it
    "mixtral": "experts",
    "qwen3_moe": "experts",
    "granitemoe": "experts",
    "nemotron": "no MLP of gate_proj",
    "starcoder2": "no MLP of gate_proj",
    "cohere": "attention and MLP in parallel",
    "cohere2": "attention and MLP in parallel",
    "bitnet": "weights between the neurons",
    "doge": "more than these two",
    "diffllama": "follows from its place",
    "gpt2": "without embed_tokens",
    "phi": "without norm",
}


def tiny(kind: str, **overrides):
    """A tiny random model of the type `kind`, with `overrides` of its config."""
    fields = TINY_CONFIG | SPECIAL_TOKENS | {"head_dim": 8} | FITTING_TYPES.get(kind, {}) | overrides
    attention = fields.pop("attn_implementation", "sdpa")
    config = AutoConfig.for_model(kind, **fields)
    return randomise(AutoModelForCausalLM.from_config(config, attn_implementation=attention))


def stepped(model, ids):
    """Logits of the model, computed by the library's steps instead of the model's own forward."""
    hidden = embed(model, ids)
    arguments = layer_arguments(model, ids.shape[1], "cpu", hidden.dtype)
    for layer in model.model.layers:
        hidden = send_through(layer, hidden, arguments, "cpu")
    return head(model, model.model.norm(hidden))


@pytest.mark.parametrize("kind", FITTING_TYPES)
@torch.inference_mode()
def test_steps_and_head_are_the_model(kind):
    model = tiny(kind)
    ids = tokens(3, 24)
    expected = model(ids).logits
    assert float((stepped(model, ids) - expected).norm() / expected.norm()) < 1e-4
    assert has_inseparable_groups(model) == (kind in GROUPS_STAY)
    assert (OutputPath.of(model.model.layers[0], "mlp").gain is not None) == (kind in NORM_AFTER)


@pytest.mark.parametrize("kind", FITTING_TYPES)
def test_prune_makes_a_model_of_any_of_them(kind):
    model = tiny(kind)
    ids = tokens(6, 24)
    before = Shape.of(model)
    assert before.total_parameters == model.num_parameters()
    groups = None if kind in GROUPS_STAY + HEADS_FIXED else 1
    small = prune(model, ids, Settings(ratio=0.25, multiple=4, kv_groups=groups, widths="uniform")).model
    after = Shape.of(small)
    assert after.total_parameters == small.num_parameters()
    assert after.decoder_parameters <= 0.75 * before.decoder_parameters
    assert after.kv_groups == (groups or before.kv_groups[0],) * 3
    assert len({*after.neurons}) == 1
    assert small.config.intermediate_size == after.neurons[0] < 48
    with torch.inference_mode():
        loss = small(ids, labels=ids).loss
        assert loss.isfinite()
        assert float((stepped(small, ids) - small(ids).logits).abs().max()) < 1e-3
    made_from_config = type(small)(copy.deepcopy(small.config))
    made_from_config.load_state_dict(small.state_dict(), strict=True)


@pytest.mark.parametrize("kind", FITTING_TYPES)
def test_layers_that_stay_are_those_of_the_model(kind):
    """A layer that goes is skipped, lists in the config follow, and the KV cache has an entry a layer."""
    model = tiny(kind)
    ids = tokens(2, 24)
    skipped = copy.deepcopy(model)
    skipped.model.layers[0].forward = lambda hidden_states, *args, **kwargs: hidden_states
    with torch.inference_mode():
        expected = skipped(ids, use_cache=False).logits
        keep_layers(model, [1, 2])
        torch.testing.assert_close(model(ids, use_cache=False).logits, expected, rtol=1e-4, atol=1e-4)
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    answers = [model.generate(ids[:, :5], use_cache=cached, **options) for cached in (True, False)]
    assert torch.equal(*answers)


@pytest.mark.parametrize("kind", REFUSED_TYPES)
def test_what_does_not_fit_is_named(kind):
    model = tiny(kind)
    ids = tokens(2, 8)
    with pytest.raises(InputError, match=REFUSED_TYPES[kind]):
        prune(model, ids, Settings(ratio=0.25, multiple=4))


def test_groups_that_own_more_than_rows_of_a_matrix_stay():
    with pytest.raises(InputError, match="expected all KV groups of qwen3_5_text to stay"):
        prune(tiny("qwen3_5_text"), tokens(2, 8), Settings(ratio=0.25, multiple=4, method="flap"))


def test_layers_of_several_kinds_have_their_own_fixed_parameters():
    shape = Shape.of(tiny("qwen3_5_text"))
    first, second, third = shape.fixed_parameters
    assert first == third != second
    assert shape.group_parameters == 0
    assert shape.kv_groups == (1, 1, 1)
    narrowed = shape.with_widths((10, 20), (1, 1), (0, 1))
    assert [narrowed.parameters_of_layer(0), narrowed.parameters_of_layer(1)] == [
        10 * 96 + first,
        20 * 96 + second,
    ]
    with pytest.raises(ValueError, match="layers that stay"):
        shape.with_widths((10, 20), (1, 1))


def broken(change):
    """The first layer of a Llama with another forward, hidden states (1, 8, d), and their rotary embedding.

    change: the new forward, called with the layer, the old forward, h and the keyword arguments.
    """
    model = build()
    layer = model.model.layers[0]
    hidden = embed(model, tokens(1, 8))
    layer_class = type(layer)

    def forward(self, h, **kwargs):
        return change(self, layer_class.forward, h, kwargs)

    layer.__class__ = type("Other", (layer_class,), {"forward": forward})
    return layer, hidden, layer_arguments(model, 8, "cpu", hidden.dtype)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda self, forward, h, kwargs: forward(self, h, **kwargs) + 0.01 * h, "more than these two"),
        (lambda self, forward, h, kwargs: h + 10 * torch.tanh(forward(self, h, **kwargs) - h), "another way"),
        (
            lambda self, forward, h, kwargs: forward(self, h, **kwargs) + self.mlp(self.input_layernorm(h)),
            "is not what the stream gets",
        ),
    ],
)
def test_a_layer_that_does_something_else_is_refused(change, named):
    layer, hidden, arguments = broken(change)
    with pytest.raises(InputError, match=named):
        attention_step(layer, hidden, arguments)


def test_a_gate_and_up_that_take_turns_are_refused():
    """Rows of a fused matrix are halves: where they alternate, a neuron would be cut out of two others."""
    model = tiny("phi3")
    layer = model.model.layers[0]
    hidden = embed(model, tokens(1, 8))
    mlp = layer.mlp

    def alternating(z):
        pairs = mlp.gate_up_proj(z)
        return mlp.down_proj(mlp.activation_fn(pairs[..., ::2]) * pairs[..., 1::2])

    mlp.forward = alternating
    with pytest.raises(InputError, match="other rows than its own"):
        attention_step(layer, hidden, layer_arguments(model, 8, "cpu", hidden.dtype))


def test_each_kind_of_layer_is_checked_once(monkeypatch):
    model = tiny("qwen3_5_text")
    ids = tokens(2, 8)
    hidden = embed(model, ids)
    arguments = layer_arguments(model, 8, "cpu", hidden.dtype)
    for layer in model.model.layers:
        hidden = mlp_step(layer, attention_step(layer, hidden, arguments)[0])[0]
    assert len(arguments.checked) == 2
    assert arguments.calls.keys() == {0, 1, 2}


@torch.inference_mode()
def test_gain_and_target_of_a_norm_are_its_weight():
    """Gemma's norm multiplies by 1 + w; the target of the MLP's own change is down_proj's own output."""
    layer = tiny("gemma3_text").model.layers[0]
    x = torch.randn(2, 3, 48, generator=torch.Generator().manual_seed(0))
    gain = 1 + layer.post_feedforward_layernorm.weight
    torch.testing.assert_close(OutputPath.of(layer, "mlp").gain, gain.abs() / gain.square().mean().sqrt())
    change = layer.post_feedforward_layernorm(layer.mlp.down_proj(x))
    torch.testing.assert_close(
        OutputPath.of(layer, "mlp").target(change, x), layer.mlp.down_proj(x), rtol=1e-3, atol=1e-4
    )


@torch.inference_mode()
def test_target_before_a_factor_is_divided_by_it():
    layer = tiny("granite").model.layers[0]
    generator = torch.Generator().manual_seed(1)
    change = torch.randn(2, 3, 32, generator=generator)
    x = torch.randn(2, 3, 48, generator=generator)
    torch.testing.assert_close(OutputPath.of(layer, "mlp").target(change, x), change / 0.4)
    assert OutputPath.of(layer, "mlp").gain is None


@torch.inference_mode()
def test_target_of_an_output_that_never_reaches_the_stream_is_what_it_is():
    """A layer that multiplies what it adds by a factor for each channel, of which one is 0."""
    factors = torch.linspace(0.5, 2.0, 32)
    factors[5] = 0.0

    def forward(self, h, forward, **kwargs):
        return h + factors * (forward(self, h, **kwargs) - h)

    layer, _, _ = broken(lambda self, plain, h, kwargs: forward(self, h, plain, **kwargs))
    generator = torch.Generator().manual_seed(1)
    change = torch.randn(2, 3, 32, generator=generator)
    x = torch.randn(2, 3, 48, generator=generator)
    target = OutputPath.of(layer, "mlp").target(change, x)
    expected = change / factors
    expected[..., 5] = layer.mlp.down_proj(x)[..., 5]
    torch.testing.assert_close(target, expected)


def test_names_of_types(tmp_path):
    assert architecture_of(tiny("llama")).name == "llama"
    assert architecture_of(tiny("seed_oss").config) is None
    refused = [
        ({"model_type": name}, "expected a decoder that transformers has")
        for name in ("unheard-of", "vit", None, 7)
    ]
    quantised = {"model_type": "llama", "quantization_config": {"quant_method": "awq"}}
    refused.append((quantised, "with 'awq'"))
    for fields, message in refused:
        (tmp_path / "config.json").write_text(json.dumps(fields))
        with pytest.raises(InputError, match=message):
            open_model(tmp_path)


def test_a_layer_without_a_number_is_refused_by_its_name():
    model = build()
    for module in model.model.layers[1].modules():
        vars(module).pop("layer_idx", None)
    with pytest.raises(InputError, match=r"layer_idx.*got LlamaDecoderLayer without one") as error:
        layer_arguments(model, 4, "cpu", torch.float32)
    assert "\n" not in str(error.value)
