"""benchmarks/others.py on tiny Llamas: other packages keep our promises, where they are installed."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
import variants
from transformers import LlamaForCausalLM

from comp_lib.compare.one_run import decoder_parameters
from comp_lib.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:Unwrapped parameters detected")  # norms, which no neuron touches
PACKAGES = ("optipfair", "torch-pruning")


@pytest.fixture
def others(monkeypatch):
    """The script, and `headline` that it imports."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    return importlib.import_module("others")


def need(package: str) -> None:
    pytest.importorskip(package.replace("-", "_"), reason=f"no {package}: pip install 'comp-lib[bench]'")


@pytest.mark.parametrize("variant", ["gqa", "tied"])
@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("ratio", [0.1, 0.2, 0.4])
def test_widths_and_budget(others, package, variant, ratio):
    need(package)
    model, ids = variants.build(variant), variants.tokens()
    before, plan = decoder_parameters(model), others.plan_for(model, ratio)
    small, asked = others.PACKAGES[package](model, ids, plan)
    assert isinstance(small, LlamaForCausalLM) and json.dumps(asked)
    (width,) = set(plan.neurons)
    for layer in small.model.layers:
        assert layer.mlp.gate_proj.out_features == layer.mlp.up_proj.out_features == layer.mlp.down_proj.in_features
        assert layer.mlp.down_proj.in_features == small.config.intermediate_size == width
    neuron = 3 * 3 * small.config.hidden_size  # of each of the 3 layers
    gone = before - decoder_parameters(small)
    assert ratio * before <= gone < ratio * before + neuron and gone / before == plan.removed
    with torch.no_grad():
        assert small(input_ids=ids).logits.isfinite().all()
    assert all(parameter.grad is None for parameter in small.parameters())


@pytest.mark.parametrize("package", PACKAGES)
def test_a_row_is_kept(others, package, parent, tmp_path, monkeypatch, capsys):
    need(package)
    file = tmp_path / "headline.json"
    monkeypatch.setattr(others.headline, "FILE", file)
    sizes = ["--sequences", "2", "--length", "16", "--windows", "1"]
    monkeypatch.setattr(sys, "argv", ["others.py", package, "--model", str(parent), *sizes])
    for _ in range(2):  # the second takes the place of the first
        others.main()
        (row,) = json.loads(file.read_text("utf-8"))
    assert row["settings"]["method"] == package and row["removed"] >= row["settings"]["ratio"] == 0.2
    assert "of the decoder removed" in capsys.readouterr().out
    assert importlib.import_module("common").preset(row["settings"]) == ""


def test_a_missing_package_is_named(others, monkeypatch):
    monkeypatch.setitem(sys.modules, "optipfair", None)
    with pytest.raises(InputError, match=r"pip install 'comp-lib\[bench\]'"):
        others.installed("optipfair")
