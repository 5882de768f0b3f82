"""The folder of a model that was pruned in memory: by `Pruned.save`, and by transformers itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from tools import SETTINGS, hash_of_weights, logits, plan_of_everything
from transformers import LlamaForCausalLM
from variants import build, tokens

from comp_lib.calibration.texts import load_text
from comp_lib.checkpoints.load import load_model
from comp_lib.checkpoints.save import save_model
from comp_lib.decoder.own_widths.meta_model import with_true_config
from comp_lib.decoder.shape import Shape
from comp_lib.hybrid_granularity.plan import Plan
from comp_lib.pruning.comp import prune
from comp_lib.pruning.settings import Settings
from comp_lib.utils.errors import InputError


@pytest.fixture(scope="module")
def pruned():
    return prune(build(), tokens(), SETTINGS, model_name="tiny")


def test_the_folder_has_the_model_its_plan_and_a_card(pruned, tokenizer, tmp_path):
    folder = save_model(pruned, tmp_path / "small", tokenizer)
    assert folder == tmp_path / "small"
    model, read_tokenizer = load_model(folder)
    assert hash_of_weights(model) == hash_of_weights(pruned.model)
    assert read_tokenizer("a text")["input_ids"] == tokenizer("a text")["input_ids"]
    assert Plan.load(folder / "comp_plan.json") == pruned.plan
    card = (folder / "README.md").read_text("utf-8")
    before = Shape.of(build())
    assert pruned.parent_shape == before
    assert f"| parameters of the decoder | {before.decoder_parameters:,} |" in card
    assert "A smaller copy of tiny" in card
    assert f"Calibrated on {tokens().numel():,} tokens." in card
    assert f"ratio {SETTINGS.ratio}" in card


def test_the_card_states_no_setting_that_a_plan_has_overruled(pruned, tokenizer, tmp_path):
    settings = Settings(ratio=0.5, kv_groups=1, multiple=4, widths="uniform", token_weights=False)
    again = prune(build(), tokens(), settings, plan=pruned.plan)
    card = (save_model(again, tmp_path / "small", tokenizer) / "README.md").read_text("utf-8")
    assert "token_weights False" in card
    for setting in ("ratio 0.5", "kv_groups 1", "widths uniform", "multiple 4"):
        assert setting not in card


def test_the_name_that_is_given_beside_a_plan_is_the_parent_of_the_card(pruned, tokenizer, tmp_path):
    again = prune(build(), tokens(), SETTINGS, plan=pruned.plan, model_name="another")
    assert again.plan == replace(pruned.plan, parent="another")
    card = (save_model(again, tmp_path / "small", tokenizer) / "README.md").read_text("utf-8")
    assert "A smaller copy of another" in card


def test_no_folder_gets_the_name_of_a_file(pruned, tokenizer, tmp_path):
    with pytest.raises(InputError, match=r"the name of a folder, got '.*small\.gguf': export_gguf makes"):
        save_model(pruned, tmp_path / "small.gguf", tokenizer)
    assert not list(tmp_path.iterdir())


def test_a_plan_and_a_text_are_found_at_home(pruned, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    pruned.plan.save("~/plan.json")
    assert Plan.load("~/plan.json") == pruned.plan
    (tmp_path / "notes.txt").write_text("some text", "utf-8")
    assert load_text("~/notes.txt") == "some text"
    with pytest.raises(InputError, match=r"notes\.txt': JSONDecodeError"):
        Plan.load("~/notes.txt")


def test_a_model_without_a_name_is_called_a_model(tokenizer, tmp_path):
    folder = save_model(prune(build(), tokens(), SETTINGS), tmp_path / "small", tokenizer)
    assert "A smaller copy of a model" in (folder / "README.md").read_text("utf-8")


def test_the_card_names_the_folder_that_load_model_read_and_not_where_it_lies(tokenizer, tmp_path):
    parent = save_model(prune(build(), tokens(), SETTINGS), tmp_path / "parent", tokenizer)
    loaded, _ = load_model(parent)
    folder = save_model(prune(loaded, tokens(), SETTINGS), tmp_path / "small", tokenizer)
    card = (folder / "README.md").read_text("utf-8")
    assert Plan.load(folder / "comp_plan.json").parent == "parent"
    assert "A smaller copy of parent" in card
    assert str(tmp_path) not in card


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_files_of_others_stays_as_it_is(pruned, tokenizer, tmp_path, overwrite):
    (tmp_path / "notes.txt").write_text("mine", "utf-8")
    with pytest.raises(InputError, match="got .* in it: choose another name") as error:
        save_model(pruned, tmp_path, tokenizer, overwrite=overwrite)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert (tmp_path / "notes.txt").read_text("utf-8") == "mine"


def test_an_earlier_result_is_replaced_only_where_that_is_said(pruned, tokenizer, tmp_path):
    folder = save_model(pruned, tmp_path / "small", tokenizer)
    (folder / "config.json").write_text("old", "utf-8")
    with pytest.raises(InputError, match="or set overwrite"):
        save_model(pruned, folder, tokenizer)
    assert (folder / "config.json").read_text("utf-8") == "old"
    save_model(pruned, folder, tokenizer, overwrite=True)
    assert (folder / "config.json").read_text("utf-8") != "old"


@pytest.mark.parametrize(
    ("out", "is_there", "overwrite", "message"),
    [
        (5, True, False, "out to be the name of a folder, got 5"),
        ("small", False, False, "a tokenizer, got str"),
        ("small", True, "no", "overwrite to be True or False, got 'no'"),
    ],
)
def test_a_wrong_type_is_refused(pruned, tokenizer, tmp_path, monkeypatch, out, is_there, overwrite, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        save_model(pruned, out, tokenizer if is_there else "smollm2-135m", overwrite=overwrite)
    assert not list(tmp_path.iterdir())


# --- as transformers saves it -------------------------------------------------------------------------------

UNEVEN = Settings(ratio=0.2, widths="estimated", multiple=4)
PLAIN_TRANSFORMERS = """
import sys
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("small", trust_remote_code=True)
with torch.inference_mode():
    torch.save(model(torch.load("ids.pt")).logits, "logits.pt")
