"""Own widths for every family: what surgery left comes back to the bit, here and where only `register` ran."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from variants import FAMILIES, SPECIAL, build, tokens

from comp_lib.errors import InputError
from comp_lib.families import whole_attention
from comp_lib.models.load import load_model, open_model
from comp_lib.models.own_widths import config_of, described, register
from comp_lib.models.padded import export_padded, filled_shape
from comp_lib.models.skeleton import skeleton
from comp_lib.shape import Shape
from comp_lib.surgery import shrink

NAMES = (
    "gqa",
    "all-at-once",
    "rope-llama3",
    "mistral-window",
    "qwen2",
    "qwen3",
    "smollm3",
    "gemma3",
    "phi3",
    "granite",
    "olmo2",
    "ernie4_5",
    "ernie4_5-bias",
)
IDS = tokens(2, 16)


def uneven(name: str = "gqa", **overrides):
    """A model with 20, 24 and 28 neurons in its layers, and one KV group instead of two in the second."""
    model = build(name, **overrides)
    for index, layer in enumerate(model.model.layers):
        shrink(layer, "mlp", torch.arange(20 + 4 * index))
        if index == 1 and not whole_attention(model):
            shrink(layer, "attention", torch.arange(1, 2))
    return model


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def saved(model, tokenizer, folder):
    described(model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_own_widths_come_back_to_the_bit(name, tokenizer, tmp_path):
    model = uneven(name)
    folder = saved(model, tokenizer, tmp_path / "own")
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == f"comp_{model.config.model_type}" and config["layer_neurons"] == [20, 24, 28]
    assert config["layer_kv_groups"] == list(Shape.of(model).kv_groups)
    for again in (load_model(folder)[0], AutoModelForCausalLM.from_pretrained(folder)):
        assert isinstance(again, type(model)) and Shape.of(again) == Shape.of(model)
        assert torch.equal(logits(again), logits(model))
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(again.generate(IDS, **options), again.generate(IDS, use_cache=False, **options))
    eager = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    assert torch.allclose(logits(eager), logits(model), atol=1e-4)


def test_a_process_that_ran_register_loads_the_folders_and_one_that_did_not_says_so(tokenizer, tmp_path):
    for name in ("qwen2", "phi3"):
        model = uneven(name)
        torch.save((IDS, logits(model)), saved(model, tokenizer, tmp_path / name) / "wanted.pt")
    code = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder = sys.argv[1]
if len(sys.argv) > 2:
    from comp_lib.models.own_widths import register
    register(sys.argv[2])
model = AutoModelForCausalLM.from_pretrained(folder)
AutoTokenizer.from_pretrained(folder)
ids, wanted = torch.load(folder + "/wanted.pt")
with torch.no_grad():
    assert torch.equal(model(ids).logits, wanted)
"""
    for arguments, word in (("qwen2", "qwen2"), None), (("phi3", "phi3"), None), (("qwen2",), "comp_qwen2"):
        words = [sys.executable, "-c", code, str(tmp_path / arguments[0]), *arguments[1:]]
        run = subprocess.run(words, capture_output=True, text=True)
        assert (run.returncode == 0) == (word is None), run.stderr
        assert word is None or word in run.stderr


def test_only_what_no_stock_config_can_say_gets_own_widths():
    model = build()
    assert type(described(model)) is type(model) and "layer_neurons" not in described(model).config.to_dict()
    for layer in model.model.layers:
        shrink(layer, "mlp", torch.arange(16))
    assert described(model).config.intermediate_size == 16 and described(model).config.model_type == "llama"
    own = described(uneven())
    for layer in own.model.layers:  # a model with own widths that became alike is stock again
        shrink(layer, "mlp", torch.arange(8))
        shrink(layer, "attention", torch.arange(1))
    assert described(own).config.model_type == "llama" and torch.equal(logits(described(own)), logits(own))


def test_heads_that_do_not_divide_the_stream(tokenizer, tmp_path):
    """Llama's own config refuses them; each of ours says how large a head is."""
    model = uneven(num_attention_heads=6, num_key_value_heads=3, head_dim=8, hidden_size=36)
    folder = saved(model, tokenizer, tmp_path / "own")
    assert torch.equal(logits(load_model(folder)[0]), logits(model))


