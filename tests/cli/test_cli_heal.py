"""`comp-lib heal`: the folder it leaves, what is refused before any work, what is never lost or copied."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec

import pytest
import torch
from command import QUICK_FLAGS, ran, refused, run

from comp_lib.calibration.mixtures import text_hashes
from comp_lib.checkpoints.card import calibration_hashes
from comp_lib.checkpoints.from_disk import heal_folder
from comp_lib.checkpoints.load import load_model
from comp_lib.recovery import healing
from comp_lib.recovery.healing import JUDGING_SEQUENCES

pytestmark = pytest.mark.slow

SHORT = ("--steps", "3", "--sequences", JUDGING_SEQUENCES + 4, "--length", "16")
needs_peft = pytest.mark.skipif(find_spec("peft") is None, reason="no peft: pip install 'comp-lib[heal]'")


@pytest.fixture(autouse=True)
def _cache(own_cache):
    """Each test finds the cache empty."""


@pytest.fixture(scope="module")
def small(parent, tmp_path_factory):
    """Folder that `prune` made of the tiny Llama."""
    out = tmp_path_factory.mktemp("pruned") / "small"
    ran("prune", parent, "--out", out, *QUICK_FLAGS, "--drop-layers", 0)
    return out


@needs_peft
def test_a_folder_is_healed_and_stays_what_it_was(parent, small, tmp_path):
    healed = tmp_path / "healed"
    output = ran(
        "heal", small, "--parent", parent, "--out", healed, *SHORT, "--learning-rate", "0.003"
    ).stdout
    assert "divergence from" in output
    assert "saved:" in output
    assert {path.name for path in healed.iterdir()} == {path.name for path in small.iterdir()}
    plan, plan_before = (
        json.loads((folder / "comp_plan.json").read_text("utf-8")) for folder in (healed, small)
    )
    assert plan == plan_before
    before = load_model(small)[0].state_dict()
    after = load_model(healed)[0].state_dict()
    changed = {name for name, weight in before.items() if not torch.equal(weight, after[name])}
    assert changed == {name for name in before if "_proj" in name}
    card = (healed / "README.md").read_text("utf-8")
    assert "healed on 12 x 16 tokens of written" in card
    assert str(tmp_path) not in card
    assert calibration_hashes(healed) == calibration_hashes(small) == text_hashes("calibration")


@needs_peft
def test_links_out_of_the_folder_do_not_get_into_the_new_one(parent, small, tmp_path):
    shutil.copytree(small, tmp_path / "linked")
    (tmp_path / "secret").write_text("nobody's business")
    for name in ("README.md", "notes.txt"):
        (tmp_path / "linked" / name).unlink(missing_ok=True)
        (tmp_path / "linked" / name).symlink_to(tmp_path / "secret")
    ran("heal", tmp_path / "linked", "--parent", parent, "--out", tmp_path / "healed", *SHORT)
    files = list((tmp_path / "healed").iterdir())
    assert files
    assert not any(path.is_symlink() or b"nobody" in path.read_bytes() for path in files)
    (tmp_path / "linked" / "comp_plan.json").unlink()
    (tmp_path / "linked" / "comp_plan.json").symlink_to(tmp_path / "secret")
    refused(
        run("heal", tmp_path / "linked", "--parent", parent, "--out", tmp_path / "other", *SHORT), ["a plan"]
    )
    assert not (tmp_path / "other").exists()


@needs_peft
def test_what_did_not_help_is_saved_only_by_force(parent, small, tmp_path, monkeypatch):
    monkeypatch.setattr(healing, "_mean_divergence", lambda model, parent, ids: 1.0)
    arguments = ("heal", small, "--parent", parent, "--out", tmp_path / "healed", *SHORT)
    result = run(*arguments)
    assert result.exit_code == 2
    assert "did not teach, got 1.0000 before and 1.0000 after" in result.stderr
    assert not (tmp_path / "healed").exists()
    assert "it did not help" in ran(*arguments, "--force").stderr
    assert (tmp_path / "healed").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 600}, "got 600 tokens, 32 numbers and 3 layers"),
        ({"hidden_size": 64, "head_dim": 8}, "got 512 tokens, 64 numbers and 3 layers"),
        ({"num_hidden_layers": 2}, "got 512 tokens, 32 numbers and 2 layers"),
    ],
)
def test_a_parent_of_another_shape_is_refused_before_a_model_is_loaded(
    small, tmp_path, tiny_llama, tokenizer, monkeypatch, changes, message
):
    monkeypatch.setattr(heal_folder, "load_model", lambda *_, **__: pytest.fail("loaded"))
    monkeypatch.setattr(heal_folder, "load_with_room", lambda *_, **__: pytest.fail("loaded"))
    tiny_llama(**changes).save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    result = run("heal", small, "--parent", tmp_path / "other", "--out", tmp_path / "healed", *SHORT)
    refused(result, [message])
    assert not (tmp_path / "healed").exists()


def test_nobodys_files_are_lost(parent, small, tmp_path):
    out = tmp_path / "healed"
    out.mkdir()
    (out / "notes.txt").write_text("mine", "utf-8")
    refused(run("heal", small, "--parent", parent, "--out", out, *SHORT), ["or set overwrite (--overwrite)"])
    teacher = tmp_path / "teacher"
    shutil.copytree(small, teacher)
    for folder, message in ((parent, "a pruned model to overwrite"), (teacher, "apart from the models")):
        refused(run("heal", small, "--parent", folder, "--out", folder, *SHORT, "--overwrite"), [message])
    assert (out / "notes.txt").read_text("utf-8") == "mine"
