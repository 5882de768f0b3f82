"""Own widths for every family: what surgery left comes back to the bit, also where only `register` ran."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file
from tools import logits
from transformers import AutoModelForCausalLM, StableLmConfig, StableLmForCausalLM
from uneven import IDS, NAMES, edit, save, uneven
from variants import build

from comp_lib.checkpoints.load import load_model
from comp_lib.checkpoints.padded import export_padded, padded_shape
from comp_lib.decoder.own_widths import register as own_widths
from comp_lib.decoder.own_widths.meta_model import with_true_config
from comp_lib.decoder.own_widths.register import register
from comp_lib.decoder.shape import Shape
from comp_lib.decoder.structure import has_inseparable_groups
from comp_lib.decoder.surgery import shrink
from comp_lib.utils.errors import InputError

PER_LAYER = {  # whether KV groups stay whole -> the field of `uneven`, whose widest layer is the last
    False: {
        "0": {"intermediate_size": 20},
        "1": {"intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1},
    },
    True: {"0": {"intermediate_size": 20}, "1": {"intermediate_size": 24}},
}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.mark.parametrize("name", NAMES)
def test_own_widths_come_back_to_the_bit(name, tokenizer, tmp_path):
    model = uneven(name)
    folder = save(model, tokenizer, tmp_path / "own")
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == f"comp_{model.config.model_type}"
    assert config["per_layer_config"] == PER_LAYER[has_inseparable_groups(model)]
    for loaded in (load_model(folder)[0], AutoModelForCausalLM.from_pretrained(folder)):
        assert isinstance(loaded, type(model))
        assert Shape.of(loaded) == Shape.of(model)
        assert torch.equal(logits(loaded, IDS), logits(model, IDS))
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    uncached = loaded.generate(IDS, use_cache=False, **options)
    assert torch.equal(loaded.generate(IDS, **options), uncached)
    eager = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    assert torch.allclose(logits(eager, IDS), logits(model, IDS), atol=1e-4)


def test_only_what_no_stock_config_can_say_gets_own_widths():
    model = build()
    uniform = with_true_config(model)
    assert type(uniform) is type(model)
    assert "per_layer_config" not in uniform.config.to_dict()
    for layer in model.model.layers:
        shrink(layer, "mlp", torch.arange(16))
    narrower = with_true_config(model)
    assert narrower.config.intermediate_size == 16
    assert narrower.config.model_type == "llama"


def test_a_model_whose_own_widths_became_alike_is_stock_again():
    model = with_true_config(uneven())
    for layer in model.model.layers:
        shrink(layer, "mlp", torch.arange(8))
        shrink(layer, "attention", torch.arange(1))
    stock = with_true_config(model)
    assert stock.config.model_type == "llama"
    assert torch.equal(logits(stock, IDS), logits(model, IDS))


def test_heads_that_do_not_divide_the_stream(tokenizer, tmp_path):
    """Llama's own config refuses them; each of ours says how large a head is."""
    model = uneven(num_attention_heads=6, num_key_value_heads=3, head_dim=8, hidden_size=36)
    folder = save(model, tokenizer, tmp_path / "own")
    assert torch.equal(logits(load_model(folder)[0], IDS), logits(model, IDS))


@pytest.mark.parametrize(
    "entries",
    [
        [20, 24, 28],
        "wide",
        {"3": {"intermediate_size": 20}},
        {"-1": {"intermediate_size": 20}},
        {"first": {"intermediate_size": 20}},
        {"0": 20},
        {"0": {"intermediate_size": 0}},
        {"0": {"intermediate_size": True}},
        {"0": {"intermediate_size": 20.0}},
        {"0": {"hidden_size": 16}},
        {"0": {"skip": ["mlp"]}},
        {"1": {"num_key_value_heads": 1}},  # of four heads, not two
        {"1": {"num_attention_heads": -2, "num_key_value_heads": -1}},
    ],
)
def test_a_damaged_field_is_refused(entries, tokenizer, tmp_path):
    folder = save(uneven(), tokenizer, tmp_path / "own")
    edit(folder, per_layer_config=entries)
    with pytest.raises(InputError, match="per_layer_config as .*layers below 3.*got.*save it again"):
        load_model(folder)


