"""One rule for all outputs: what is ours is replaced, anything else only when that was asked for."""

from __future__ import annotations

import os

import pytest
from command import refused, run
from rows import rows_of

from comp_lib.compare.summary import write_summary
from comp_lib.errors import InputError
from comp_lib.plots.base import figure_with_axes, save_picture
from comp_lib.system.atomic import write_atomically
from comp_lib.system.outputs import check_output, our_json, our_picture, starts_with

GGUF = starts_with(b"GGUF")


@pytest.fixture
def place(tmp_path):
    """A folder with a file of each kind in it: theirs, ours, and what is no file."""
    figure, _ = figure_with_axes((2, 2))
    save_picture(figure, tmp_path / "ours.png")
    figure.savefig(tmp_path / "theirs.png")
    (tmp_path / "ours.json").write_text('{"a": 1, "b": 2}')
    (tmp_path / "theirs.json").write_text('{"a": 1, "b": 2, "c": 3}')
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "ours.gguf").write_bytes(b"GGUF...")
    (tmp_path / "letter.gguf").write_text("Dear ...")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "ours", "overwrite", "what", "words"),
    [
        ("new.json", our_json("ab"), False, "", None),
        ("ours.json", our_json("ab"), False, "", None),
        ("ours.png", our_picture, False, "", None),
        ("theirs.png", our_picture, False, "", "--overwrite"),
        ("theirs.png", our_picture, True, "", None),
        ("theirs.json", our_json("ab"), False, "", "--overwrite"),
        ("theirs.json", our_json("ab"), True, "", None),
        ("list.json", our_json("ab"), False, "", "--overwrite"),
        ("deep.json", our_json("ab"), False, "", "--overwrite"),
        ("ours.gguf", GGUF, False, "a GGUF file", None),
        ("letter.gguf", GGUF, True, "a GGUF file", "expected a GGUF file to overwrite"),
        ("folder", our_picture, True, "", "got the folder"),
        ("pipe", our_picture, True, "", "an ordinary file"),
        ("nowhere/new.png", our_picture, True, "", "make the folder first"),
    ],
)
def test_what_may_be_written(place, name, ours, overwrite, what, words):
    before = sorted(place.iterdir())
    if words is None:
        assert check_output(place / name, ours, overwrite, what=what) == (place / name).resolve()
    else:
        with pytest.raises(InputError, match=words):
            check_output(place / name, ours, overwrite, what=what)
    assert sorted(place.iterdir()) == before


def test_a_folder_that_is_there_and_closed_is_not_to_be_made(tmp_path, monkeypatch):
    monkeypatch.setattr("comp_lib.system.outputs.os.access", lambda *_: False)
    with pytest.raises(InputError, match="choose another folder"):
        check_output(tmp_path / "new.png", our_picture)


def test_a_full_disk_is_one_line_and_keeps_what_was_there(tmp_path, small_disk):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with small_disk(20_000), pytest.raises(InputError, match=f"expected to write {path}, got .* what was there stays"):
        write_atomically(path, bytes(50_000))
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "command",
    [
        "prune MODEL --out PLACE --method llm-pruner",
        "prune MODEL --out PLACE --calibration calibration",
        "export MODEL --gguf PLACE --type f32",
    ],
)
def test_a_full_disk_ends_each_command_in_one_line(command, parent, tmp_path, small_disk):
    words = [{"MODEL": parent, "PLACE": tmp_path / "new"}.get(word, word) for word in command.split()]
    few = "--sequences 2 --length 32 --multiple 8 --evaluate none".split() if words[0] == "prune" else []
    with small_disk(30_000):
        done = run(*words, *few)
    assert done.exit_code == 2 and "Traceback" not in done.output, done.output
    assert done.stderr.strip().splitlines()[-1].startswith("comp-lib: expected to write"), done.stderr
    # a run from disk to disk keeps what it has done, to go on from there; the others leave nothing
    assert [path.name for path in tmp_path.iterdir()] == (["new.partial"] if "calibration" in words else [])


def test_a_full_disk_ends_a_comparison_in_one_line(tmp_path, small_disk):
    with small_disk(500), pytest.raises(InputError, match="expected to write .*table.md"):
        write_summary(rows_of(), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("evaluate MODEL --figure FILE", "kinds.png"),
        ("benchmark MODEL --figure FILE", "speed.png"),
        ("benchmark MODEL --json FILE", "speed.json"),
        ("plan MODEL --budget latency=0.8 --out FILE", "plan.json"),
        ("compare MODEL --out FOLDER", "table.md"),
        ("compare MODEL --out FOLDER", "increase.png"),
        ("compare MODEL --out FOLDER", "rows.csv"),
        ("compare MODEL --out FOLDER", "rows.parquet"),
        ("export MODEL --gguf FILE", "notes.txt"),
        ("export MODEL --gguf FILE --overwrite", "notes.txt"),
    ],
)
def test_no_command_overwrites_a_foreign_file(command, name, parent, tmp_path):
    path = tmp_path / name
    path.write_text("theirs\n")
    places = {"MODEL": parent, "FILE": path, "FOLDER": tmp_path}
    done = run(*(places.get(word, word) for word in command.split()))
    refused(done, [name])
    assert path.read_text() == "theirs\n" and list(tmp_path.iterdir()) == [path]
