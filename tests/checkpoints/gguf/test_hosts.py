"""Layers of several widths, and what else a family's own architecture cannot hold: the hosts take it."""

from __future__ import annotations

from dataclasses import replace

import gguf
import pytest
import torch
from tools import torch_losses
from variants import PATTERNS, VARIANTS, build, tokens

from comp_lib.checkpoints.export import export_gguf
from comp_lib.checkpoints.gguf import llama_cpp
from comp_lib.checkpoints.gguf.architectures import ARCHITECTURES
from comp_lib.checkpoints.gguf.read import CONFIG_KEY, GgufFile
from comp_lib.checkpoints.gguf.write import TYPES
from comp_lib.checkpoints.load import load_model
from comp_lib.checkpoints.padded import export_padded
from comp_lib.decoder.families import TYPE_PREFIX
from comp_lib.decoder.own_widths.meta_model import with_true_config
from comp_lib.decoder.shape import Shape
from comp_lib.decoder.structure import layers_of
from comp_lib.decoder.surgery import shrink
from comp_lib.utils.errors import InputError

pytestmark = pytest.mark.slow

LOSS_TOLERANCE = 0.02  # nats: llama.cpp rounds more than torch; rows in the wrong order cost several
WIDTHS = (64, 32, 96)  # complete blocks of 32
ALL_GROUPS = (2, 2, 2)
FEWER_GROUPS = (2, 1, 2)
TIED_QWEN3 = {"tie_word_embeddings": True, "use_sliding_window": False, "head_dim": 16}
GRANITE_BIASES = {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}
# a row of `architectures`: variant, overrides, the architecture that takes its widths
HOSTED = {
    "llama": ("gqa", {}, "deci"),
    "llama-all-at-once": ("all-at-once", {}, "deci"),
    "mistral": ("mistral", {}, "deci"),
    "qwen2": ("qwen2", {}, "deci"),
    "qwen2-tied": ("qwen2", {"tie_word_embeddings": True}, "deci"),
    "phi3": ("phi3", {}, "deci"),
    "ernie4_5": ("ernie4_5", {}, "deci"),
    "ernie4_5-bias": ("ernie4_5-bias", {}, "deci"),
    "granite": ("granite", {}, "deci"),
    "granite-tied-with-biases": ("granite", GRANITE_BIASES, "deci"),
    "qwen3-tied": ("qwen3", TIED_QWEN3, "openelm"),
}
SCALED = {
    "linear": {"factor": 4.0},
    "llama3": VARIANTS["rope-llama3"]["rope_parameters"],
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 16},
    "yarn-of-its-own": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "beta_fast": 16,
        "attention_factor": 1.5,
    },
}


LONGROPE = {
    "max_position_embeddings": 128,
    "original_max_position_embeddings": 16,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [1.0, 2.0, 4.0, 8.0],
    },
}


def scaled(name: str) -> dict:
    """The fields of a config with scaled rotary positions."""
    return {"rope_parameters": {"rope_type": name, "rope_theta": 10000.0} | SCALED[name]}


@pytest.fixture
def uneven(tmp_path, tokenizer):
    """A variant with layers of several widths as a folder: `uneven("qwen2")` -> (folder, model)."""

    def save(name: str, overrides: dict | None = None, widths=WIDTHS, groups=FEWER_GROUPS):
        model = build(name, **{"intermediate_size": 96} | PATTERNS.get(name, {}) | (overrides or {}))
        for layer, width, count in zip(layers_of(model), widths, groups, strict=False):
            shrink(layer, "mlp", torch.arange(width))
            if count < model.config.num_key_value_heads:
                shrink(layer, "attention", torch.arange(count))
        model = with_true_config(model)
        folder = tmp_path / f"uneven-{name}"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder, model

    return save


def differences(file, model, length=24):
    """How far llama.cpp is from transformers on each token of a text of `length`, in nats."""
    ids = tokens(1, length)
    server = llama_cpp.start(file, length + 1, threads=1, cache="f32")
    return (llama_cpp.losses(server, ids) - torch_losses(model, ids)).abs()


def architecture_in(file):
    return GgufFile(file).metadata["general.architecture"]


@pytest.mark.parametrize("groups", [ALL_GROUPS, FEWER_GROUPS], ids=["all-groups", "fewer-groups"])
@pytest.mark.parametrize("row", HOSTED)
def test_llama_cpp_computes_own_widths_as_transformers_does(uneven, own_cache, tmp_path, row, groups):
    name, overrides, host = HOSTED[row]
    folder, model = uneven(name, overrides, groups=groups)
    assert not Shape.of(model).uniform
    file = export_gguf(folder, tmp_path / "m.gguf", "f32")
    assert architecture_in(file) == host
    assert differences(file, model).max() < LOSS_TOLERANCE
    back, _ = load_model(file)
    assert back.config.model_type == model.config.model_type
    assert Shape.of(back) == Shape.of(model)
    weights = back.state_dict()
    for key, weight in model.state_dict().items():
        torch.testing.assert_close(weights[key], weight, rtol=1e-6, atol=0)  # Granite's are multiplied twice


