"""Per-layer widths: the dressed model computes what the pruned one does, and lives a full transformers life."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama
from variants import FOUR, VARIANTS, WHOLE_ATTENTION, build, tokens

from comp_lib.errors import InputError
from comp_lib.models import per_layer_llama as heterogeneous
from comp_lib.models.per_layer_llama import (
    CompLlamaConfig,
    CompLlamaForCausalLM,
    as_heterogeneous,
    as_stock,
    check_widths,
)
from comp_lib.shape import Shape
from comp_lib.surgery import keep_layers, shrink_attention, shrink_mlp

YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
LLAMAS = {name: fields for name, fields in VARIANTS.items() if "family" not in fields} | {
    "rope-yarn": {"rope_parameters": YARN}
}


def tiny(name: str = "gqa", **overrides):
    """The Llama variant `name` with four layers."""
    known = name if name in VARIANTS else "gqa"
    return build(known, num_hidden_layers=4, **({} if known == name else LLAMAS[name]) | overrides)


def per_layer(model):
    """Cut a four-layer model by hand into three layers with three widths and, where it can, two head counts."""
    keep_layers(model, [0, 2, 3])
    first, second, third = model.model.layers
    shrink_mlp(first, torch.arange(0, 40, 2))
    shrink_mlp(third, torch.tensor([1, 5, 30]))
    groups = Shape.of(model).kv_groups[0]
    if groups > 1:
        shrink_attention(second, torch.arange(1, groups))
    return model


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


@pytest.fixture
def ids():
    return tokens(2)  # (S, L)


@pytest.fixture(params=LLAMAS)
def pruned(request):
    return per_layer(tiny(request.param))


@pytest.fixture(params=LLAMAS)
def roomy(request):
    """With room for the whole text: dynamic scaling rotates a longer one anew, but not the keys in the cache."""
    return per_layer(tiny(request.param, max_position_embeddings=64))


def test_dressed_equals_pruned(pruned, ids):
    dressed = as_heterogeneous(pruned, Shape.of(pruned))
    assert torch.equal(logits(dressed, ids), logits(pruned, ids))


def test_nothing_is_copied_and_the_model_is_left_alone(pruned):
    before = {name: tensor.data_ptr() for name, tensor in pruned.named_parameters()}
    config = pruned.config.to_dict()
    grads = [parameter.requires_grad for parameter in pruned.parameters()]
    dressed = as_heterogeneous(pruned, Shape.of(pruned))
    assert {name: tensor.data_ptr() for name, tensor in dressed.named_parameters()} == before
    assert {name: tensor.data_ptr() for name, tensor in pruned.named_parameters()} == before
    assert pruned.config.to_dict() == config
    assert [parameter.requires_grad for parameter in pruned.parameters()] == grads
    assert all(buffer.device.type == "cpu" for buffer in dressed.buffers())


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generation_with_cache_equals_without(roomy, ids, cache):
    """After dropped layers, with a left-padded batch: the cache, the masks and the layer numbers all agree."""
    dressed = as_heterogeneous(roomy, Shape.of(roomy))
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    options = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": 63}
    options |= {"output_logits": True, "return_dict_in_generate": True}
    cached = dressed.generate(ids, cache_implementation=cache, **options)
    plain = dressed.generate(ids, use_cache=False, **options)
    assert torch.equal(cached.sequences, plain.sequences)
    assert torch.allclose(torch.stack(cached.logits), torch.stack(plain.logits), atol=1e-4)


def test_reload(pruned, ids, tmp_path):
    dressed = as_heterogeneous(pruned, Shape.of(pruned))
    dressed.save_pretrained(tmp_path)
    for auto in (AutoModelForCausalLM, CompLlamaForCausalLM):
        loaded = auto.from_pretrained(tmp_path, attn_implementation=pruned.config._attn_implementation)
        assert type(loaded) is CompLlamaForCausalLM
        assert Shape.of(loaded) == Shape.of(pruned)
        assert torch.equal(logits(loaded, ids), logits(pruned, ids))
    assert AutoModel.from_pretrained(tmp_path)(ids).last_hidden_state.shape == (*ids.shape, pruned.config.hidden_size)


def test_reload_in_another_process(ids, tmp_path):
    """All variants in one process, which knows nothing of the classes until it imports the module."""
    for name in LLAMAS:
        model = per_layer(tiny(name))
        as_heterogeneous(model, Shape.of(model)).save_pretrained(tmp_path / name)
        torch.save((ids, logits(model, ids)), tmp_path / name / "expected.pt")
    code = """
