"""For vLLM, without vLLM: what its DeciLM is told of each layer, folders filled up with zeros, and what is refused."""

from __future__ import annotations

import json
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM
from variants import VARIANTS, build, tokens

from comp_lib.errors import InputError
from comp_lib.models.load import load_model
from comp_lib.models.per_layer_llama import CompLlamaConfig, CompLlamaForCausalLM, as_heterogeneous
from comp_lib.models.save import Provenance, save_checkpoint
from comp_lib.on_device import vllm_export, vllm_plugin
from comp_lib.on_device.vllm_export import export_vllm, filled_up
from comp_lib.on_device.vllm_plugin import block_configs
from comp_lib.plan import Plan
from comp_lib.prune import prune
from comp_lib.settings import Settings
from comp_lib.shape import Shape
from comp_lib.surgery import keep_layers, shrink_attention, shrink_mlp
from comp_lib.system import atomic

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # comes with pytest there

ROOT = Path(__file__).resolve().parents[2]
LLAMAS = [name for name, fields in VARIANTS.items() if "family" not in fields]


def narrowed(name: str = "gqa", groups: bool = False, **overrides):
    """Three layers of three widths; with `groups` the second has lost a KV group, where it has more than one."""
    model = build(name, num_hidden_layers=4, **overrides)
    keep_layers(model, [0, 2, 3])
    first, second, third = model.model.layers
    shrink_mlp(first, torch.arange(0, 40, 2))
    shrink_mlp(third, torch.tensor([1, 5, 30]))
    if groups and (count := Shape.of(model).kv_groups[0]) > 1:
        shrink_attention(second, torch.arange(1, count))
    return as_heterogeneous(model, Shape.of(model))


@pytest.fixture
def saved(tmp_path, tokenizer):
    """A narrowed model as a folder, and the model: `saved("mha", groups=True)`."""

    def save(name: str = "gqa", **options):
        model = narrowed(name, **options)
        folder = tmp_path / f"model-{name}"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder, model

    return save


def by_hand(*layers: dict[str, int]) -> CompLlamaConfig:
    """A config with these entries for its layers."""
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8}
    return CompLlamaConfig(
        **sizes, vocab_size=512, num_hidden_layers=len(layers), per_layer_config=dict(enumerate(layers))
    )


@pytest.fixture
def vllm(monkeypatch):
    """A module `vllm` that writes down what is registered, and our class afterwards as it was before."""
    module, registered = ModuleType("vllm"), []
    module.ModelRegistry = SimpleNamespace(register_model=lambda *names: registered.append(names))
    monkeypatch.setitem(sys.modules, "vllm", module)
    yield registered
    if hasattr(CompLlamaConfig, "block_configs"):
        del CompLlamaConfig.block_configs


@torch.inference_mode()
def logits(model, ids):
    return model(ids).logits


# --- the plugin -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LLAMAS)
def test_blocks_have_the_widths_of_the_layers(name):
    model = narrowed(name)
    blocks = vllm_plugin.block_configs(model.config)
    heads = model.config.num_attention_heads  # what DeciLM takes for all layers
    for block, layer in zip(blocks, model.model.layers, strict=True):
        assert not block.attention.no_op and not block.ffn.no_op
        assert block.ffn.intermediate_size == layer.mlp.up_proj.out_features
        assert block.ffn.hidden_act == model.config.hidden_act
        assert not hasattr(block.ffn, "ffn_mult")  # which DeciLM would ask first
        size = layer.self_attn.head_dim
        assert heads * size == layer.self_attn.q_proj.out_features
        assert heads // block.attention.n_heads_in_group * size == layer.self_attn.k_proj.out_features


def test_kv_heads_may_differ_where_query_heads_do_not():
    config = by_hand({"num_key_value_heads": 2}, {}, {"num_key_value_heads": 1})
    assert [block.attention.n_heads_in_group for block in vllm_plugin.block_configs(config)] == [2, 1, 4]


@pytest.mark.parametrize("name", ["mha", "gqa"])
def test_query_heads_that_differ_are_refused_by_name(name):
    with pytest.raises(InputError, match="as many query heads in each layer.* in layer 1 and 4 in layer 0.*--vllm"):
        vllm_plugin.block_configs(narrowed(name, groups=True).config)


