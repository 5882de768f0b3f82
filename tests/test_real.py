"""End to end on the real model: SmolLM2-135M, pruned to the bit, measured, saved, loaded by transformers."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from fingerprints import check, real
from safetensors.torch import load_file

from comp_lib.calibration.texts import load_text
from comp_lib.calibration.windows import calibration_tokens
from comp_lib.checkpoints.card import Provenance
from comp_lib.checkpoints.save import save_checkpoint
from comp_lib.decoder.shape import Shape
from comp_lib.evaluation.loss import measure_loss
from comp_lib.evaluation.windows import evaluation_tokens
from comp_lib.pruning.comp import prune
from comp_lib.pruning.settings import Settings

STOCK = """
import sys, torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
assert not any(name.startswith("comp_lib") for name in sys.modules)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
assert type(model).__name__ == "LlamaForCausalLM"
with torch.inference_mode():
    save_file({"logits": model(torch.arange(100, 132)[None]).logits}, sys.argv[2])
"""


@pytest.mark.real
def test_estimated_widths_lose_less_than_one_width(real_model):
    """The reason for the default preset, with the same text and ratio."""
    model, tokenizer = real_model
    ids = calibration_tokens("calibration", tokenizer, sequences=8, length=64, judged_on="evaluation")
    windows = evaluation_tokens(tokenizer, load_text("evaluation"), window_length=128, window_count=4)
    uniform, estimated = (
        measure_loss(prune(model, ids, Settings.preset(preset, ratio=0.3)).model, windows).loss
        for preset in ("stock", "tailored")
    )
    assert estimated < uniform - 0.1


@pytest.mark.real
def test_a_fifth_of_the_real_model_goes_and_a_stock_model_stays(real_model, tmp_path):
    model, tokenizer = real_model
    windows = evaluation_tokens(tokenizer, load_text("evaluation"), window_length=128, window_count=4)
    comp = real("stock", model, tokenizer)
    check("smollm2 stock", comp)
    ids = calibration_tokens("calibration", tokenizer, sequences=1, length=64, judged_on="evaluation")
    random = prune(model, ids, Settings(multiple=32, method="random", recovery="none"))
    dense = measure_loss(model, windows)
    tuned = measure_loss(comp.model, windows)
    untuned = measure_loss(random.model, windows)

    before = Shape.of(model)
    after = Shape.of(comp.model)
    assert after.decoder_parameters <= 0.8 * before.decoder_parameters
    assert after.fits_stock_config
    # no headline: so little text calibrates
    assert dense.loss < tuned.loss < dense.loss + 1.0
    assert tuned.loss < untuned.loss - 0.2
    assert all(0.0 < layer.mlp_error < 0.2 for layer in comp.report.layers)

    card = Provenance("smollm2-135m", before, "a test")
    folder = save_checkpoint(tmp_path / "small", comp.model, tokenizer, comp.plan, card)
    subprocess.run([sys.executable, "-c", STOCK, folder, tmp_path / "logits.safetensors"], check=True)
    with torch.inference_mode():
        ours = comp.model(torch.arange(100, 132)[None]).logits
    torch.testing.assert_close(load_file(tmp_path / "logits.safetensors")["logits"], ours, atol=1e-3, rtol=0)
