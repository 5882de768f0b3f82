"""`Pruned.save`: the folder of a model that was pruned in memory, and what it never writes over."""

from __future__ import annotations

import pytest
from tools import SETTINGS, hash_of_weights
from variants import build, tokens

from comp_lib.comp import prune
from comp_lib.errors import InputError
from comp_lib.models.load import load_model
from comp_lib.plan import Plan
from comp_lib.shape import Shape


@pytest.fixture(scope="module")
def pruned():
    return prune(build(), tokens(), SETTINGS, name="tiny")


def test_the_folder_has_the_model_its_plan_and_a_card(pruned, tokenizer, tmp_path):
    folder = pruned.save(tmp_path / "small", tokenizer)
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


def test_a_model_without_a_name_is_called_a_model(tokenizer, tmp_path):
    folder = prune(build(), tokens(), SETTINGS).save(tmp_path / "small", tokenizer)
    assert "A smaller copy of a model" in (folder / "README.md").read_text("utf-8")


def test_the_card_names_the_folder_that_load_model_read_and_not_where_it_lies(tokenizer, tmp_path):
    parent = prune(build(), tokens(), SETTINGS).save(tmp_path / "parent", tokenizer)
    loaded, _ = load_model(parent)
    folder = prune(loaded, tokens(), SETTINGS).save(tmp_path / "small", tokenizer)
    card = (folder / "README.md").read_text("utf-8")
    assert "A smaller copy of parent" in card
    assert str(tmp_path) not in card


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_files_of_others_stays_as_it_is(pruned, tokenizer, tmp_path, overwrite):
    (tmp_path / "notes.txt").write_text("mine", "utf-8")
    with pytest.raises(InputError, match="got .* in it: choose another name") as error:
        pruned.save(tmp_path, tokenizer, overwrite=overwrite)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert (tmp_path / "notes.txt").read_text("utf-8") == "mine"


def test_an_earlier_result_is_replaced_only_where_that_is_said(pruned, tokenizer, tmp_path):
    folder = pruned.save(tmp_path / "small", tokenizer)
    (folder / "config.json").write_text("old", "utf-8")
    with pytest.raises(InputError, match="or overwrite it"):
        pruned.save(folder, tokenizer)
    assert (folder / "config.json").read_text("utf-8") == "old"
    pruned.save(folder, tokenizer, overwrite=True)
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
        pruned.save(out, tokenizer if is_there else "smollm2-135m", overwrite=overwrite)
    assert not list(tmp_path.iterdir())