def test_every_host_in_the_table_is_tried():
    tried = {build(name, **overrides).config.model_type for name, overrides, _ in HOSTED.values()}
    assert tried == {name for name, architecture in ARCHITECTURES.items() if architecture.host}


@pytest.mark.parametrize("row", ["qwen2", "phi3", "ernie4_5-bias", "granite", "qwen3-tied"])
def test_the_opposite_order_of_rows_would_show(uneven, tmp_path, monkeypatch, row):
    name, overrides, _ = HOSTED[row]
    folder, model = uneven(name, overrides)
    family = model.config.model_type.removeprefix(TYPE_PREFIX)
    own_architecture = ARCHITECTURES[family]
    opposite = replace(
        own_architecture.host, interleaved=() if own_architecture.host.interleaved else ("q_proj", "k_proj")
    )
    monkeypatch.setitem(ARCHITECTURES, family, replace(own_architecture, host=opposite))
    file = export_gguf(folder, tmp_path / "m.gguf", "f32")
    assert differences(file, model).max() > 10 * LOSS_TOLERANCE


@pytest.mark.parametrize("kind", ["f16", "q8_0", "q4_1", "q4_0"])
@pytest.mark.parametrize("row", ["llama", "qwen2", "phi3", "ernie4_5", "granite", "qwen3-tied"])
def test_llama_cpp_computes_what_the_rounded_weights_say(uneven, own_cache, tmp_path, row, kind):
    """Four bits are far from the model itself, but not from the model that is read from the file."""
    name, overrides, host = HOSTED[row]
    wide_heads = {"hidden_size": 64} if name == "phi3" else {"head_dim": 16}  # a KV group fills a block of 32
    folder, model = uneven(name, overrides | wide_heads)
    file = export_gguf(folder, tmp_path / "m.gguf", kind)
    assert architecture_in(file) == host
    stored = {tensor.name: tensor.tensor_type for tensor in gguf.GGUFReader(file).tensors}
    assert stored["blk.1.ffn_down.weight"] == stored["blk.1.attn_output.weight"] == TYPES[kind]
    back, _ = load_model(file)
    tolerance = 0.05 if kind == "f16" else 0.5  # llama.cpp rounds the states as the weights
    assert differences(file, back).max() < tolerance
    if kind in ("f16", "q8_0"):
        assert differences(file, model).max() < tolerance


SCALED_ROWS = [
    *[(row, name) for row in ("llama", "mistral", "qwen2", "granite", "ernie4_5") for name in SCALED],
    ("qwen3-tied", "linear"),
    ("qwen3-tied", "yarn"),
]


@pytest.mark.parametrize(("row", "positions"), SCALED_ROWS)
def test_scaled_positions(uneven, own_cache, tmp_path, row, positions):
    name, overrides, host = HOSTED[row]
    _, unscaled = uneven(name, overrides)
    folder, model = uneven(name, overrides | scaled(positions))
    file = export_gguf(folder, tmp_path / "m.gguf", "f32")
    assert architecture_in(file) == host
    assert differences(file, unscaled).max() > 10 * LOSS_TOLERANCE  # else nothing was tested
    assert differences(file, model).max() < LOSS_TOLERANCE
    back, _ = load_model(file)
    assert back.config.rope_parameters == model.config.rope_parameters


@pytest.mark.parametrize("positions", SCALED)
def test_scaled_positions_of_one_width(tmp_path, tokenizer, positions):
    model = build("gqa", **scaled(positions))
    model.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    file = export_gguf(tmp_path / "m", tmp_path / "m.gguf", "f32")
    assert architecture_in(file) == "llama"
    assert differences(file, model).max() < LOSS_TOLERANCE


@pytest.mark.parametrize(
    ("positions", "reason"),
    [
        ("llama3", "rope scaling of the type llama3"),
        ("yarn-of-its-own", "yarn with other numbers than llama.cpp's own .attention_factor, beta_fast."),
    ],
)
def test_scaled_positions_that_openelm_does_not_read(uneven, tmp_path, positions, reason):
    folder, _ = uneven("qwen3", TIED_QWEN3 | scaled(positions))
    with pytest.raises(InputError, match=f"got comp_qwen3 with .*{reason}: use the folder itself"):
        export_gguf(folder, tmp_path / "m.gguf", "f32")
    assert not (tmp_path / "m.gguf").exists()


def test_positions_that_change_with_the_length_of_a_text(uneven, tmp_path):
    """The context of the file ends where Phi-3's other frequencies begin."""
    folder, model = uneven("phi3", LONGROPE)
    file = export_gguf(folder, tmp_path / "m.gguf", "f32")
    assert differences(file, model, LONGROPE["original_max_position_embeddings"]).max() < LOSS_TOLERANCE
    with pytest.raises(InputError, match="exceeds the available context size"):
        differences(file, model)