def test_register_gives_configs_their_blocks_and_vllm_a_class(vllm):
    config = narrowed().config
    assert not hasattr(config, "block_configs")
    for _ in range(2):  # vLLM may ask more than once
        vllm_plugin.register()
        assert [block.ffn.intermediate_size for block in config.block_configs] == [20, 48, 3]
    assert set(vllm) == {("CompLlamaForCausalLM", "vllm.model_executor.models.nemotron_nas:DeciLMForCausalLM")}
    assert "block_configs" not in config.to_dict() and json.loads(config.to_json_string())


def test_vllm_finds_the_plugin_and_the_folder_names_the_class(saved):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    (found,) = project["entry-points"]["vllm.general_plugins"].items()
    assert EntryPoint(*found, "vllm.general_plugins").load() is vllm_plugin.register
    written = json.loads((saved()[0] / "config.json").read_text("utf-8"))
    assert written["architectures"] == [CompLlamaForCausalLM.__name__]


# --- folders for any vLLM ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [False, True])
@pytest.mark.parametrize("name", LLAMAS)
def test_what_is_filled_up_computes_the_same(saved, tmp_path, name, groups):
    folder, model = saved(name, groups=groups)
    made = export_vllm(folder, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text("utf-8"))
    assert (config["model_type"], config["architectures"]) == ("llama", ["LlamaForCausalLM"])
    assert "per_layer_config" not in config
    loaded, _ = load_model(tmp_path / "out")
    shape = Shape.of(loaded)
    assert shape.stock and shape.neurons == (48,) * 3
    assert (made.own, made.filled) == (Shape.of(model).total, shape.total) and made.own < made.filled
    ids = tokens(2)
    torch.testing.assert_close(logits(loaded, ids), logits(model, ids), atol=1e-5, rtol=0)


def test_heads_are_filled_up_to_a_number_that_a_stock_config_takes(tmp_path, tokenizer):
    """Three heads in all layers do not divide a stream of 32; four do."""
    dense = build("mha")
    pruned = prune(dense, tokens(8, 24, seed=1), Settings(kv_groups=3, multiple=4, ratio=0.4))
    card = Provenance("p", Shape.of(dense), "mit", "a test", "condition", "least-squares", "0")
    folder = save_checkpoint(tmp_path / "small", pruned.model, tokenizer, pruned.plan, card)
    export_vllm(folder, tmp_path / "out")
    loaded, _ = load_model(tmp_path / "out")
    assert set(Shape.of(loaded).kv_groups) == {4}
    ids = tokens(2)
    torch.testing.assert_close(logits(loaded, ids), logits(pruned.model, ids), atol=1e-5, rtol=0)
    words = (tmp_path / "out" / "README.md").read_text("utf-8")  # the card says what holds of this folder
    assert 'license: "mit"' in words and vllm_export.FILLED in words
    assert "import comp_lib" not in words and "needs comp_lib" not in words


def test_pieces_and_shards_do_not_show(saved, tmp_path, monkeypatch):
    folder, model = saved(groups=True)
    export_vllm(folder, tmp_path / "whole")
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="30KB")
    monkeypatch.setattr(vllm_export, "PIECE", 100)
    monkeypatch.setattr("comp_lib.system.tensor_files.PIECE", 100)
    export_vllm(folder, tmp_path / "pieces")
    whole, pieces = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "pieces"))
    assert whole.keys() == pieces.keys() and all(torch.equal(whole[name], pieces[name]) for name in whole)


