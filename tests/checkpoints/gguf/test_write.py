"""GGUF files: what llama.cpp computes from them, what comes back, what is refused, what is left behind."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from conftest import TINY_CONFIG
from safetensors.torch import load_file, save_file
from tools import torch_losses
from transformers import Gemma2Config, Gemma2ForCausalLM
from variants import PATTERNS, VARIANTS, build, tokens

from comp_lib.calibration.texts import load_text
from comp_lib.calibration.windows import calibration_tokens
from comp_lib.checkpoints.card import Provenance
from comp_lib.checkpoints.export import export_gguf
from comp_lib.checkpoints.gguf import layout, llama_cpp, read, write
from comp_lib.checkpoints.gguf.layout import interleave
from comp_lib.checkpoints.gguf.read import GgufFile
from comp_lib.checkpoints.gguf.write import TYPES
from comp_lib.checkpoints.load import load_model
from comp_lib.checkpoints.save import save_checkpoint
from comp_lib.checkpoints.wheels import INCLUDED_MODEL, wheel_gguf
from comp_lib.decoder.shape import Shape
from comp_lib.evaluation.loss import measure_loss
from comp_lib.evaluation.windows import evaluation_tokens
from comp_lib.pruning.comp import prune
from comp_lib.pruning.settings import Settings
from comp_lib.utils.errors import InputError

pytestmark = pytest.mark.slow

LOSS_TOLERANCE = 0.02  # nats: llama.cpp rounds more than torch; rows in the wrong order cost several

LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
DYNAMIC = LINEAR | {"rope_type": "dynamic"}


@pytest.fixture
def saved(tmp_path, tokenizer):
    """A variant of the tiny model as a folder: `saved("gqa", intermediate_size=64)` -> (folder, model)."""

    def save(name: str = "gqa", **overrides):
        model = build(name, **overrides)
        folder = tmp_path / f"model-{name}"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder, model

    return save


def llama_losses(file, ids):
    return llama_cpp.losses(llama_cpp.start(file, ids.shape[1] + 1, threads=1, cache="f32"), ids)


def tensors(file):
    return {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}


def contents(file):
    return {name: tensor.data.tobytes() for name, tensor in tensors(file).items()}


# --- what the file holds ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in VARIANTS if "eager" not in name])
def test_llama_cpp_computes_what_transformers_computes(saved, tmp_path, name):
    folder, model = saved(name, **PATTERNS.get(name, {}))
    window = getattr(model.config, "sliding_window", None)
    # but for Gemma 3, the context of the file ends with the window, or with the first frequencies of longrope
    length = 4 if (window and name != "gemma3") or name == "rope-longrope" else 24
    ids = tokens(1, length)
    file = export_gguf(folder, tmp_path / "m.gguf", "f32")
    torch.testing.assert_close(llama_losses(file, ids), torch_losses(model, ids), atol=LOSS_TOLERANCE, rtol=0)


FEWER_HEADS = {"head_dim": 8, "num_attention_heads": 2, "num_key_value_heads": 1}  # 16 wide on a stream of 32


@pytest.mark.parametrize("name", ["gqa", "mistral", "qwen3", "smollm3", "gemma3", "granite", "ernie4_5"])
def test_fewer_heads_than_fill_the_stream(saved, tmp_path, name):
    """Pruning leaves fewer heads when it removes KV groups."""
    overrides = PATTERNS.get(name, {}) | FEWER_HEADS
    if name == "gemma3":
        overrides["query_pre_attn_scalar"] = 8
    folder, model = saved(name, **overrides)
    ids = tokens(1, 4)
    file = export_gguf(folder, tmp_path / "m.gguf", "f32")
    torch.testing.assert_close(llama_losses(file, ids), torch_losses(model, ids), atol=LOSS_TOLERANCE, rtol=0)


@pytest.mark.parametrize(("name", "reason"), [("smollm3", "each fourth"), ("gemma3", "five of six")])
def test_layers_out_of_the_pattern_that_llama_cpp_counts_on(saved, tmp_path, name, reason):
    """Layers are out of their pattern once a layer between them was dropped."""
    with pytest.raises(InputError, match=f"that llama.cpp runs, got {name}.*{reason}.*the folder itself"):
        export_gguf(saved(name)[0], tmp_path / "m.gguf", "f32")
    assert not (tmp_path / "m.gguf").exists()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("rope-llama3", {"widths": "per-layer", "drop_layers": 0, "multiple": 4, "ratio": 0.3}),
        # KV groups go, and there are biases
        ("gqa", {"method": "flap", "recovery": "bias", "multiple": 4, "ratio": 0.3}),
        # 3 heads do not divide the stream of 32
        ("mha", {"kv_groups": 3, "multiple": 4, "ratio": 0.4}),
    ],
)
def test_widths_that_no_stock_config_can_express(tmp_path, tokenizer, name, settings):
    dense = build(name)
    pruned = prune(dense, tokens(8, 24, seed=1), Settings(**settings))
    shape = Shape.of(pruned.model)
    assert not shape.fits_stock_config
    card = Provenance("p", Shape.of(dense), "a test")
    folder = save_checkpoint(tmp_path / "small", pruned.model, tokenizer, pruned.plan, card)
    file = export_gguf(folder, tmp_path / "m.gguf", "f32")
    fields = gguf.GGUFReader(file).fields
    assert fields["general.architecture"].contents() == ("llama" if shape.uniform else "deci")
    ids = tokens(1, 24)
    torch.testing.assert_close(
        llama_losses(file, ids), torch_losses(pruned.model, ids), atol=LOSS_TOLERANCE, rtol=0
    )


def test_rows_in_the_wrong_order_would_show(saved, tmp_path, monkeypatch):
    folder, model = saved()
    monkeypatch.setattr(layout, "interleave", lambda rows, head_dim: rows)
    file = export_gguf(folder, tmp_path / "m.gguf", "f32")
    ids = tokens(1, 24)
    assert (llama_losses(file, ids) - torch_losses(model, ids)).abs().max() > 10 * LOSS_TOLERANCE


def test_interleaving_makes_neighbours_of_the_pairs_that_rotate_together():
    heads, size = 3, 8
    rows = np.arange(heads * size)[:, None] * np.ones((1, 2), dtype=int)
    turned = interleave(rows, size)
    for head in range(heads):
        for pair in range(size // 2):
            first = head * size + pair
            assert (turned[head * size + 2 * pair] == first).all()
            assert (turned[head * size + 2 * pair + 1] == first + size // 2).all()


@pytest.mark.parametrize("name", ["mha", "gqa", "mqa", "tied", "head-dim", "qwen2"])
def test_a_model_comes_back_bit_for_bit(saved, own_cache, tmp_path, tokenizer, name):
    folder, model = saved(name)
    back, its_tokenizer = load_model(export_gguf(folder, tmp_path / "m.gguf", "f32"))
    before = model.state_dict()
    after = back.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    for field in ("rms_norm_eps", "max_position_embeddings", "rope_parameters", "tie_word_embeddings"):
        assert getattr(back.config, field) == pytest.approx(getattr(model.config, field))
    text = "What a day, said the crow. It cost 1234 \u00e9cus!"
    assert its_tokenizer(text)["input_ids"] == load_model(folder)[1](text)["input_ids"]
    second_file = export_gguf(tmp_path / "m.gguf", tmp_path / "again.gguf", "f32")  # from GGUF to GGUF
    assert contents(second_file) == contents(tmp_path / "m.gguf")


@pytest.mark.parametrize(("kind", "name"), [("f32", "gqa"), ("q8_0", "qwen2"), ("q4_0", "tied")])
def test_rows_that_are_converted_in_groups_give_the_same_file_and_the_same_model(
    saved, own_cache, tmp_path, monkeypatch, kind, name
):
    folder, _ = saved(name, intermediate_size=64)
    whole_file = export_gguf(folder, tmp_path / "whole.gguf", kind)
    whole = load_model(whole_file)[0].state_dict()
    for module in (read, write):
        monkeypatch.setattr(module, "ROWS_AT_ONCE", 24)  # no divisor of any number of rows
    assert contents(export_gguf(folder, tmp_path / "grouped.gguf", kind)) == contents(whole_file)
    grouped = load_model(whole_file)[0].state_dict()
    assert all(torch.equal(grouped[key], whole[key]) for key in whole)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_file_is_read_as_the_model_it_was_made_of(saved, own_cache, tmp_path, name):
    """Other makers' files say less: no window, no scaled positions, and half of these types not at all."""
    folder, model = saved(name, **PATTERNS.get(name, {}))
    back, _ = load_model(export_gguf(folder, tmp_path / "m.gguf", "f32"))
    ids = tokens(2, 24)
    with torch.inference_mode():
        torch.testing.assert_close(back(ids).logits, model(ids).logits, atol=1e-4, rtol=1e-4)
    fields_read, fields_written = back.config.to_dict(), model.config.to_dict()
    assert {
        key for key in fields_read | fields_written if fields_read.get(key) != fields_written.get(key)
    } <= {
        "architectures",
        "_name_or_path",
    }


