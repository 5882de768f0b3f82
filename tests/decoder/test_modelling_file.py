"""The file of a folder with own widths: transformers alone runs it, comp-lib only writes and compares it."""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tools import logits
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from uneven import IDS, NAMES, save, uneven

from comp_lib.checkpoints.load import load_model
from comp_lib.decoder.own_widths import register as own_widths
from comp_lib.decoder.own_widths.modelling_file import file_name, file_text
from comp_lib.decoder.own_widths.register import TESTED_TYPES, register
from comp_lib.utils import errors

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib  # comes with pytest there

ROOT = Path(__file__).resolve().parents[2]
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
# variants, and Llamas whose table of positions asks the config for heads or changes with the length
VARIANTS = (*NAMES, "rope-llama3", "rope-longrope", "tied", "mistral", "qwen2-window", "ernie4_5")

# What a user without comp-lib runs: each folder with AutoModelForCausalLM and AutoModel, text, saved again.
WITHOUT_COMP_LIB = """
import json, os, sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "comp_lib":
            raise ModuleNotFoundError("comp_lib is hidden")

sys.meta_path.insert(0, Hidden())
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

ids = torch.load("ids.pt")
results = {}
for folder in sys.argv[1:]:
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    base = AutoModel.from_pretrained(folder, trust_remote_code=True)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    tokenizer.save_pretrained(f"{folder}-again")
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    with torch.inference_mode():
        result = {"logits": model(ids).logits, "stream": base(ids).last_hidden_state}
        result["own stream"] = model.model(ids).last_hidden_state
        result["text"] = model.generate(ids, **options)
        result["uncached text"] = model.generate(ids, use_cache=False, **options)
        model.save_pretrained(f"{folder}-again")
        again = AutoModelForCausalLM.from_pretrained(f"{folder}-again", trust_remote_code=True)
        result["logits again"] = again(ids).logits
        model.set_attn_implementation("eager")
        result["eager logits"] = model(ids).logits
    result["compatible"] = type(model).is_backend_compatible() and type(base).is_backend_compatible()
    result["types"] = (model.config.model_type, config.model_type)
    results[folder] = result
assert "comp_lib" not in sys.modules
torch.save(results, "results.pt")
"""


@pytest.mark.slow
def test_transformers_alone_computes_the_same(tokenizer, tmp_path):
    torch.save(IDS, tmp_path / "ids.pt")
    models = {name: uneven(name) for name in VARIANTS}
    models["rope-yarn"] = uneven(rope_parameters=YARN)
    models["odd-heads"] = uneven(num_attention_heads=6, num_key_value_heads=3, head_dim=8, hidden_size=36)
    for name, model in models.items():
        save(model, tokenizer, tmp_path / name)
    (tmp_path / "script.py").write_text(WITHOUT_COMP_LIB)
    command = [sys.executable, "-I", "script.py", *models]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    finished_process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert finished_process.returncode == 0, finished_process.stderr[-2000:]
    results = torch.load(tmp_path / "results.pt")
    for name in models:
        result = results[name]
        expected = logits(load_model(tmp_path / name)[0], IDS)
        assert torch.equal(result["logits"], expected), name
        assert torch.equal(result["logits again"], expected), name
        assert torch.equal(result["stream"], result["own stream"]), name
        assert torch.equal(result["text"], result["uncached text"]), name
        assert (result["eager logits"] - expected).abs().max() < 1e-4, name
        assert result["compatible"], name
        model_type = f"comp_{models[name].config.model_type}"
        assert result["types"] == (model_type, model_type)
        fields, fields_again = (
            json.loads((tmp_path / folder / "config.json").read_text()) for folder in (name, f"{name}-again")
        )
        for field in ("per_layer_config", "auto_map", "model_type", "architectures", "intermediate_size"):
            assert fields_again[field] == fields[field], (name, field)
        assert torch.equal(logits(load_model(tmp_path / f"{name}-again")[0], IDS), expected), name


