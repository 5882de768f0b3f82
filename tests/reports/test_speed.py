"""Bytes per token against tensors, gains against arithmetic, turns by our clock, and both runtimes."""

from __future__ import annotations

import pytest
import torch
from variants import build

from comp_lib.checkpoints.export import export_gguf
from comp_lib.reports import speed
from comp_lib.reports.speed import Timing, bytes_per_token, gain, gguf_bytes_per_token, measure
from comp_lib.utils.errors import InputError

pytestmark = pytest.mark.slow


def count_bytes(model, itemsize):
    """Bytes of all weights of the decoder, of the last norm, and of one table of the vocabulary, the head."""
    decoder = sum(p.numel() for layer in model.model.layers for p in layer.parameters())
    return itemsize * (decoder + model.model.norm.weight.numel() + model.lm_head.weight.numel())


@pytest.mark.parametrize("variant", ["gqa", "tied", "attention-bias"])
def test_bytes_per_token_count_the_head_and_not_the_look_up(variant):
    model = build(variant)
    assert bytes_per_token(model) == count_bytes(model, 4)
    assert bytes_per_token(model.bfloat16()) == count_bytes(model, 2)


@pytest.mark.parametrize("tied", [True, False])
def test_bytes_per_token_of_a_file(tmp_path, tokenizer, tied):
    model = build("gqa", tie_word_embeddings=tied)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    matrices = sum(p.numel() for layer in model.model.layers for p in layer.parameters() if p.ndim == 2)
    vectors = 32 * (2 * 3 + 1)
    for kind, bits in (("f16", 16), ("f32", 32)):
        file = export_gguf(tmp_path / "model", tmp_path / f"{kind}.gguf", kind)
        assert gguf_bytes_per_token(file) == (matrices + 512 * 32) * bits // 8 + 4 * vectors


def row(name, size, decode, prefill=(1.0,)):
    return Timing(name, size, tuple(1 / p for p in prefill), prefill, decode)


def test_the_gain_and_its_limit():
    dense = row("dense", 150, (10.0, 20.0, 5.0), (2.0,))
    small = row("small", 100, (14.0, 28.0, 8.0), (3.0,))
    faster = gain(dense, small)
    assert faster.limit == 1.5
    assert faster.speedup == pytest.approx((1.4, 1.4, 1.6))
    assert faster.prefill == (1.5, 1.5, 1.5)
    assert gain(dense, dense).speedup == (1, 1, 1)
    assert [line.split()[:5] for line in str(faster).splitlines()] == [
        ["times", "as", "fast", "over", "the"],
        ["decode", "1.40", "1.40", "to", "1.60"],
        ["prefill", "1.50", "1.50", "to", "1.50"],
        ["limit", "1.50", "of", "decode,", "if"],
    ]


def test_models_take_turns_and_the_first_round_does_not_count(monkeypatch):
    timed_models = []

    def time_model(model, ids, new_tokens):
        timed_models.append(model)
        return 1.0, float(len(timed_models))

    monkeypatch.setattr(speed, "time_model", time_model)
    models = {"untied": build("gqa"), "tied": build("tied")}
    untied, tied = measure(models, prompt=8, new_tokens=4, rounds=2)
    assert [model is models["untied"] for model in timed_models] == [True, False] * 3
    assert untied.decode == (4 / 3, 4 / 5)
    assert tied.decode == (4 / 4, 4 / 6)
    assert untied.prefill == (8.0, 8.0)
    assert untied.first == (1.0, 1.0)
    assert untied.name == "untied"
    sizes = [sum(parameter.nbytes for parameter in model.parameters()) for model in models.values()]
    assert untied.bytes_per_token == bytes_per_token(models["untied"]) < sizes[0]
    assert tied.bytes_per_token == sizes[1]  # the table is the head


def test_what_is_timed_is_the_greedy_continuation(tiny_llama, monkeypatch):
    """The clock counts calls of the model: one for the first token, and one more for each further token."""
    model = tiny_llama()
    prompt = torch.arange(3, 23)[None]
    fed = []
    model.register_forward_pre_hook(
        lambda _, arguments, named: fed.append(named["input_ids"]), with_kwargs=True
    )
    monkeypatch.setattr(speed.time, "perf_counter", lambda: float(len(fed)))
    assert speed.time_model(model, prompt, 5) == (1.0, 5.0)
    ids = prompt
    with torch.no_grad():
        for token in fed[1:]:  # without a cache
            assert (
                token.item()
                == model.model(ids).last_hidden_state[:, -1].matmul(model.lm_head.weight.T).argmax()
            )
            ids = torch.cat([ids, token], 1)
    model.generation_config.eos_token_id = fed[1].item()  # an end of text ends nothing
    assert speed.time_model(model, prompt, 5) == (1.0, 5.0)


def test_both_runtimes_side_by_side(tmp_path, parent, tiny_llama):
    pytest.importorskip("xllamacpp")
    file = export_gguf(parent, tmp_path / "m.gguf", "f16")
    models = {"file": file, "again": str(file), "small": tiny_llama(num_hidden_layers=1)}
    rows = measure(models, prompt=16, new_tokens=3, rounds=2)
    assert [r.bytes_per_token for r in rows] == [
        *[gguf_bytes_per_token(file)] * 2,
        bytes_per_token(models["small"]),
    ]
    for measured in rows:
        assert min(measured.first + measured.prefill + measured.decode) > 0
        assert len(measured.first) == len(measured.prefill) == len(measured.decode) == 2
    with pytest.raises(InputError, match="a request that llama.cpp can meet"):
        measure({"file": file}, prompt=500)  # more than the model's context
