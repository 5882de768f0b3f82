"""The journal touches nothing of anybody else, and believes only what it sees."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from test_prune_to import SETTINGS, Killed, begun, content, opened, saved
from variants import tokens

from comp_lib.errors import InputError
from comp_lib.scale import journal as journal_module
from comp_lib.scale.journal import Journal, partial_folder
from comp_lib.scale.prune_to import Saving, check_out, prune_to


def tree(folder):
    return {path.relative_to(folder): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


# --- somebody else's files --------------------------------------------------------------------------------------------

FOREIGN = {
    "notes": lambda folder: (folder / "notes.txt").write_text("theirs"),
    "a model": lambda folder: (folder / "model").mkdir(),
    "states": lambda folder: (folder / "states-0").write_bytes(b"theirs"),
    "another journal": lambda folder: (folder / "journal.jsonl").write_text('{"day": "Monday"}\n'),
    "another torn journal": lambda folder: (folder / "journal.jsonl").write_text("Monday"),
    "a lock with words": lambda folder: (folder / "lock").write_text("theirs"),
    "a link": lambda folder: (folder.rmdir(), folder.symlink_to(folder.parent / "elsewhere")),
    "a file": lambda folder: (folder.rmdir(), folder.write_text("theirs")),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_folder_of_that_name_is_refused_and_left_alone(kind, tmp_path, tokenizer):
    parent, _ = saved(tmp_path / "parent")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "small.partial").mkdir()
    FOREIGN[kind](tmp_path / "small.partial")
    before = tree(tmp_path)
    with pytest.raises(InputError, match="for the work in progress"):
        prune_to(tmp_path / "small", opened(parent), tokenizer, tokens(), SETTINGS)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("left", [None, "empty", "lock", "torn"])
def test_what_a_killed_beginning_leaves_is_taken_up(left, tmp_path, tokenizer):
    parent, _ = saved(tmp_path / "parent")
    partial = partial_folder(tmp_path / "small")
    if left is not None:
        partial.mkdir()
    if left in ("lock", "torn"):
        (partial / "lock").touch()
    if left == "torn":
        (partial / "journal.jsonl").write_bytes(b'{"wha')
    prune_to(tmp_path / "small", opened(parent), tokenizer, tokens(), SETTINGS)
    assert not partial.exists() and (tmp_path / "small" / "model.safetensors").exists()


def test_a_note_laid_into_our_folder_survives(tmp_path, tokenizer):
    parent, out = begun(tmp_path, tokenizer)
    (partial_folder(out) / "notes.txt").write_text("theirs")
    (partial_folder(out) / "states-of-mind").write_text("theirs")
    prune_to(out, opened(parent), tokenizer, tokens(), SETTINGS)
    assert sorted(path.name for path in partial_folder(out).iterdir()) == ["notes.txt", "states-of-mind"]


# --- what is published ------------------------------------------------------------------------------------------------


def killed_when_ready(monkeypatch, tmp_path, tokenizer, when, overwrite=False):
    """A run that died with all work done: (the call again, folder of the result, what it should hold)."""
    parent, _ = saved(tmp_path / "parent")
    out = tmp_path / "small"

    def run(place=out):
        return prune_to(place, opened(parent), tokenizer, tokens(), SETTINGS, saving=Saving(overwrite=overwrite))

    run(tmp_path / "calm" / "small")
    if overwrite:
        shutil.copytree(tmp_path / "calm" / "small", out)
        (out / "tokenizer.model").write_text("of the old one")
    publish = journal_module.atomic.publish

    def dies(*arguments):
        if when == "after":
            publish(*arguments)
        raise Killed

    def killed(*arguments):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(journal_module.atomic, "publish", dies)
        if when == "after" and overwrite:  # between the exchange and the removal of the old folder
            patch.setattr(journal_module.atomic.shutil, "rmtree", killed)
        with pytest.raises(Killed):
            run()
    return run, out, content(tmp_path / "calm" / "small")


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("then", ["nothing", "partial copied", "target removed", "target damaged"])
def test_saved_means_that_it_is_there(then, when, overwrite, monkeypatch, tmp_path, tokenizer):
    run, out, expected = killed_when_ready(monkeypatch, tmp_path, tokenizer, when, overwrite)
    partial = partial_folder(out)
    if then == "partial copied":
        partial.rename(tmp_path / "aside")
        shutil.copytree(tmp_path / "aside", partial)
    elif then == "target removed":
        shutil.rmtree(out, ignore_errors=True)
    elif then == "target damaged" and out.exists():
        weights = bytearray((out / "model.safetensors").read_bytes())
        weights[len(weights) // 2] ^= 1
        (out / "model.safetensors").write_bytes(weights)
        if not overwrite:
            with pytest.raises(InputError, match="a new or an empty folder"):
                run()
            assert (out / "model.safetensors").read_bytes() == weights
            return
    run()
    assert content(out) == expected and not partial.exists()


# --- what may change between two starts -------------------------------------------------------------------------------


def test_one_changed_weight_anywhere_is_another_model(tmp_path, tokenizer):
    parent, out = begun(tmp_path, tokenizer)
    weights = bytearray((parent / "model.safetensors").read_bytes())
    weights[-12345] ^= 1
    (parent / "model.safetensors").write_bytes(weights)
    with pytest.raises(InputError, match="model was"):
        prune_to(out, opened(parent), tokenizer, tokens(), SETTINGS)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json"])
def test_a_changed_config_or_tokenizer_is_another_model(name, tmp_path, tokenizer):
    parent, _ = saved(tmp_path / "parent")
    tokenizer.save_pretrained(parent)
    before = opened(parent).files.fingerprint()
    (parent / "README.md").write_text("words decide nothing")
    assert opened(parent).files.fingerprint() == before
    (parent / name).write_text((parent / name).read_text() + " ")
    assert opened(parent).files.fingerprint() != before


def test_a_config_changed_in_memory_is_another_model(tmp_path, tokenizer):
    parent, out = begun(tmp_path, tokenizer)
    model = opened(parent)
    model.config.rms_norm_eps *= 2
    with pytest.raises(InputError, match="config was"):
        prune_to(out, model, tokenizer, tokens(), SETTINGS)


# --- refusals leave nothing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{"layers": 30}, {"ratio": 0.999}, {"multiple": 0}, {"kv_groups": 0}, {"kv_groups": 9}, {"layers": 3}]
)
def test_a_refused_plan_leaves_the_disk_as_it_was(changes, tmp_path, tokenizer):
    parent, _ = saved(tmp_path / "parent")
    before = tree(tmp_path)
    with pytest.raises(InputError):
        prune_to(tmp_path / "small", opened(parent), tokenizer, tokens(), replace(SETTINGS, **changes))
    assert tree(tmp_path) == before


def test_a_refusal_that_only_the_planner_knows_leaves_nothing_either(tmp_path, tokenizer, monkeypatch):
    parent, _ = saved(tmp_path / "parent")
    before = tree(tmp_path)

    def refuses(*arguments):
        raise InputError("expected another day, got this one: wait")

    monkeypatch.setattr("comp_lib.scale.prune_to.make_plan", refuses)
    with pytest.raises(InputError, match="another day"):
        prune_to(tmp_path / "small", opened(parent), tokenizer, tokens(), SETTINGS)
    assert tree(tmp_path) == before


def test_a_refusal_leaves_no_folders_above_either(tmp_path, tokenizer):
    parent, _ = saved(tmp_path / "parent")
    before = tree(tmp_path)
    with pytest.raises(InputError):
        prune_to(tmp_path / "a" / "b" / "small", opened(parent), tokenizer, tokens(), replace(SETTINGS, ratio=0.999))
    assert tree(tmp_path) == before


def test_what_came_into_a_new_folder_meanwhile_stays(tmp_path, tokenizer, monkeypatch):
    parent, _ = saved(tmp_path / "parent")

    def refuses(*arguments):
        (tmp_path / "a" / "theirs.txt").write_text("theirs")
        raise InputError("expected another day, got this one: wait")

    monkeypatch.setattr("comp_lib.scale.prune_to.make_plan", refuses)
    with pytest.raises(InputError, match="another day"):
        prune_to(tmp_path / "a" / "b" / "small", opened(parent), tokenizer, tokens(), SETTINGS)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["theirs.txt"]


def test_another_command_and_another_process_are_noticed_without_the_text(tmp_path, tokenizer, monkeypatch):
    parent, _ = saved(tmp_path / "parent")
    out, model = tmp_path / "small", opened(parent)
    monkeypatch.setattr("comp_lib.scale.prune_to._Run.layers", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prune_to(out, model, tokenizer, tokens(), SETTINGS)
    check_out(out, model, Saving(), 64, SETTINGS)
    with pytest.raises(InputError, match="expected the command that began .*ratio was"):
        check_out(out, model, Saving(), 64, replace(SETTINGS, ratio=0.31))
    with FileLock(partial_folder(out) / "lock"), pytest.raises(InputError, match="expected to be alone"):
        check_out(out, model, Saving(), 64, SETTINGS)


@pytest.mark.parametrize("place", [0, 1, -1])
def test_a_mangled_line_is_refused_by_its_number(place, tmp_path, tokenizer):
    parent, out = begun(tmp_path, tokenizer)
    journal = partial_folder(out) / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    place %= len(lines)
    lines[place] = lines[place].replace(b"0", b"1", 1)
    journal.write_bytes(b"".join(lines))
    before = tree(tmp_path)
    with pytest.raises(InputError, match=f"line {place + 1} of .*delete .*small.partial to begin anew"):
        prune_to(out, opened(parent), tokenizer, tokens(), SETTINGS)
    assert tree(tmp_path) == before


def test_a_journal_that_names_files_outside_is_refused(tmp_path):
    with Journal.open(tmp_path / "small", {}) as journal:
        journal.add("layer", states={"hidden": "../precious"}, files={"../precious": ""})
    with pytest.raises(InputError, match="line 2"), Journal.open(tmp_path / "small", {}):
        pass


# --- numbers that the new type cannot hold ----------------------------------------------------------------------------


@pytest.mark.parametrize("tensor", ["model.embed_tokens.weight", "self_attn.q_proj.weight"])
def test_what_float16_cannot_hold_is_named_and_never_written(tensor, tmp_path, tokenizer):
    parent, _ = saved(tmp_path / "parent")
    tensors = load_file(parent / "model.safetensors")
    for name in tensors:
        if name.endswith(tensor):
            tensors[name][0, 0] = 70_000.0
    save_file(tensors, parent / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=f"that float16 can hold.*{tensor}"):
        prune_to(tmp_path / "small", opened(parent), tokenizer, tokens(), SETTINGS, saving=Saving(dtype=torch.float16))
    assert not (tmp_path / "small").exists()
    for file in partial_folder(tmp_path / "small").rglob("*.safetensors"):
        assert all(value.isfinite().all() for value in load_file(file).values())


def test_records_are_one_sealed_line_each(tmp_path):
    with Journal.open(tmp_path / "small", {"a": 1}) as journal:
        journal.add("layer", files={})
    lines = [json.loads(line) for line in (partial_folder(tmp_path / "small") / "journal.jsonl").open()]
    assert [line["what"] for line in lines] == ["begun", "layer"] and all(len(line["seal"]) == 64 for line in lines)
    assert os.listdir(partial_folder(tmp_path / "small") / "model") == []


@pytest.mark.parametrize("name", ["notes.md", ".DS_Store"])
def test_what_somebody_put_beside_a_finished_model_is_not_deleted(name, monkeypatch, tmp_path, tokenizer):
    run, out, expected = killed_when_ready(monkeypatch, tmp_path, tokenizer, "before", overwrite=False)
    stranger = partial_folder(out) / "model" / name
    stranger.write_text("mine")
    with pytest.raises(InputError, match=f"nothing but the work in progress.*{name}"):
        run()
    assert stranger.read_text() == "mine"
    stranger.unlink()
    run()
    assert content(out) == expected


def test_where_a_held_file_cannot_go_the_lock_goes_after_it_is_let_go(monkeypatch, tmp_path, tokenizer):
    """As on Windows: to delete a file that is held is refused."""
    held, unlink = set(), Path.unlink

    class Lock(journal_module.FileLock):
        def acquire(self, *given, **told):
            held.add(Path(self.lock_file))
            return super().acquire(*given, **told)

        def release(self, *given, **told):
            held.discard(Path(self.lock_file))
            super().release(*given, **told)

    def refusing(path, missing_ok=False):
        if path in held:
            raise PermissionError(13, "in use", str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(journal_module, "FileLock", Lock)
    monkeypatch.setattr(Path, "unlink", refusing)
    monkeypatch.setattr(journal_module, "HELD_STAYS", True)
    parent, _ = saved(tmp_path / "parent")
    prune_to(tmp_path / "small", opened(parent), tokenizer, tokens(), SETTINGS)
    assert not partial_folder(tmp_path / "small").exists()
    assert (tmp_path / "small" / "model.safetensors").is_file()