@pytest.mark.parametrize("neurons", [21, 29, 10**30])
def test_widths_that_the_weights_do_not_have_are_refused(neurons, tokenizer, tmp_path):
    folder = save(uneven(), tokenizer, tmp_path / "own")
    edit(folder, per_layer_config=PER_LAYER[False] | {"0": {"intermediate_size": neurons}})
    with pytest.raises(InputError, match="of at most 512, as|weights that config.json describes"):
        load_model(folder)


def test_what_layers_share_is_checked_as_in_a_stock_folder(tokenizer, tmp_path):
    folder = save(uneven("qwen2"), tokenizer, tmp_path / "own")
    edit(folder, layer_types=["full_attention"] * 2)
    with pytest.raises(InputError, match="config.json that can be built.*layer_types"):
        load_model(folder)


def test_the_way_attention_is_computed_is_kept_for_each_layer():
    model = with_true_config(uneven(attn_implementation="eager"))
    configs = [module.config for module in model.modules() if hasattr(module, "config")]
    assert {config._attn_implementation for config in configs} == {"eager"}
    assert len({id(config) for config in configs}) > 1


def test_a_family_whose_config_cannot_say_fewer_heads_is_refused():
    config = StableLmConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, **HEADS)
    model = StableLmForCausalLM(config)
    for layer in model.model.layers:
        shrink(layer, "attention", torch.arange(1))
    with pytest.raises(InputError, match="widths that a stablelm config can say.*keep all KV groups"):
        with_true_config(model)


# --- padded -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["all-at-once", "qwen3", "gemma3", "phi3", "olmo2", "ernie4_5-bias"])
def test_a_padded_folder_computes_the_same(name, tokenizer, tmp_path):
    model = uneven(name)
    out = export_padded(save(model, tokenizer, tmp_path / "own"), tmp_path / "padded")
    padded, issues = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert type(padded) is type(model)
    assert not any(issues.values())
    shape = Shape.of(padded)
    assert shape.fits_stock_config
    assert shape.neurons == (28, 28, 28)
    assert (logits(padded, IDS) - logits(model, IDS)).abs().max() < 1e-5
    assert torch.equal(logits(load_model(out)[0], IDS), logits(padded, IDS))
    narrow_tensors = load_file(tmp_path / "own" / "model.safetensors")
    for key, tensor in load_file(out / "model.safetensors").items():  # zeros, and else the very numbers
        narrow = narrow_tensors[key]
        assert torch.equal(tensor[tensor != 0].sort().values, narrow[narrow != 0].sort().values), key


def test_groups_are_filled_up_to_heads_that_a_stock_config_takes():
    # two query heads in each KV group
    shape = Shape.of(build(num_attention_heads=6, num_key_value_heads=3, head_dim=8, hidden_size=36))
    assert padded_shape(shape.with_widths((8, 8, 4), (2, 1, 1))).kv_groups == (2, 2, 2)
    assert padded_shape(shape.with_widths((8, 8, 4), (4, 1, 1))).kv_groups == (6, 6, 6)
    assert padded_shape(shape.with_widths((8, 8, 4), (5, 1, 1))).neurons == (8, 8, 8)
    with pytest.raises(InputError, match="heads that divide 36"):
        padded_shape(shape.with_widths((8, 8, 4), (19, 1, 1)))


def test_padding_is_refused_where_it_changes_nothing_or_the_place_is_taken(parent, tokenizer, tmp_path):
    with pytest.raises(InputError, match="every runtime takes it as it is"):
        export_padded(parent, tmp_path / "out")
    folder = save(uneven(), tokenizer, tmp_path / "own")
    with pytest.raises(InputError, match="or set overwrite"):
        export_padded(folder, folder)


def test_vllm_finds_every_class_where_it_looks(monkeypatch):
    """`register_all` is the entry point; a type that transformers does not have is left out."""
    monkeypatch.setattr(own_widths, "TESTED_TYPES", ("a type of tomorrow", "qwen2"))
    monkeypatch.delattr(transformers, "CompQwen2ForCausalLM", raising=False)
    own_widths.register_all()
    assert transformers.CompQwen2ForCausalLM is register("qwen2")[1]