@pytest.mark.parametrize(("kind", "levels"), [("q8_0", 254), ("q4_1", 15), ("q4_0", 15)])
def test_a_block_type_is_off_by_no_more_than_its_step(saved, tmp_path, kind, levels):
    """A block of 32 has at most 2^bits - 1 steps; rounding loses half a step, or one at uneven ends."""
    folder, model = saved(intermediate_size=64)
    file = export_gguf(folder, tmp_path / "m.gguf", kind)
    stored = tensors(file)
    name = "blk.1.ffn_down.weight"
    key = "model.layers.1.mlp.down_proj.weight"
    assert stored[name].tensor_type == TYPES[kind]
    weight = model.state_dict()[key].numpy().reshape(-1, 32)
    errors = np.abs(gguf.dequantize(stored[name].data, TYPES[kind]).reshape(-1, 32) - weight)
    span = 2 * np.abs(weight).max(1, keepdims=True)
    assert (errors <= 1.1 * span / levels).all()
    assert errors.max() > 0
    table = gguf.GGMLQuantizationType.Q8_0
    assert stored["token_embd.weight"].tensor_type == stored["output.weight"].tensor_type == table
    assert stored["blk.0.attn_norm.weight"].tensor_type == gguf.GGMLQuantizationType.F32
    ids = tokens(1, 12)
    if kind == "q8_0":
        torch.testing.assert_close(llama_losses(file, ids), torch_losses(model, ids), atol=0.5, rtol=0)


