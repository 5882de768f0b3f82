"""One rule for all outputs: what is there is replaced only where that was asked for; a full disk is one line."""

from __future__ import annotations

import os

import pytest
from command import run

from comp_lib.errors import InputError
from comp_lib.system.atomic import check_output, write_atomically


@pytest.mark.parametrize(
    ("name", "overwrite", "words"),
    [
        ("new.json", False, None),
        ("old.json", True, None),
        ("link.json", True, None),
        ("old.json", False, "with --overwrite"),
        ("folder", True, "which is there"),
        ("pipe", True, "which is there"),
        ("nowhere/new.png", True, "a folder that can be written to"),
    ],
)
def test_what_may_be_written(tmp_path, name, overwrite, words):
    (tmp_path / "old.json").write_text("{}")
    (tmp_path / "link.json").symlink_to(tmp_path / "old.json")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.iterdir())
    if words is None:
        assert check_output(tmp_path / name, overwrite) == (tmp_path / name).resolve()
    else:
        with pytest.raises(InputError, match=words):
            check_output(tmp_path / name, overwrite)
    assert sorted(tmp_path.iterdir()) == before


def test_a_full_disk_is_one_line_and_keeps_what_was_there(tmp_path, small_disk):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with (
        small_disk(20_000),
        pytest.raises(InputError, match=f"expected to write {path}, got .* what was there stays"),
    ):
        write_atomically(path, bytes(50_000))
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("command", ["prune MODEL --out PLACE", "export MODEL --gguf PLACE --type f32"])
def test_a_full_disk_ends_each_command_in_one_line(command, parent, tmp_path, small_disk):
    words = [{"MODEL": parent, "PLACE": tmp_path / "new.gguf"}.get(word, word) for word in command.split()]
    few = "--sequences 2 --length 32 --multiple 8 --evaluate none --calibration calibration".split()
    with small_disk(30_000):
        done = run(*words, *(few if words[0] == "prune" else ()))
    assert done.exit_code == 2 and "Traceback" not in done.output, done.output
    assert done.stderr.strip().splitlines()[-1].startswith("comp-lib: expected to w"), done.stderr
    # a run from disk to disk keeps what it has done, to go on from there; an export leaves nothing
    assert [path.name for path in tmp_path.iterdir()] == (["new.gguf.partial"] if words[0] == "prune" else [])