import json, sys, torch
from pathlib import Path
from transformers import AutoModelForCausalLM
root = Path(sys.argv[1])
result = {"error": None}
try:
    AutoModelForCausalLM.from_pretrained(root / "mha")
except ValueError as error:
    result["error"] = str(error)
import comp_lib.models.per_layer_llama
for folder in sorted(root.iterdir()):
    ids, expected = torch.load(folder / "expected.pt")
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
    result[folder.name] = (logits - expected).abs().max().item()
print(json.dumps(result))
"""
    result = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    differences = json.loads(result.stdout)
    assert "comp_llama" in differences.pop("error")
    assert differences.keys() == LLAMAS.keys()
    assert max(differences.values()) < 1e-5


def test_each_layer_is_built_once_and_with_its_own_widths(monkeypatch):
    model = per_layer(tiny())
    built = []

    class Watched(modeling_llama.LlamaDecoderLayer):
        def __init__(self, config, layer_idx):
            built.append((layer_idx, config.intermediate_size, config.num_key_value_heads))
            super().__init__(config, layer_idx)

    config = as_heterogeneous(model, Shape.of(model)).config
    monkeypatch.setattr(heterogeneous, "LlamaDecoderLayer", Watched)
    monkeypatch.setattr(modeling_llama, "LlamaDecoderLayer", Watched)
    CompLlamaForCausalLM(config)
    shape = Shape.of(model)
    assert built == list(zip(range(shape.layers), shape.neurons, shape.kv_groups, strict=True))


def test_a_new_model_from_config_trains(ids):
    model = per_layer(tiny())
    fresh = AutoModelForCausalLM.from_config(as_heterogeneous(model, Shape.of(model)).config)
    assert Shape.of(fresh) == Shape.of(model)
    fresh.train()(ids, labels=ids).loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in fresh.parameters())


def test_attention_implementation_reaches_every_layer(ids):
    model = per_layer(tiny())
    dressed = as_heterogeneous(model, Shape.of(model))
    dressed.set_attn_implementation("eager")
    with torch.no_grad():
        output = dressed(ids, output_attentions=True, output_hidden_states=True)
    assert [attention.shape[1] for attention in output.attentions] == [4, 2, 4]
    assert len(output.hidden_states) == 4
    assert torch.allclose(output.logits, logits(model, ids), atol=1e-5)


def test_half_precision_keeps_the_rotary_embedding_exact():
    """`model.to(bfloat16)` also rounds the rotary frequencies, a reload does not: what is dressed is as if reloaded."""
    model = per_layer(tiny())
    exact = model.model.rotary_emb.inv_freq.clone()
    dressed = as_heterogeneous(model.to(torch.bfloat16), Shape.of(model))
    assert dressed.dtype == torch.bfloat16
    assert torch.equal(dressed.model.rotary_emb.inv_freq, exact)


def test_heads_that_do_not_divide_the_hidden_size(ids, tmp_path):
    """Alike in all layers, yet no stock Llama config: 3 heads, hidden size 32."""
    model = tiny("mha")
    for layer in model.model.layers:
        shrink_attention(layer, torch.tensor([0, 1, 3]))
    shape = Shape.of(model)
    assert shape.uniform and not shape.stock
    with pytest.raises(InputError, match="save it as heterogeneous"):
        as_stock(model, shape)
    as_heterogeneous(model, shape).save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded, ids), logits(model, ids))
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(loaded.generate(ids, **options), loaded.generate(ids, use_cache=False, **options))


def test_pruned_again(ids, tmp_path):
    """A reloaded heterogeneous model can be cut further: to other widths, or to one width, which makes it stock."""
    model = per_layer(tiny())
    as_heterogeneous(model, Shape.of(model)).save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    keep_layers(loaded, [0, 1])
    again = as_heterogeneous(loaded, Shape.of(loaded))
    assert torch.equal(logits(again, ids), logits(loaded, ids))

    neurons = min(Shape.of(loaded).neurons)
    for layer in loaded.model.layers:
        shrink_mlp(layer, torch.arange(neurons))
    shrink_attention(loaded.model.layers[0], torch.tensor([1]))
    stock = as_stock(loaded, Shape.of(loaded))
    assert type(stock) is LlamaForCausalLM and type(stock.config) is LlamaConfig
    assert stock.config.intermediate_size == neurons and not stock.config.is_heterogeneous
    assert torch.equal(logits(stock, ids), logits(loaded, ids))


def test_config_lists_every_layer_in_full(tmp_path):
    model = per_layer(tiny())
    as_heterogeneous(model, Shape.of(model)).config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["per_layer_config"] == {
        "0": {"intermediate_size": 20, "num_attention_heads": 4, "num_key_value_heads": 2},
        "1": {"intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 1},
        "2": {"intermediate_size": 3, "num_attention_heads": 4, "num_key_value_heads": 2},
    }
    config = AutoConfig.from_pretrained(tmp_path)
    assert type(config) is CompLlamaConfig
    assert [layer.intermediate_size for layer in config.per_layer_config] == [20, 48, 3]


def test_config_refuses_split_groups():
    with pytest.raises(Exception, match="layer 1: expected a multiple of its 2 KV heads, got 3 heads"):
        CompLlamaConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            per_layer_config={1: {"num_attention_heads": 3}},
        )


def test_registration_can_be_repeated():
    classes = {name: getattr(heterogeneous, name) for name in ("CompLlamaConfig", "CompLlamaForCausalLM")}
    namespace = vars(heterogeneous).copy()
    try:
        importlib.reload(heterogeneous)
        assert heterogeneous.CompLlamaConfig is not classes["CompLlamaConfig"]
    finally:  # other tests hold the first classes: bring them back
        vars(heterogeneous).update(namespace)
        AutoConfig.register("comp_llama", heterogeneous.CompLlamaConfig, exist_ok=True)
        AutoModelForCausalLM.register(heterogeneous.CompLlamaConfig, heterogeneous.CompLlamaForCausalLM, exist_ok=True)
        AutoModel.register(heterogeneous.CompLlamaConfig, heterogeneous.CompLlamaModel, exist_ok=True)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in LLAMAS])
def test_other_families(name, ids):
    """Uniform widths are theirs to keep; what their config cannot express is refused, before and after the surgery."""
    model = tiny(name, **FOUR.get(name, {}))
    for layer in model.model.layers:
        shrink_mlp(layer, torch.arange(40))
        if name not in WHOLE_ATTENTION:
            shrink_attention(layer, torch.tensor([1]))
    keep_layers(model, [0, 1, 3])
    shape = Shape.of(model)
    check_widths(model.config, shape)
    stock = as_stock(model, shape)
    assert type(stock) is type(model)
    assert torch.equal(logits(stock, ids), logits(model, ids))
    with pytest.raises(InputError, match="choose uniform widths"):
        as_heterogeneous(model, shape)

    shrink_mlp(model.model.layers[0], torch.arange(8))
    for refuse in (check_widths, as_heterogeneous):
        with pytest.raises(InputError, match="expected a llama model .* choose uniform widths"):
            refuse(model.config if refuse is check_widths else model, Shape.of(model))


def test_a_shape_that_is_not_that_of_the_tensors():
    model = per_layer(tiny())
    shape = Shape.of(model)
    with pytest.raises(RuntimeError, match="size mismatch"):
        as_heterogeneous(model, shape.with_widths(shape.neurons[::-1], shape.kv_groups))
