"""Folders that a stranger might hand over: one row each, and each is refused in one line that names what is wrong.

A row is (name, how a good folder is spoilt, words of the refusal). The next finding is one more row.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from variants import build

from comp_lib.errors import InputError
from comp_lib.models.door import check_sizes, honoured
from comp_lib.models.load import check_memory, load_model, open_model
from comp_lib.scale.model_on_disk import open_streamed
from comp_lib.system.tensor_files import INDEX, SINGLE

NONE = object()  # the field is to be taken out
ROPE = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LAYER = {"intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
DEEP = "[" * 100_000 + "]" * 100_000


def config(**fields):
    """Other fields in config.json."""
    return settings("config.json", **fields)


def settings(file, **fields):
    """Other fields in that file, which need not be there."""

    def spoil(folder):
        path = folder / file
        content = json.loads(path.read_text()) if path.exists() else {}
        content = {name: value for name, value in (content | fields).items() if value is not NONE}
        path.write_text(json.dumps(content))

    return spoil


def tokenizer(change):
    """Another tokenizer.json."""

    def spoil(folder):
        content = json.loads((folder / "tokenizer.json").read_text())
        change(content)
        (folder / "tokenizer.json").write_text(json.dumps(content))

    return spoil


def text(file, content):
    """Other content of that file."""
    return lambda folder: (folder / file).write_text(content)


def layers(**entries):
    """config.json of widths by layer."""
    return config(model_type="comp_llama", per_layer_config=entries)


def large(file, size):
    return lambda folder: os.truncate(folder / file, size)


def pipe(file):
    """A named pipe in the place of that file: whoever reads it waits for ever."""

    def spoil(folder):
        (folder / file).unlink(missing_ok=True)
        os.mkfifo(folder / file)

    return spoil


def link(file, target):
    def spoil(folder):
        (folder / file).unlink(missing_ok=True)
        (folder / file).symlink_to(target)

    return spoil


def weights(change):
    """Other tensors in model.safetensors."""

    def spoil(folder):
        tensors = load_file(folder / SINGLE)
        change(tensors)
        save_file(tensors, folder / SINGLE, metadata={"format": "pt"})

    return spoil


def index(content):
    """An index instead of model.safetensors, which becomes `a.safetensors` (and one beside the folder)."""

    def spoil(folder):
        names = load_file(folder / SINGLE)
        shutil.copy(folder / SINGLE, folder.parent / "a.safetensors")
        (folder / SINGLE).rename(folder / "a.safetensors")
        whole = {"metadata": {}, "weight_map": dict.fromkeys(names, "a.safetensors")}
        made = content(whole) if callable(content) else content
        (folder / INDEX).write_text(made if isinstance(made, str) else json.dumps(made))

    return spoil


def shards(name):
    """An index that looks for the weights in the file of that name."""
    return index(lambda whole: whole | {"weight_map": dict.fromkeys(whole["weight_map"], name)})


def also(*spoilers):
    return lambda folder: [spoil(folder) for spoil in spoilers]


def header(content, length=None):
    """A safetensors file with that header."""
    size = len(content) if length is None else length
    return lambda folder: (folder / SINGLE).write_bytes(size.to_bytes(8, "little") + content)


OTHER_HEAD = weights(lambda t: t.update({"lm_head.weight": t["lm_head.weight"] + 1}))

FOLDERS = [
    # config.json: not JSON, or not an object
    ("config-empty", text("config.json", ""), ["JSON", "config.json"]),
    ("config-list", text("config.json", "[1, 2]"), ["object", "config.json"]),
    ("config-deep", text("config.json", DEEP), ["JSON", "Recursion", "config.json"]),
    ("config-long-number", text("config.json", '{"hidden_size": ' + "9" * 5000 + "}"), ["JSON", "config.json"]),
    ("config-large", large("config.json", 17 << 20), ["at most 16 MB", "config.json"]),
    ("config-pipe", pipe("config.json"), ["pipe", "config.json"]),
    ("config-device", link("config.json", "/dev/zero"), ["device", "config.json"]),
    ("config-loop", link("config.json", "config.json"), ["config.json"]),
    (
        "config-folder",
        also(lambda f: (f / "config.json").unlink(), lambda f: (f / "config.json").mkdir()),
        ["a folder"],
    ),
    # config.json: fields
    ("no-type", config(model_type=NONE), ["LLaMA-class"]),
    ("type-list", config(model_type=["llama"]), ["LLaMA-class"]),
    ("quantised-word", config(quantization_config="gptq"), ["quantised"]),
    ("layers-huge", config(num_hidden_layers=10**9), ["num_hidden_layers", "1 to 1,000", "1000000000"]),
    ("layers-none", config(num_hidden_layers=0), ["num_hidden_layers"]),
    ("layers-negative", config(num_hidden_layers=-3), ["num_hidden_layers"]),
    ("layers-true", config(num_hidden_layers=True), ["num_hidden_layers", "True"]),
    ("hidden-huge", config(hidden_size=10**12), ["hidden_size"]),
    ("hidden-float", config(hidden_size=32.5), ["hidden_size"]),
    ("hidden-list", config(hidden_size=[32]), ["hidden_size"]),
    ("neurons-none", config(intermediate_size=0), ["intermediate_size"]),
    ("vocabulary-huge", config(vocab_size=10**10), ["vocab_size"]),
    ("heads-none", config(num_attention_heads=0), ["num_attention_heads"]),
    ("kv-heads-none", config(num_key_value_heads=0), ["num_key_value_heads"]),
    ("kv-heads-odd", config(num_key_value_heads=3), ["multiple of the 3 KV heads", "4 heads"]),
    ("head-dim-odd", config(head_dim=7), ["even", "`head_dim`=7"]),
    (
        "head-dim-of-nothing",
        config(model_type="mistral", head_dim=NONE, num_attention_heads=64),
        ["even head_dim", "0"],
    ),
    ("head-dim-none", config(head_dim=0), ["head_dim"]),
    ("eps-nan", config(rms_norm_eps=math.nan), ["rms_norm_eps", "nan"]),
    ("eps-infinite", config(rms_norm_eps=math.inf), ["rms_norm_eps", "inf"]),
    ("eps-negative", config(rms_norm_eps=-1e-6), ["rms_norm_eps"]),
    ("eps-zero", config(rms_norm_eps=0), ["rms_norm_eps"]),
    ("eps-word", config(rms_norm_eps="small"), ["rms_norm_eps", "'small'"]),
    ("positions-none", config(max_position_embeddings=0), ["max_position_embeddings"]),
    ("act-unknown", config(hidden_act="system"), ["hidden_act", "'system'"]),
    ("dtype-function", config(dtype="load"), ["dtype", "'load'"]),
    ("dtype-number", config(torch_dtype=16), ["torch_dtype"]),
    ("tied-word", config(tie_word_embeddings="no"), ["tie_word_embeddings", "true or false"]),
    ("pad-too-high", config(pad_token_id=512), ["pad_token_id below vocab_size, 512"]),
    ("eos-words", config(eos_token_id=["</s>"]), ["eos_token_id"]),
    ("rope-list", config(rope_parameters=[1]), ["rope_parameters"]),
    ("rope-unknown", config(rope_parameters={"rope_type": "spiral"}), ["rope_type", "'spiral'"]),
    ("rope-theta-zero", config(rope_parameters={"rope_type": "default", "rope_theta": 0}), ["rope_theta"]),
    ("rope-factor-nan", config(rope_parameters=ROPE | {"factor": math.nan}), ["rope_parameters.factor"]),
    ("rope-half", config(rope_parameters={"rope_type": "llama3", "rope_theta": 1e4}), ["llama3", "factor"]),
    ("rope-partial", config(partial_rotary_factor=0.5), ["partial_rotary_factor"]),
    ("layer-types-short", config(model_type="qwen2", layer_types=["full_attention"]), ["layer_types"]),
    ("layer-types-word", config(model_type="qwen2", layer_types=["mamba"] * 3), ["layer_types"]),
    ("layer-types-no-window", config(model_type="qwen2", layer_types=["sliding_attention"] * 3), ["sliding_window"]),
    ("layers-list", config(model_type="comp_llama", per_layer_config=[LAYER]), ["per_layer_config"]),
    ("layers-beyond", layers(**{"7": LAYER}), ["per_layer_config", "'7'"]),
    ("layers-name", layers(first=LAYER), ["per_layer_config", "'first'"]),
    ("layers-no-widths", layers(**{"0": 48}), ["per_layer_config"]),
    ("layers-other-field", layers(**{"0": LAYER | {"hidden_size": 8}}), ["hidden_size"]),
    ("layers-neurons", layers(**{"0": LAYER | {"intermediate_size": 10**9}}), ["layer 0", "intermediate_size"]),
    ("layers-kv-heads", layers(**{"0": LAYER | {"num_key_value_heads": 3}}), ["multiple of its 3 KV heads"]),
    # weights
    ("weights-pipe", pipe(SINGLE), ["pipe", SINGLE]),
    ("weights-device", link(SINGLE, "/dev/zero"), ["device", SINGLE]),
    ("weights-gone", link(SINGLE, "nothing"), [SINGLE]),
    ("weights-header-huge", header(b"{}", 1 << 60), ["complete safetensors", SINGLE]),
    ("weights-header-no-json", header(b"[" * 64), ["complete safetensors", SINGLE]),
    (
        "weights-whole-numbers",
        weights(lambda t: t.update({"model.norm.weight": torch.ones(32).int()})),
        ["I32", "norm"],
    ),
    ("index-no-json", index("{"), ["JSON", INDEX]),
    ("index-list", index([1]), ["object", INDEX]),
    ("index-deep", index(DEEP), ["JSON", INDEX]),
    ("index-no-map", index({"metadata": {}}), ["weight_map", INDEX]),
    ("index-empty-map", index({"metadata": {}, "weight_map": {}}), ["weight_map", INDEX]),
    ("index-map-list", index({"metadata": {}, "weight_map": ["a.safetensors"]}), ["weight_map", INDEX]),
    ("index-no-metadata", index(lambda whole: {"weight_map": whole["weight_map"]}), ["metadata", INDEX]),
    ("index-numbers", shards(7), ["names of *.safetensors", "7"]),
    ("index-above", shards("../a.safetensors"), ["beside", "'../a.safetensors'"]),
    ("index-absolute", shards("/etc/a.safetensors"), ["beside", "'/etc/a.safetensors'"]),
    ("index-windows", shards("..\\a.safetensors"), ["beside"]),
    ("index-dots", shards(".."), ["beside", "'..'"]),
    ("index-pickle", shards("a.bin"), ["'a.bin'"]),
    ("index-zero-byte", shards("a\0.safetensors"), ["the file"]),
    ("index-missing-shard", shards("b.safetensors"), ["b.safetensors"]),
    ("index-pipe", also(shards("b.safetensors"), pipe("b.safetensors")), ["pipe", "b.safetensors"]),
    (
        "tensor-twice",
        also(
            index(lambda whole: whole | {"weight_map": whole["weight_map"] | {"more": "b.safetensors"}}),
            lambda folder: shutil.copy(folder / "a.safetensors", folder / "b.safetensors"),
        ),
        ["once", "a second one in b.safetensors"],
    ),
    ("two-heads", also(config(tie_word_embeddings=True), OTHER_HEAD), ["tie_word_embeddings", "lm_head.weight"]),
    (
        "head-of-another-shape",
        also(
            config(tie_word_embeddings=True),
            weights(lambda t: t.update({"lm_head.weight": t["lm_head.weight"][:500].clone()})),
        ),
        ["tie_word_embeddings", "lm_head.weight"],
    ),
    ("adapter", text("adapter_config.json", '{"base_model_name_or_path": "x/y"}'), ["adapter_config.json"]),
    ("distributed", text("shard-00000-model-00001-of-00001.safetensors", ""), ["shard-00000-model"]),
    # tokenizer, and how text is written
    ("tokenizer-no-json", text("tokenizer.json", "{"), ["tokenizer"]),
    ("tokenizer-deep", text("tokenizer.json", DEEP), ["tokenizer"]),
    ("tokenizer-large", large("tokenizer.json", 101 << 20), ["at most 100 MB", "tokenizer.json"]),
    ("tokenizer-pipe", pipe("tokenizer.json"), ["pipe", "tokenizer.json"]),
    ("tokenizer-config-pipe", pipe("tokenizer_config.json"), ["pipe", "tokenizer_config.json"]),
    ("tokenizer-config-list", text("tokenizer_config.json", "[]"), ["object", "tokenizer_config.json"]),
    ("tokenizer-half-a-letter", settings("tokenizer_config.json", x="\ud800"), ["JSON", "tokenizer_config.json"]),
    ("tokenizer-panics", tokenizer(lambda t: t["post_processor"]["special_tokens"].clear()), ["tokenizer", "Panic"]),
    ("tokenizer-class", settings("tokenizer_config.json", tokenizer_class=7), ["tokenizer"]),
    ("tokenizer-of-another", config(vocab_size=500), ["tokens below vocab_size, 500", "511"]),
    ("template-number", settings("tokenizer_config.json", chat_template=7), ["chat template", "7"]),
    ("template-list", settings("tokenizer_config.json", chat_template=[1]), ["tokenizer"]),
    ("template-pipe", pipe("chat_template.jinja"), ["pipe", "chat_template.jinja"]),
    ("generation-list", text("generation_config.json", "[]"), ["object", "generation_config.json"]),
    ("generation-pipe", pipe("generation_config.json"), ["pipe", "generation_config.json"]),
    ("generation-wrong", settings("generation_config.json", max_new_tokens=-5), ["max_new_tokens"]),
    ("generation-cache", settings("generation_config.json", cache_implementation="x"), ["cache_implementation"]),
    ("generation-pad", settings("generation_config.json", pad_token_id=512), ["pad_token_id below vocab_size"]),
    ("generation-eos", settings("generation_config.json", eos_token_id="</s>"), ["eos_token_id"]),
]
GOOD = [  # what looks odd and is in use
    ("as-it-is", lambda folder: None),
    ("no-generation", lambda folder: (folder / "generation_config.json").unlink()),
    ("attention-of-the-hub", config(attn_implementation="kernels-community/x")),
    ("attention-private", config(_attn_implementation="kernels-community/x", _attn_implementation_autoset=False)),
    ("experts-of-the-hub", config(experts_implementation="kernels-community/x", _experts_implementation="a/b")),
    ("attentions-put-out", config(output_attentions=True, return_dict=False)),
    ("a-name-of-code", config(to_dict=5, sub_configs={"x": 1}, attribute_map={"hidden_size": "vocab_size"})),
    ("another-file", config(transformers_weights="../a.safetensors", auto_map={"AutoConfig": "own.Config"})),
    ("labels", config(num_labels=10**12, problem_type="regression")),
    ("pad-of-the-first-llamas", config(pad_token_id=-1)),
    ("rope-of-old", config(rope_parameters=NONE, rope_theta=10000, rope_scaling={"type": "linear", "factor": 2.0})),
    ("equal-heads", also(config(tie_word_embeddings=True), weights(lambda t: t.update(equal(t))))),
    ("shards-in-the-cache", also(shards("b.safetensors"), link("b.safetensors", "../a.safetensors"))),
    ("sampling-in-greedy", settings("generation_config.json", temperature=0.6, do_sample=False)),
    ("tokenizer-code", settings("tokenizer_config.json", auto_map={"AutoTokenizer": [None, "own.T"]})),
    ("papers-of-a-trainer", also(text("trainer_state.json", "[]"), large("trainer_state.json", 200 << 20))),
    ("templates", settings("tokenizer_config.json", chat_template=[{"name": "default", "template": "{{ x }}"}])),
]


def equal(tensors):
    return {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}


@pytest.fixture
def folder(parent, tmp_path) -> Path:
    shutil.copytree(parent, tmp_path / "model")
    return tmp_path / "model"


def test_the_largest_models_pass():
    large = {"hidden_size": 16_384, "intermediate_size": 53_248, "num_hidden_layers": 200, "vocab_size": 300_000}
    large |= {"num_attention_heads": 128, "num_key_value_heads": 8, "rope_theta": 5e8, "model_type": "llama"}
    assert honoured(large, "x") == large and AutoConfig.for_model(**large).hidden_size == 16_384
    check_sizes(AutoConfig.for_model(**large).to_dict(), "x")


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("name", "spoil", "words"), FOLDERS, ids=[row[0] for row in FOLDERS])
def test_hostile_folders_are_refused_in_one_line(folder, monkeypatch, name, spoil, words):
    spoil(folder)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *args, **options: pytest.fail("weights read"))
    for opener in (load_model, open_model, open_streamed):
        with pytest.raises(InputError) as raised:
            opener(folder)
        message = str(raised.value)
        assert message.startswith("expected ") and ", got " in message and len(message) < 1500
        assert all(word in message for word in words), message


@pytest.mark.parametrize(("name", "spoil"), GOOD, ids=[row[0] for row in GOOD])
def test_odd_folders_are_the_same_model_for_every_command(folder, tmp_path, name, spoil):
    spoil(folder)
    model, _ = load_model(folder)
    streamed, _ = open_streamed(folder)
    check_memory(str(folder))
    assert model.config._attn_implementation == streamed.config._attn_implementation == "sdpa"
    assert model.config._experts_implementation in (None, "eager") and not model.config.output_attentions
    for key in ("model.norm.weight", "model.embed_tokens.weight"):
        assert torch.equal(streamed.files.read(key, torch.float32), model.state_dict()[key])
    model.config.save_pretrained(tmp_path / "again")
    load_again = json.loads((tmp_path / "again" / "config.json").read_text())
    assert "kernels-community" not in json.dumps(load_again)


def test_one_file_goes_before_an_index(folder):
    """As in transformers: both ways to read see the same weights."""
    other = folder.parent / "other"
    build(seed=1).save_pretrained(other, max_shard_size="20KB")
    for path in other.glob("model*"):
        shutil.copy(path, folder)
    model, _ = load_model(folder)
    streamed, _ = open_streamed(folder)
    assert torch.equal(streamed.files.read("model.norm.weight", torch.float32), model.model.norm.weight)
    assert [path.name for path in streamed.files.files] == [SINGLE]
