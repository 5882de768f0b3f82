"""The benchmark that prunes and quantises: its parent computes the same, and lies on no grid."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from comp_lib.checkpoints.export import export_gguf
from comp_lib.reports.speed import gguf_bytes_per_token


@pytest.fixture
def quantised(monkeypatch):
    """The script."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("quantised")


@pytest.fixture
def model(quantised, tiny_llama):
    """One whose heads share KV heads, and whose weights lie on the grid of q8_0."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
    built = tiny_llama(**sizes, head_dim=16, tie_word_embeddings=True)
    return quantised.as_stored(built, "q8_0")[0]


def test_the_parent_computes_the_same(quantised, model):
    ids = torch.arange(2, 34)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        after = quantised.off_the_grid(model)(input_ids=ids).logits
    assert torch.allclose(before, after, atol=1e-4)


def test_no_matrix_of_a_layer_lies_on_a_grid_any_more(quantised, model):
    parent = quantised.off_the_grid(model)
    for floats, moved in ((model, False), (parent, True)):
        stored, _ = quantised.as_stored(floats, "q8_0")
        pairs = zip(floats.model.layers.named_parameters(), stored.model.layers.parameters(), strict=True)
        for (name, weight), rounded in pairs:
            if weight.ndim == 2:
                error = float((weight - rounded).detach().norm() / weight.detach().norm())
                assert (error > 1e-3) == moved, (name, error)


@pytest.mark.parametrize("kind", ["q8_0", "q4_0", "q4_1", "f16"])
def test_sizes_are_those_of_a_file(quantised, model, tokenizer, tmp_path, kind):
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    file = export_gguf(tmp_path / "model", tmp_path / "model.gguf", kind)
    assert quantised.as_stored(model, kind)[1] == gguf_bytes_per_token(file)