def test_sharded_and_half_precision_folders(tmp_path, tokenizer):
    model = build("gqa", dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "m", max_shard_size="30KB")
    tokenizer.save_pretrained(tmp_path / "m")
    assert len(list((tmp_path / "m").glob("*.safetensors"))) > 2
    stored = tensors(export_gguf(tmp_path / "m", tmp_path / "m.gguf", "f32"))
    expected = model.state_dict()["model.layers.2.mlp.up_proj.weight"].float().numpy()
    assert (stored["blk.2.ffn_up.weight"].data == expected).all()


# --- what is refused ----------------------------------------------------------------------------------------


def hidden_files(folder):
    return [*folder.glob(".*")]


def test_a_file_is_never_exported_onto_itself(saved, own_cache, tmp_path):
    file = export_gguf(saved()[0], tmp_path / "m.gguf")
    before = file.read_bytes()
    with pytest.raises(InputError, match="apart from the model"):
        export_gguf(file, tmp_path / "m.gguf", "f32", overwrite=True)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (
            {"intermediate_size": 44},
            "multiples of 32, got 44 neurons.*prune with a multiple of 32, or export with the type f16",
        ),
        ({"intermediate_size": 64, "head_dim": 12}, "48 heads' outputs"),
        ({"intermediate_size": 64, "hidden_size": 48}, "48 stream in a layer: export with the type f16"),
    ],
)
@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
def test_widths_that_blocks_cannot_hold(saved, tmp_path, overrides, match, kind):
    folder, _ = saved(**overrides)
    with pytest.raises(InputError, match=match):
        export_gguf(folder, tmp_path / "m.gguf", kind)
    assert not (tmp_path / "m.gguf").exists()
    assert export_gguf(folder, tmp_path / "m.gguf", "f16").is_file()


