"""Folders that a stranger might hand over: each is refused once, in one line that names what is wrong.

A row is (name, how a good folder is spoilt, fragments of the refusal). The next finding is one more row.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from command import run
from safetensors.torch import load_file, save_file
from variants import build

from comp_lib.calibration.windows import Calibration
from comp_lib.checkpoints import load, locate
from comp_lib.checkpoints.export import export_gguf
from comp_lib.checkpoints.from_disk.prune_model import prune_model
from comp_lib.checkpoints.gguf.read import GgufFile
from comp_lib.checkpoints.load import load_model
from comp_lib.checkpoints.tensors import INDEX_FILE, SINGLE, TensorFiles
from comp_lib.utils.errors import InputError, NoNumber

NONE = object()  # the field is to be taken out
DEEP = "[" * 100_000 + "]" * 100_000
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
LONG_ROPE = ROPE | {"rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 8}
WEIGHT = "model.layers.1.mlp.up_proj.weight"
OTHER_TYPES = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "C64": torch.complex64}
OTHER_TYPES |= {"I8": torch.int8, "BOOL": torch.bool}
# fields that say how much is built -> the most that the files allow
SIZES = {
    "num_hidden_layers": 3,
    "intermediate_size": 512,
    "hidden_size": 512,
    "vocab_size": 512,
    "head_dim": 512,
    "num_attention_heads": 512,
    "num_key_value_heads": 512,
    "num_labels": 512,
}


def settings(file, **fields):
    """Write other fields into a JSON file, which need not be there."""

    def spoil(folder):
        path = folder / file
        content = json.loads(path.read_text()) if path.exists() else {}
        content = {name: value for name, value in (content | fields).items() if value is not NONE}
        path.write_text(json.dumps(content))

    return spoil


def config(**fields):
    return settings("config.json", **fields)


def text(file, content):
    """Write other content into a file."""
    return lambda folder: (folder / file).write_text(content)


def text_of_config(field, number):
    """Write a number into config.json as JSON has it, which Python may not."""

    def spoil(folder):
        path = folder / "config.json"
        fields = json.loads(path.read_text()) | {field: "NUMBER"}
        path.write_text(json.dumps(fields).replace('"NUMBER"', number))

    return spoil


def weights(change):
    """Change the tensors in model.safetensors."""

    def spoil(folder):
        tensors = load_file(folder / SINGLE)
        change(tensors)
        save_file(tensors, folder / SINGLE, metadata={"format": "pt"})

    return spoil


def index(content):
    """Write an index instead of model.safetensors, which becomes `a.safetensors`."""

    def spoil(folder):
        names = load_file(folder / SINGLE)
        (folder / SINGLE).rename(folder / "a.safetensors")
        entries = content(dict.fromkeys(names, "a.safetensors")) if callable(content) else content
        text = entries if isinstance(entries, str) else json.dumps(entries)
        (folder / INDEX_FILE).write_text(text)

    return spoil


def shards(name):
    """Write an index that looks for the weights in the file of that name."""
    return index(lambda names: {"metadata": {}, "weight_map": dict.fromkeys(names, name)})


def all_of(*spoilers):
    return lambda folder: [spoil(folder) for spoil in spoilers]


FOLDERS = [
    # config.json
    ("config-empty", text("config.json", ""), ["JSON", "config.json"]),
    ("config-deep", text("config.json", DEEP), ["JSON", "Recursion"]),
    ("type-unknown", config(model_type="gpt2"), ["decoder", "GPT2LMHeadModel"]),
    ("type-own", config(model_type="own", auto_map={"AutoConfig": "own.Config"}), ["decoder", "'own'"]),
    ("quantised", config(quantization_config={"quant_method": "gptq", "bits": 4}), ["quantised", "'gptq'"]),
    ("hidden-word", config(hidden_size="wide"), ["hidden_size"]),
    ("heads", config(num_attention_heads=5), ["32", "5"]),
    ("act-unknown", config(hidden_act="system"), ["'system'"]),
    ("rope-unknown", config(rope_parameters={"rope_type": "spiral"}), ["spiral"]),
    ("layer-types-short", config(model_type="qwen2", layer_types=["full_attention"]), ["layer_types"]),
    *(
        (f"huge-{field}", config(**{field: 10**9}), [f"{field} of at most {limit}, as the tensors"])
        for field, limit in SIZES.items()
    ),
    ("no-layers", config(num_hidden_layers=0), ["a decoder with layers, got none"]),
    (
        "huge-buffer",
        config(model_type="phi3", rope_parameters=ROPE | {"partial_rotary_factor": 1e9}),
        ["a config by which", "inv_freq has at most", "got 4000000000"],
    ),
    ("epsilon-nan", config(rms_norm_eps=math.nan), ["rms_norm_eps as finite numbers, got nan"]),
    (
        "epsilon-negative",
        config(rms_norm_eps=-1.0),
        ["rms_norm_eps as a number that is not negative, got -1"],
    ),
    ("epsilon-large", text_of_config("rms_norm_eps", "1e400"), ["rms_norm_eps as finite numbers, got inf"]),
    (
        "theta-infinite",
        config(rope_parameters=ROPE | {"rope_theta": -math.inf}),
        ["rope_parameters.rope_theta as finite numbers, got -inf"],
    ),
    ("theta-0", config(rope_parameters=ROPE | {"rope_theta": 0.0}), ["NaN or infinity in", "inv_freq"]),
    (
        "factors-nan",
        config(rope_parameters=LONG_ROPE | {"short_factor": [1.0] * 4, "long_factor": [1.0, math.nan]}),
        ["rope_parameters.long_factor as finite numbers, got [1.0, nan]"],
    ),
    (
        "multiplier-nan",
        config(model_type="granite", logits_scaling=math.nan),
        ["logits_scaling as finite numbers, got nan"],
    ),
    ("no-widths", config(model_type="comp_llama"), ["config.json that can be built"]),
    # weights
    ("index-no-json", index("{"), ["JSON", INDEX_FILE]),
    ("index-no-map", index({"metadata": {}}), ["weight_map", INDEX_FILE]),
    ("index-numbers", shards(7), ["weight_map", INDEX_FILE]),
    ("index-pickle", shards("a.bin"), ["weight_map", "beside"]),
    ("index-missing-shard", shards("b.safetensors"), ["weight_map", "beside"]),
    *(
        (
            f"weights-{name}",
            weights(lambda t, dtype=dtype: t.update({WEIGHT: t[WEIGHT].to(dtype)})),
            ["weights as F64, F32, BF16, F16, got", f"{WEIGHT} as {name} in"],
        )
        for name, dtype in OTHER_TYPES.items()
    ),
    # tokenizer, and how text is written
    ("tokenizer-no-json", text("tokenizer.json", "{"), ["tokenizer"]),
    ("tokenizer-class", settings("tokenizer_config.json", tokenizer_class=7), ["tokenizer"]),
    ("tokenizer-of-another", config(vocab_size=500), ["tokens below vocab_size, 500", "511"]),
    ("generation-list", text("generation_config.json", "[]"), ["generation_config.json"]),
    ("generation-wrong", settings("generation_config.json", max_new_tokens=-5), ["max_new_tokens"]),
]
GOOD = [  # folders that look odd and are in use
    ("no-generation", lambda folder: (folder / "generation_config.json").unlink()),
    ("returns-tuples", config(return_dict=False, use_return_dict=False)),
    ("attention-of-the-hub", config(attn_implementation="kernels-community/x", _attn_implementation="a/b")),
    ("another-file", config(transformers_weights="../a.safetensors", auto_map={"AutoConfig": "own.Config"})),
    (
        "rope-of-old",
        config(rope_parameters=NONE, rope_theta=10000, rope_scaling={"type": "linear", "factor": 2.0}),
    ),
    (
        "frequencies-of-old",
        weights(lambda t: t.update({"model.layers.0.rotary_emb.inv_freq": torch.ones(4)})),
    ),
    (
        "shards-in-the-cache",
        all_of(shards("b.safetensors"), lambda f: (f / "b.safetensors").symlink_to("a.safetensors")),
    ),
    ("sampling-in-greedy", settings("generation_config.json", temperature=0.6, do_sample=False)),
]


@pytest.fixture
def folder(parent, tmp_path) -> Path:
    shutil.copytree(parent, tmp_path / "model")
    (tmp_path / "model" / "own.py").write_text(f"import os; os.mkdir({str(tmp_path / 'trapped')!r})")
    return tmp_path / "model"


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("name", "spoil", "fragments"), FOLDERS, ids=[row[0] for row in FOLDERS])
def test_bad_folders_are_refused_in_one_line(folder, monkeypatch, name, spoil, fragments):
    spoil(folder)
    monkeypatch.setattr(TensorFiles, "read", lambda *args: pytest.fail("weights read"))
    with pytest.raises(InputError) as raised:
        load_model(folder)
    message = str(raised.value)
    assert "\n" not in message
    assert len(message) < 1500
    assert message.startswith("expected ")
    assert ", got " in message
    assert all(fragment in message for fragment in fragments), message
    assert not (folder.parent / "trapped").exists()


@pytest.mark.parametrize(("name", "spoil"), GOOD, ids=[row[0] for row in GOOD])
def test_odd_folders_load(folder, tmp_path, name, spoil):
    spoil(folder)
    model, _ = load_model(folder)
    assert model.config._attn_implementation == "sdpa"
    assert model.config.return_dict
    assert torch.equal(model.lm_head.weight, build().lm_head.weight)
    model.config.save_pretrained(tmp_path / "again")
    assert "kernels-community" not in (tmp_path / "again" / "config.json").read_text()
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("field", ["num_hidden_layers", "intermediate_size"])
@pytest.mark.parametrize("kind", ["folder", "gguf", "hub"])
def test_sizes_are_compared_before_anything_is_built(folder, tmp_path, monkeypatch, kind, field):
    name = folder
    if kind == "gguf":
        name = tmp_path / "model.gguf"
        export_gguf(folder, name)
        read_fields = GgufFile.config_fields
        monkeypatch.setattr(GgufFile, "config_fields", lambda file: read_fields(file) | {field: 10**9})
    else:
        config(**{field: 10**9})(folder)
    if kind == "hub":
        name = "someone/some-model"
        monkeypatch.setattr(locate, "snapshot_download", lambda *_, **__: str(folder))
        monkeypatch.setattr(load, "TensorFiles", lambda _: pytest.fail("weights fetched"))
    monkeypatch.setattr(load, "make_meta_model", lambda *_: pytest.fail("built"))
    limits = dict(zip(("num_hidden_layers", "intermediate_size"), load.HUB_LIMITS, strict=True))
    if kind != "hub":
        limits = {"num_hidden_layers": 3, "intermediate_size": 512}
    with pytest.raises(InputError, match=f"^expected {field} of at most {limits[field]}, .* got 1000000000"):
        load_model(name)


def test_a_field_may_be_deep(folder):
    deep = 900 * '{"a":' + "1" + 900 * "}"
    text_of_config("deep", deep)(folder)
    with pytest.raises(InputError):  # by transformers, which walks through all fields
        load_model(folder)


def test_a_loss_that_is_no_number_ends_a_command_with_exit_code_1(tmp_path, tokenizer):
    """Granite divides its logits by a field of its config."""
    folder = tmp_path / "model"
    build("granite").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config(logits_scaling=0.0)(folder)
    options = ("--judged-on", "evaluation", "--window-length", "16", "--window-count", "2")
    for against in ([], ["--against", folder]):
        result = run("evaluate", folder, *options, *against)
        assert result.exit_code == 1
        assert result.stdout == ""
        assert result.stderr.splitlines()[-1].startswith("comp-lib: expected ")
        assert "loss as a finite number, got nan" in result.stderr


@pytest.mark.usefixtures("own_cache")
def test_a_loss_that_is_no_number_is_no_verdict(tmp_path, tokenizer):
    """Granite divides its logits by a field of its config."""
    build("granite").save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    config(logits_scaling=0.0)(tmp_path / "model")
    text = Calibration("shipped", sequences=2, length=16)
    with pytest.raises(NoNumber, match="^expected loss as a finite number, got nan: "):
        prune_model(
            tmp_path / "model",
            tmp_path / "out",
            calibration=text,
            judged_on="evaluation:code",
            preset="stock",
            multiple=4,
        )
    assert not (tmp_path / "out").exists()


def test_mistral_with_a_list_of_layers_is_read_as_transformers_does(folder):
    config(model_type="mistral", layer_types=["full_attention"] * 3, sliding_window=8)(folder)
    assert load_model(folder)[0].config.model_type == "ministral"


def test_one_file_goes_before_an_index(folder):
    """transformers does the same."""
    build(seed=1).save_pretrained(folder.parent / "other", max_shard_size="20KB")
    for path in (folder.parent / "other").glob("model*"):
        shutil.copy(path, folder)
    assert torch.equal(load_model(folder)[0].lm_head.weight, build().lm_head.weight)