@pytest.mark.parametrize("positions", [{}, LONGROPE], ids=["plain", "longrope"])
def test_positions_that_turn_a_part_of_each_head(uneven, tmp_path, positions):
    """Phi-3's own architecture takes them, so a folder of several widths is to be padded."""
    turned = {"partial_rotary_factor": 0.5} | positions
    if positions:
        factors = {"short_factor": [1.0, 1.3], "long_factor": [2.0, 4.0], "partial_rotary_factor": 0.5}
        turned["rope_parameters"] = positions["rope_parameters"] | factors
    folder, model = uneven("phi3", turned, groups=ALL_GROUPS)
    message = "got comp_phi3 with several widths and positions that turn a part of each head: .*--padded"
    with pytest.raises(InputError, match=message):
        export_gguf(folder, tmp_path / "m.gguf", "f32")
    file = export_gguf(export_padded(folder, tmp_path / "padded"), tmp_path / "m.gguf", "f32")
    assert GgufFile(file).metadata["phi3.rope.dimension_count"] == 4  # of 8
    assert differences(file, model, 16).max() < LOSS_TOLERANCE


# --- one width, and more than the own architecture holds ----------------------------------------------------


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("qwen2", {"head_dim": 8, "num_attention_heads": 2, "num_key_value_heads": 1}),
        ("phi3", {"head_dim": 8, "num_attention_heads": 2, "num_key_value_heads": 1}),
        ("qwen2", {"head_dim": 12}),
        ("ernie4_5-bias", {}),
        ("granite", {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}}),
    ],
    ids=["qwen2-fewer-groups", "phi3-fewer-groups", "qwen2-wide-heads", "ernie4_5-biases", "granite-linear"],
)
def test_one_width_in_a_host(tmp_path, tokenizer, own_cache, name, overrides):
    model = build(name, **overrides)
    model.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    file = export_gguf(tmp_path / "m", tmp_path / "m.gguf", "f32")
    assert architecture_in(file) == "deci"
    assert differences(file, model).max() < LOSS_TOLERANCE
    back, _ = load_model(file)
    assert back.config.model_type == model.config.model_type
    assert differences(file, back).max() < LOSS_TOLERANCE


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "overrides", "reason"),
    [
        ("gemma3", {}, ""),
        ("smollm3", {}, ""),
        ("olmo2", {}, ""),
        ("qwen3", {"head_dim": 16, "use_sliding_window": False}, " and a head of its own"),
    ],
)
def test_no_host_for_several_widths(uneven, tmp_path, name, overrides, reason):
    folder, model = uneven(name, overrides, groups=ALL_GROUPS)
    message = f"got {model.config.model_type} with several widths{reason}: export it with --padded"
    with pytest.raises(InputError, match=message):
        export_gguf(folder, tmp_path / "m.gguf", "f32")
    assert not (tmp_path / "m.gguf").exists()
    padded = export_padded(folder, tmp_path / "padded")
    assert differences(export_gguf(padded, tmp_path / "m.gguf", "f32"), model, 4).max() < LOSS_TOLERANCE


def test_several_widths_and_what_padding_does_not_mend(uneven, tmp_path):
    folder, _ = uneven("qwen3", {"attention_bias": True}, groups=ALL_GROUPS)
    with pytest.raises(InputError, match="llama.cpp runs, got comp_qwen3 with biases: use the folder itself"):
        export_gguf(folder, tmp_path / "m.gguf", "f32")


@pytest.mark.parametrize("kind", ["q8_0", "q4_1", "q4_0"])
def test_several_widths_that_blocks_cannot_hold(uneven, tmp_path, kind):
    folder, _ = uneven("qwen2", {"head_dim": 16}, widths=(64, 40, 96))
    with pytest.raises(InputError, match="multiples of 32, got 40 neurons.*prune with a multiple of 32"):
        export_gguf(folder, tmp_path / "m.gguf", kind)
    folder, _ = uneven("gqa")
    with pytest.raises(InputError, match="multiples of 32, got 16 heads' outputs"):
        export_gguf(folder, tmp_path / "m.gguf", kind)


@pytest.mark.parametrize("content", ["[1]", "{", "{}", '{"model_type": "qwen2", "hidden_size": "wide"}'])
def test_a_damaged_config_in_a_file(uneven, own_cache, tmp_path, content):
    folder, _ = uneven("qwen2")
    file = export_gguf(folder, tmp_path / "m.gguf")
    reader = gguf.GGUFReader(file)
    text = reader.fields[CONFIG_KEY].contents()
    assert len(content) < len(text)
    file.write_bytes(file.read_bytes().replace(text.encode(), content.ljust(len(text)).encode()))
    with pytest.raises(InputError, match="^expected .*, got .*") as raised:
        load_model(file)
    assert "\n" not in str(raised.value)


def test_a_file_of_other_widths_than_its_config_says(uneven, own_cache, tmp_path):
    folder, _ = uneven("phi3")
    file = export_gguf(folder, tmp_path / "m.gguf")
    content = file.read_bytes()
    assert content.count(b"blk.1.ffn_gate.weight") == 1
    file.write_bytes(content.replace(b"blk.1.ffn_gate.weight", b"blk.1.ffn_gats.weight"))
    with pytest.raises(InputError, match="1 unexpected in m.gguf .blk.1.ffn_gats.weight"):
        load_model(file)