print([name for name in sys.modules if name.startswith("comp_lib")])
"""


def configs_of(model):
    """What the config of each module says, but the names of classes, by the name of the module."""
    configs = {name: module.config for name, module in model.named_modules() if hasattr(module, "config")}
    unsaid = {"architectures", "dtype"}
    fields = {name: {**config.to_dict()} for name, config in configs.items()}
    return {
        name: {field: said[field] for field in said.keys() - unsaid}
        | {"attention": configs[name]._attn_implementation}
        for name, said in fields.items()
    }


@pytest.mark.slow
def test_a_model_of_own_widths_is_saved_for_plain_transformers(tmp_path):
    small = prune(build(), tokens(), UNEVEN).model
    assert not Shape.of(small).uniform
    small.save_pretrained(tmp_path / "small")
    torch.save(tokens(), tmp_path / "ids.pt")
    environment = os.environ | {"HF_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-I", "-c", PLAIN_TRANSFORMERS]
    finished_process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert finished_process.returncode == 0, finished_process.stderr[-2000:]
    assert finished_process.stdout.splitlines()[-1] == "[]"
    assert torch.equal(torch.load(tmp_path / "logits.pt"), logits(small, tokens()))


@pytest.mark.parametrize(
    ("name", "inplace"), [("gqa", True), ("phi3", False), ("gemma3", False), ("rope-longrope", False)]
)
def test_class_and_configs_are_those_of_a_model_that_was_loaded(name, inplace, tmp_path):
    parent = build(name)
    small = prune(parent, tokens(), UNEVEN, inplace=inplace).model
    assert (small is parent) == inplace
    true = with_true_config(small)
    assert type(small) is type(true)
    assert isinstance(small, type(build(name)))
    assert configs_of(small) == configs_of(true)
    small.save_pretrained(tmp_path)
    loaded, read = type(small).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(read.values())
    assert torch.equal(logits(loaded, tokens()), logits(small, tokens()))
    small.set_attn_implementation("eager")
    assert {said["attention"] for said in configs_of(small).values()} == {"eager"}


def test_the_parent_keeps_its_class_and_config():
    parent = build()
    before = parent.config.to_json_string()
    prune(parent, tokens(), UNEVEN)
    assert type(parent) is LlamaForCausalLM
    assert parent.config.to_json_string() == before


def test_a_model_of_own_widths_that_got_one_width_is_stock_again(tmp_path):
    parent = prune(build(), tokens(), UNEVEN).model
    narrowest = min(Shape.of(parent).neurons)
    plan = replace(plan_of_everything(parent), neurons=(narrowest,) * 3, kept_neurons=None)
    small = prune(parent, tokens(), SETTINGS, plan=plan).model
    assert type(small) is LlamaForCausalLM
    small.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert config["model_type"] == "llama"
    assert "per_layer_config" not in config
    assert torch.equal(logits(LlamaForCausalLM.from_pretrained(tmp_path), tokens()), logits(small, tokens()))


def test_a_class_of_ones_own_stays():
    class Mine(LlamaForCausalLM):
        pass

    model = Mine(build().config)
    model.load_state_dict(build().state_dict())
    assert type(prune(model, tokens(), UNEVEN).model) is Mine