def test_half_precision_stays(saved, tmp_path):
    folder, model = saved(dtype=torch.bfloat16)
    export_vllm(folder, tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    own = model.state_dict()["model.layers.2.mlp.down_proj.weight"]
    assert torch.equal(found["model.layers.2.mlp.down_proj.weight"][:, :3], own)


@pytest.mark.parametrize(("own", "size"), [((3, 4), (5, 6)), ((3, 4), (3, 4)), ((3,), (7,))])
def test_zeros_stand_behind(own, size):
    tensor = torch.randn(own)
    found = torch.cat(list(filled_up(iter(tensor.split(2)), size, torch.float32)))
    assert found.shape == size and torch.equal(found[tuple(map(slice, own))], tensor)
    assert found.count_nonzero() == tensor.numel()


# --- what is refused --------------------------------------------------------------------------------------------------


def hidden(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("name", ["gqa", "qwen2"])
def test_what_vllm_takes_anyway(parent, tmp_path, tokenizer, name):
    build(name).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    with pytest.raises(InputError, match="whose layers differ in width.*vllm serve takes it as it is"):
        export_vllm(tmp_path / "m", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_kv_heads_shared_by_other_numbers(tmp_path, tokenizer):
    model = CompLlamaForCausalLM(by_hand({"num_key_value_heads": 2}, {}))
    model.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    with pytest.raises(InputError, match="query heads to a KV head.* 1 in layer 1 and 2 in layer 0.*comp-lib"):
        export_vllm(tmp_path / "m", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_heads_that_never_divide_the_stream(tmp_path, tokenizer):
    heads = {"num_attention_heads": 3, "num_key_value_heads": 1}
    CompLlamaForCausalLM(by_hand(heads, heads | {"intermediate_size": 8})).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    with pytest.raises(InputError, match="filled up to heads that divide 32, got 1 KV groups of 3"):
        export_vllm(tmp_path / "m", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_that_are_there_stay(saved, tmp_path):
    folder, _ = saved()
    with pytest.raises(InputError, match="apart from the model"):
        export_vllm(folder, folder, overwrite=True)
    out = tmp_path / "out"
    out.mkdir()
    (out / "letter.txt").write_text("Dear ...")
    for overwrite, words in ((False, "--overwrite"), (True, "expected a checkpoint to overwrite")):
        with pytest.raises(InputError, match=words):
            export_vllm(folder, out, overwrite=overwrite)
    assert [path.name for path in out.iterdir()] == ["letter.txt"]
    (out / "letter.txt").unlink()
    export_vllm(folder, out)
    with pytest.raises(InputError, match="--overwrite"):
        export_vllm(folder, out)
    export_vllm(folder, out, overwrite=True)
    assert not hidden(tmp_path)


def test_a_disk_without_room(saved, tmp_path, monkeypatch):
    folder, _ = saved()
    usage = SimpleNamespace(total=1, used=1, free=1000)
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda place: usage)
    with pytest.raises(InputError, match="MB of free disk space"):
        export_vllm(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not hidden(tmp_path)


def test_weights_that_are_not_as_config_json_says(saved, tmp_path):
    folder, _ = saved()
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    for changed, words in (
        ({name: weights[name][:-1].clone()}, "of another shape.*model.layers.1.mlp.up_proj"),
        ({name: weights[name] * float("nan")}, "finite weights"),
    ):
        save_file(weights | changed, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(InputError, match=words):
            export_vllm(folder, tmp_path / "out")
        assert not (tmp_path / "out").exists() and not hidden(tmp_path)


def test_a_dtype_that_is_none_of_files_is_computed_in_float32(saved, tmp_path):
    folder, _ = saved()
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float64"}), "utf-8")
    export_vllm(folder, tmp_path / "out")
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.float32}


# --- layers that lack a step ------------------------------------------------------------------------------------------


@pytest.fixture
def silent(tmp_path, tokenizer):
    """A folder whose first layer has no attention and whose second has no MLP, and the model."""
    dense = build("gqa")
    shape = Shape.of(dense)
    plan = Plan("p", 3, (0, 1, 2), (44, 0, 40), (0, *shape.kv_groups[1:]), 0.3, "decoder", 0.3)
    done = prune(dense, tokens(), Settings(multiple=4), plan=plan)
    card = Provenance("p", shape, None, "a test", "condition", "least-squares", "0")
    return save_checkpoint(tmp_path / "small", done.model, tokenizer, done.plan, card), done.model


def test_a_layer_that_lacks_a_step_is_refused_by_the_plugin(silent):
    with pytest.raises(InputError, match="attention and MLP in each layer.*comp-lib export FOLDER --vllm"):
        block_configs(load_model(silent[0])[0].config)


def test_a_step_that_is_gone_becomes_one_of_zeros(silent, tmp_path):
    folder, model = silent
    export_vllm(folder, tmp_path / "out")
    filled, found = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert isinstance(filled, LlamaForCausalLM) and Shape.of(filled).neurons == (44,) * 3
    torch.testing.assert_close(logits(filled, tokens()), logits(model, tokens()), rtol=1e-4, atol=1e-4)