@pytest.mark.parametrize(
    ("name", "overrides", "match"),
    [
        (
            "rope-longrope",
            {"rope_parameters": DYNAMIC},
            "llama.cpp runs, got llama with rope scaling of the type dynamic",
        ),
        (
            "qwen2",
            {"rope_parameters": DYNAMIC},
            "got qwen2 with rope scaling of the type dynamic: use the folder",
        ),
        (
            "smollm3",
            PATTERNS["smollm3"] | {"rope_parameters": LINEAR},
            "got smollm3 with rope scaling of the type linear",
        ),
        (
            "qwen3",
            {"rope_parameters": LINEAR},
            "the type linear, and a head of its own: use the folder itself",
        ),
        (
            "granite",
            {"partial_rotary_factor": 0.5},
            "got granite with positions that turn a part of each head",
        ),
        ("qwen3", {"attention_bias": True}, "llama.cpp runs, got qwen3 with biases"),
        ("olmo2", {"tie_word_embeddings": True}, "got olmo2 with a tied head"),
        ("gqa", {"hidden_act": "gelu"}, "got llama with the activation gelu: use the folder itself"),
        ("gqa", {"vocab_size": 500}, "tokens below vocab_size, 500, got 511"),
    ],
)
def test_models_that_llama_cpp_would_not_compute(saved, tmp_path, name, overrides, match):
    with pytest.raises(InputError, match=match):
        export_gguf(saved(name, **overrides)[0], tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()


def test_a_family_that_llama_cpp_has_and_the_table_has_not(tmp_path, tokenizer):
    config = Gemma2Config(**TINY_CONFIG, head_dim=8, query_pre_attn_scalar=8)
    Gemma2ForCausalLM(config).save_pretrained(tmp_path / "gemma2")
    tokenizer.save_pretrained(tmp_path / "gemma2")
    with pytest.raises(InputError, match="a model type that goes to GGUF .llama, .* got gemma2"):
        export_gguf(tmp_path / "gemma2", tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("value", "kind", "match"),
    [
        (float("nan"), "f32", "finite"),
        (7e4, "f16", "more than 65504"),
        (7e4, "q4_1", "more than 65504.*with the type f32"),
    ],
)
def test_weights_that_the_type_cannot_hold(saved, tmp_path, value, kind, match):
    folder, _ = saved(intermediate_size=64)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=match):
        export_gguf(folder, tmp_path / "m.gguf", kind)
    assert not (tmp_path / "m.gguf").exists()
    assert not hidden_files(tmp_path)


@pytest.mark.parametrize("length", [3, 500, -1])
def test_a_truncated_file(saved, own_cache, tmp_path, length):
    content = export_gguf(saved()[0], tmp_path / "m.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[:length])
    for use in (lambda path: export_gguf(path, tmp_path / "n.gguf"), llama_cpp.start):
        with pytest.raises(InputError, match="expected a complete GGUF file, got .*cut.gguf"):
            use(tmp_path / "cut.gguf")
    assert not (tmp_path / "n.gguf").exists()


# --- the real model -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(real_model, tmp_path_factory):
    """The real model without a tenth of its parameters, and its GGUF file."""
    model, tokenizer = real_model
    ids = calibration_tokens("calibration", tokenizer, sequences=2, length=64, judged_on="evaluation")
    small = prune(model, ids, Settings(method="wanda-sp", recovery="none", ratio=0.1))
    folder = tmp_path_factory.mktemp("real")
    card = Provenance(INCLUDED_MODEL, Shape.of(model), "a test")
    save_checkpoint(folder / "small", small.model, tokenizer, small.plan, card)
    return small.model, export_gguf(folder / "small", folder / "m.gguf", "f16")


@pytest.mark.real
def test_llama_cpp_finds_the_real_model_as_good_as_transformers_does(real_model, real):
    model, file = real
    ids = evaluation_tokens(real_model[1], load_text("evaluation"), 192, 1)
    losses = llama_cpp.losses(llama_cpp.start(file, ids.shape[1] + 1, threads=1), ids)
    assert losses.mean().exp().item() == pytest.approx(measure_loss(model, ids).perplexity, rel=0.01)


@pytest.mark.real
def test_the_real_tokenizer_comes_back_as_the_parent_file_has_it(real):
    source, back = (GgufFile(file).metadata for file in (wheel_gguf(INCLUDED_MODEL), real[1]))
    names = [name for name in source if name.startswith("tokenizer.")]
    assert {name: back[name] for name in names} == {name: source[name] for name in names}
    assert len(names) > 5
