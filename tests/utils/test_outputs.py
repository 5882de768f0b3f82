"""One rule for all outputs: a file is replaced only on request; a full disk is refused in one line."""

from __future__ import annotations

import os

import pytest
from command import run

from comp_lib.utils.errors import InputError
from comp_lib.utils.files import checked_new_file, write_atomically

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "overwrite", "match"),
    [
        ("new.json", False, None),
        ("old.json", True, None),
        ("link.json", True, None),
        ("old.json", False, "or set overwrite"),
        ("folder", True, "which is there"),
        ("pipe", True, "which is there"),
        ("nowhere/new.png", True, "a folder that can be written to"),
    ],
)
def test_what_may_be_written(tmp_path, name, overwrite, match):
    (tmp_path / "old.json").write_text("{}")
    (tmp_path / "link.json").symlink_to(tmp_path / "old.json")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.iterdir())
    if match is None:
        assert checked_new_file(tmp_path / name, overwrite) == (tmp_path / name).resolve()
    else:
        with pytest.raises(InputError, match=match):
            checked_new_file(tmp_path / name, overwrite)
    assert sorted(tmp_path.iterdir()) == before


def test_a_full_disk_is_one_line_and_keeps_what_was_there(tmp_path, small_disk):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with (
        small_disk(20_000),
        pytest.raises(InputError, match=f"expected to write {path}, got .* what was there stays"),
    ):
        write_atomically(path, bytes(50_000))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("command", ["prune MODEL --out PLACE", "export MODEL --gguf PLACE --type f32"])
def test_a_full_disk_ends_each_command_in_one_line(command, parent, tmp_path, small_disk):
    paths = {"MODEL": parent, "PLACE": tmp_path / "new.gguf"}
    arguments = [paths.get(argument, argument) for argument in command.split()]
    is_prune = arguments[0] == "prune"
    if is_prune:
        arguments += (
            "--sequences 2 --length 32 --multiple 8 --judged-on none --calibration calibration".split()
        )
    with small_disk(30_000):
        result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output, result.output
    assert result.stderr.strip().splitlines()[-1].startswith("comp-lib: expected to w"), result.stderr
    # a run from disk to disk keeps what it has done, to go on from there; an export leaves nothing
    assert [path.name for path in tmp_path.iterdir()] == (["new.gguf.partial"] if is_prune else [])
