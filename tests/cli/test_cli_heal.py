"""`comp-lib heal`: the folder it leaves, what is refused before any work, and what is never lost."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from command import FEW, refused, run
from transformers import AutoModelForCausalLM

from comp_lib.healing import distil, folder
from comp_lib.healing.distil import HELD
from comp_lib.models.load import load_model

SHORT = ("--steps", "3", "--batch", "2", "--rank", "2", "--sequences", HELD + 4, "--length", "16")


pytest.importorskip("peft", reason="no peft: pip install 'comp-lib[heal]'")


@pytest.fixture(autouse=True)
def _cache(own_cache):
    """Each test finds the cache empty."""


@pytest.fixture(scope="module")
def small(parent, tmp_path_factory):
    """What `prune` made of the tiny Llama, with other widths in each layer."""
    out = tmp_path_factory.mktemp("pruned") / "small"
    done = run("prune", parent, "--out", out, *FEW, "--widths", "per-layer", "--layers", 0)
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture
def never(monkeypatch):
    def work(*_, **__):
        raise AssertionError("work began")

    monkeypatch.setattr(folder, "load_model", work)


def test_a_folder_is_healed_and_stays_what_it_was(parent, small, tmp_path):
    done = run("heal", small, "--parent", parent, "--out", tmp_path / "healed", *SHORT, "--rate", "0.01")
    assert done.exit_code == 0, done.output
    assert "divergence from" in done.stdout and "saved:" in done.stdout
    assert {path.name for path in (tmp_path / "healed").iterdir()} == {path.name for path in small.iterdir()}
    for name in ("comp_plan.json", "config.json"):
        old, new = (json.loads((place / name).read_text("utf-8")) for place in (small, tmp_path / "healed"))
        assert old == new
    (before, _), (after, _) = load_model(small), load_model(tmp_path / "healed")
    changed = {name for name, value in before.state_dict().items() if not torch.equal(value, after.state_dict()[name])}
    assert changed == {name for name in before.state_dict() if "_proj" in name}


def test_a_stock_folder_stays_one_and_its_card_tells(parent, tmp_path):
    assert run("prune", parent, "--out", tmp_path / "small", *FEW, "--evaluate", "evaluation").exit_code == 0
    assert run("heal", tmp_path / "small", "--parent", parent, "--out", tmp_path / "healed", *SHORT).exit_code == 0
    AutoModelForCausalLM.from_pretrained(tmp_path / "healed")
    card = (tmp_path / "healed" / "README.md").read_text("utf-8")
    assert "## Measured perplexity, before healing" in card and "Trained for 3 steps on 96 tokens of `written`" in card
    assert card.index("## Healed") < card.index("## Licence") and str(tmp_path) not in card


def test_it_keeps_the_dtype_and_needs_no_card(parent, small, tmp_path):
    model, tokenizer = load_model(small, "bfloat16")
    model.save_pretrained(tmp_path / "bare")
    tokenizer.save_pretrained(tmp_path / "bare")
    done = run("heal", tmp_path / "bare", "--parent", parent, "--out", tmp_path / "healed", *SHORT)
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "healed" / "config.json").read_text("utf-8"))["dtype"] == "bfloat16"
    assert (tmp_path / "healed" / "README.md").read_text("utf-8").startswith("# healed\n\n## Healed")


def test_a_run_that_did_not_help_says_so(parent, small, tmp_path, monkeypatch):
    monkeypatch.setattr(distil._Goal, "judge", lambda self, rows: 1.0)
    done = run("heal", small, "--parent", parent, "--out", tmp_path / "healed", *SHORT)
    assert done.exit_code == 0 and "it did not help" in done.stderr


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vocab_size": 600}, ["a vocabulary of 512", "600"]),
        ({"hidden_size": 64, "head_dim": 8}, ["a stream of 32", "64"]),
        ({"head_dim": 16}, ["a head of 8", "16"]),
        ({"num_hidden_layers": 2}, ["at least 3 layers", "2 layers"]),
        ({"intermediate_size": 8}, ["neurons", "8 neurons"]),
    ],
)
def test_a_parent_of_another_shape_is_refused(small, tmp_path, tiny_llama, tokenizer, never, changes, words):
    tiny_llama(**changes).save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    refused(run("heal", small, "--parent", tmp_path / "other", "--out", tmp_path / "healed", *SHORT), words)
    assert not (tmp_path / "healed").exists()


def test_a_parent_with_another_tokenizer_is_refused(parent, small, tmp_path, never):
    shutil.copytree(parent, tmp_path / "other")
    path = tmp_path / "other" / "tokenizer.json"
    fields = json.loads(path.read_text("utf-8"))
    fields["model"]["merges"] = []
    path.write_text(json.dumps(fields), "utf-8")
    done = run("heal", small, "--parent", tmp_path / "other", "--out", tmp_path / "healed", *SHORT)
    refused(done, ["tokenizer cuts text"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--steps", "0"), ["--steps"]),
        (("--rank", "0"), ["--rank"]),
        (("--rate", "0"), ["rate above 0"]),
        (("--rate", "nan"), ["rate above 0"]),
        (("--sequences", "9"), ["sequences"]),
        (("--text", "nowhere.txt"), ["nowhere.txt"]),
        (("--device", "quantum"), ["available device"]),
        (("--parent", "no-such-model"), ["no-such-model"]),
    ],
)
def test_bad_options_are_refused(parent, small, tmp_path, never, options, words):
    refused(run("heal", small, "--parent", parent, "--out", tmp_path / "healed", *SHORT, *options), words)
    assert not list(tmp_path.glob("healed*"))


def test_a_folder_whose_class_is_not_known_is_refused(parent, small, tmp_path, never):
    shutil.copytree(small, tmp_path / "strange")
    path = tmp_path / "strange" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"model_type": "other_llama"}), "utf-8")
    done = run("heal", tmp_path / "strange", "--parent", parent, "--out", tmp_path / "healed", *SHORT)
    refused(done, ["LLaMA-class", "other_llama"])


def test_without_peft_it_is_refused(parent, small, tmp_path, never, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = run("heal", small, "--parent", parent, "--out", tmp_path / "healed", *SHORT)
    refused(done, ["pip install 'comp-lib[heal]'"])


def test_nobodys_files_are_lost(parent, small, tmp_path, never):
    out = tmp_path / "healed"
    out.mkdir()
    (out / "notes.txt").write_text("mine", "utf-8")
    refused(run("heal", small, "--parent", parent, "--out", out, *SHORT), ["--overwrite"])
    refused(run("heal", small, "--parent", parent, "--out", out, *SHORT, "--overwrite"), ["does not look like one"])
    refused(run("heal", small, "--parent", parent, "--out", small, *SHORT, "--overwrite"), ["apart from the model"])
    refused(run("heal", small, "--parent", parent, "--out", parent, *SHORT, "--overwrite"), ["apart from the model"])
    assert (out / "notes.txt").read_text("utf-8") == "mine"


def test_too_little_memory_is_refused(parent, small, tmp_path, never, monkeypatch):
    monkeypatch.setattr(folder, "free_memory", lambda: 1000)
    refused(run("heal", small, "--parent", parent, "--out", tmp_path / "healed", *SHORT), ["free memory"])