def test_the_model_itself_is_left_alone():
    model = uneven()
    before, fields = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}, model.config.to_dict()
    child = described(model)
    assert child is not model and model.config.to_dict() == fields
    assert {name: tensor.data_ptr() for name, tensor in model.state_dict().items()} == before
    assert {name: tensor.data_ptr() for name, tensor in child.state_dict().items()} == before


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"layer_neurons": [20, 24]}, "3 widths"),
        ({"layer_neurons": [20, 24, 0]}, "at least 1"),
        ({"layer_kv_groups": [1, -1, 1]}, "at least 1"),
        ({"layer_neurons": [20, 24, 32]}, "of another shape"),
        ({"layer_neurons": "wide"}, "config.json that can be built"),
    ],
)
def test_lists_that_do_not_fit_are_refused(fields, words, tokenizer, tmp_path):
    folder = saved(uneven(), tokenizer, tmp_path / "own")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))
    with pytest.raises(InputError, match=words):
        load_model(folder)


def test_a_layer_with_nothing_left_is_refused():
    shape = Shape.of(build())
    for widths in (((48, 0, 48), (2, 2, 2)), ((48, 48, 48), (2, 0, 2))):
        with pytest.raises(InputError, match="at least one neuron and one KV group"):
            config_of(build().config, shape.with_widths(*widths))


def test_every_family_can_be_registered():
    for config_class, model_class in FAMILIES.values():
        ours = register(config_class.model_type)
        assert register(config_class.model_type) is ours  # made once
        assert issubclass(ours[0], config_class) and issubclass(ours[1], model_class)
        fields = {"num_hidden_layers": 2, "vocab_size": 64, "hidden_size": 32, "num_attention_heads": 4, **SPECIAL}
        sizes = {"num_key_value_heads": 4, "head_dim": 8, "intermediate_size": 24}
        widths = {"layer_neurons": [24, 8], "layer_kv_groups": [4, 4]}
        outline = skeleton(ours[0](**fields, **sizes, **widths))
        assert Shape.of(outline).neurons == (24, 8)


# --- filled up --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_padded_folder_computes_the_same(name, tokenizer, tmp_path):
    model = uneven(name)
    out = export_padded(saved(model, tokenizer, tmp_path / "own"), tmp_path / "padded")
    again, issues = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert type(again) is type(model) and not any(issues.values())
    shape = Shape.of(again)
    assert shape.stock and shape.neurons == (28, 28, 28)
    assert (logits(again) - logits(model)).abs().max() < 1e-5
    assert torch.equal(logits(load_model(out)[0]), logits(again))
    own, full = (load_file(folder / "model.safetensors") for folder in (tmp_path / "own", out))
    for key, tensor in full.items():  # zeros, and else the very numbers
        assert torch.equal(tensor[tensor != 0].sort().values, own[key][own[key] != 0].sort().values), key


def test_a_padded_folder_needs_nothing_but_transformers(tokenizer, tmp_path):
    model = uneven("phi3")
    out = export_padded(saved(model, tokenizer, tmp_path / "own"), tmp_path / "padded")
    torch.save((IDS, logits(model)), tmp_path / "wanted.pt")
    code = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
assert len(AutoTokenizer.from_pretrained(sys.argv[1])) == 512
ids, wanted = torch.load(sys.argv[2])
with torch.no_grad():
    assert (model(ids).logits - wanted).abs().max() < 1e-5
assert "comp_lib" not in sys.modules
"""
    run = subprocess.run([sys.executable, "-c", code, out, tmp_path / "wanted.pt"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_groups_are_filled_up_to_heads_that_a_stock_config_takes():
    shape = Shape.of(build(num_attention_heads=6, num_key_value_heads=3, head_dim=8, hidden_size=36))  # pairs of heads
    assert filled_shape(shape.with_widths((8, 8, 4), (2, 1, 1))).kv_groups == (2, 2, 2)
    assert filled_shape(shape.with_widths((8, 8, 4), (4, 1, 1))).kv_groups == (6, 6, 6)
    assert filled_shape(shape.with_widths((8, 8, 4), (5, 1, 1))).neurons == (8, 8, 8)
    with pytest.raises(InputError, match="heads that divide 36"):
        filled_shape(shape.with_widths((8, 8, 4), (19, 1, 1)))


def test_padding_is_refused_where_it_changes_nothing_or_the_place_is_taken(parent, tokenizer, tmp_path):
    with pytest.raises(InputError, match="every runtime takes it as it is"):
        export_padded(parent, tmp_path / "out")
    own = saved(uneven(), tokenizer, tmp_path / "own")
    with pytest.raises(InputError, match="--overwrite"):
        export_padded(own, own)
    heard = []
    export_padded(own, tmp_path / "out", progress=lambda what, done, total: heard.append((what, done, total)))
    assert heard[-1] == ("padding", len(heard), len(heard)) and open_model(tmp_path / "out")[1].model_type == "llama"