@pytest.mark.parametrize("model_type", TESTED_TYPES)
def test_the_file_is_short_and_imports_transformers_alone(model_type):
    text = file_text(model_type)
    assert len(text.splitlines()) <= 40
    assert max(map(len, text.splitlines())) <= 110
    tree = ast.parse(text)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [node.module for node in imports] == ["transformers"]
    assert "Written by comp-lib" in ast.get_docstring(tree)


def test_a_folder_has_the_file_that_its_config_names(tokenizer, tmp_path):
    folder = save(uneven("qwen2"), tokenizer, tmp_path / "own")
    assert (folder / "modeling_comp_qwen2.py").read_text() == file_text("qwen2")
    module_and_class = json.loads((folder / "config.json").read_text())["auto_map"]["AutoModel"]
    assert module_and_class == "modeling_comp_qwen2.CompQwen2Model"
    load_model(folder)[0].save_pretrained(tmp_path / "again")
    for name in ("config.json", "modeling_comp_qwen2.py", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), name


def test_nothing_in_a_folder_is_run_with_comp_lib(tokenizer, tmp_path, caplog):
    """Nor is a foreign file refused: a line says its hash, and the model is what the config says."""
    model = uneven("qwen2")
    folder = save(model, tokenizer, tmp_path / "own")
    with caplog.at_level(logging.WARNING):
        load_model(folder)
    assert not caplog.records
    code = b"raise SystemExit('run')\n"
    (folder / file_name("qwen2")).write_bytes(code)
    (folder / "more.py").symlink_to(tmp_path / "nowhere")
    with caplog.at_level(logging.WARNING):
        loaded, _ = load_model(folder)
        register("qwen2")
        by_transformers = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(logits(loaded, IDS), logits(model, IDS))
    assert torch.equal(logits(by_transformers, IDS), logits(model, IDS))
    changed, linked = [record.getMessage() for record in caplog.records if record.name == errors.__name__]
    digest = hashlib.sha256(code).hexdigest()
    assert changed == (
        f"comp-lib ignores {folder / file_name('qwen2')} (sha256 {digest}), "
        "which is not the modelling file that it writes"
    )
    assert "more.py" in linked


def test_all_types_are_registered_and_one_that_is_missing_is_left_out(monkeypatch, tokenizer, tmp_path):
    """What vLLM's entry point calls: afterwards no folder needs the flag, neither for AutoModel."""
    monkeypatch.setattr(own_widths, "TESTED_TYPES", ("of-tomorrow", "llama"))
    register.cache_clear()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    module, _, function = project["entry-points"]["vllm.general_plugins"]["comp-lib"].partition(":")
    getattr(importlib.import_module(module), function)()
    folder = save(uneven(), tokenizer, tmp_path / "own")
    assert AutoConfig.from_pretrained(folder).model_type == "comp_llama"
    base = AutoModel.from_pretrained(folder)
    model, _ = load_model(folder)
    with torch.inference_mode():
        assert torch.equal(base(IDS).last_hidden_state, model.model(IDS).last_hidden_state)


def test_what_vllm_is_told_of_is_what_the_page_of_families_says():
    rows = re.findall(r"^\| (`.*`) \| .*neurons", (ROOT / "docs" / "families.md").read_text(), re.MULTILINE)
    assert sorted(TESTED_TYPES) == sorted(re.findall(r"`(\w+)`", " ".join(rows)))


def test_the_way_attention_is_computed_can_be_changed(tokenizer, tmp_path):
    """Each layer follows, although it has a config of its own."""
    model, _ = load_model(save(uneven("phi3"), tokenizer, tmp_path / "own"))
    expected = logits(model, IDS)
    model.set_attn_implementation("eager")
    implementations = {
        module.config._attn_implementation for module in model.modules() if hasattr(module, "config")
    }
    assert implementations == {"eager"}
    assert torch.allclose(logits(model, IDS), expected, atol=1e-4)
