"""What a run that was cut off finds damaged in its folder: the same bytes at the end, or one line."""

from __future__ import annotations

import os
import shutil
from functools import partial

import pytest
from command import content
from on_disk import Killed, opened, saved
from variants import tokens

from comp_lib.checkpoints.from_disk.destination import SaveOptions
from comp_lib.checkpoints.from_disk.from_disk import prune_to
from comp_lib.pruning.settings import Settings
from comp_lib.utils.errors import InputError

SETTINGS = Settings(ratio=0.3, drop_layers=0, multiple=32, widths="uniform", aim="dense")
FINISHED = ("model.safetensors", "states-")  # how the names of files begin that hold what is finished


def delete(path):
    path.unlink()


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path, share=0.7):
    """Flip the bits of the byte at this share of the file."""
    content = bytearray(path.read_bytes() or b"\0")
    content[int(share * len(content))] ^= 255
    path.write_bytes(content)


@pytest.fixture(scope="module")
def prune_into(tmp_path_factory, tokenizer):
    """A function that prunes a tiny model of three layers into a folder or a GGUF file."""
    parent, _ = saved(tmp_path_factory.mktemp("model") / "parent", intermediate_size=64)
    model = opened(parent)

    def prune(out, progress=lambda *arguments: None):
        gguf_type = "q8_0" if out.suffix == ".gguf" else None
        options = SaveOptions(windows=tokens(2, 16, seed=5), name="parent", gguf_type=gguf_type)
        return prune_to(out, model, tokenizer, tokens(), SETTINGS, options=options, progress=progress)

    return prune


def everything(out):
    """The bytes of the result: of a folder's files, or of a file."""
    return content(out) if out.is_dir() else {out.name: out.read_bytes()}


@pytest.fixture(scope="module", params=["small", "small.gguf"])
def cut_off(request, prune_into, tmp_path_factory):
    """(What an undisturbed run writes, the folder with a run that was killed after two layers of three)."""

    def killed_after_two(stage, count, total, report=None):
        if (stage, count) == ("pruning", 2):
            raise Killed

    undisturbed = tmp_path_factory.mktemp("undisturbed") / request.param
    prune_into(undisturbed)
    run_folder = tmp_path_factory.mktemp("cut-off")
    with pytest.raises(Killed):
        prune_into(run_folder / request.param, killed_after_two)
    return everything(undisturbed), run_folder / f"{request.param}.partial"


def refusals(prune, expected, out):
    """Prune twice, and return the refusals, of which there are none or two.

    A result must have the `expected` bytes.
    """
    lines = []
    for _ in range(2):
        try:
            if not out.exists():
                prune(out)
        except InputError as error:
            lines.append(str(error))
    assert len(lines) in (0, 2)
    assert out.exists() == (not lines)
    if not lines:
        assert everything(out) == expected
    return lines


def link(path, victim):
    path.unlink(missing_ok=True)
    path.symlink_to(victim)


def hard_link(path, victim):
    path.unlink(missing_ok=True)
    path.hardlink_to(victim)


def dangling_link(path, victim):
    path.unlink(missing_ok=True)
    path.symlink_to(victim.with_name("nowhere"))


def folder_with_a_letter(path, victim):
    path.unlink(missing_ok=True)
    path.mkdir()
    (path / "letter").write_text("dear")


def is_plain_file(path):
    """Whether there is a file that has this name alone."""
    return path.is_file() and not path.is_symlink() and path.stat().st_nlink == 1


@pytest.mark.skipif(os.name == "nt", reason="links")
@pytest.mark.parametrize("replace", [link, hard_link, dangling_link, folder_with_a_letter])
def test_links_and_folders_in_place_of_files_are_left_alone(replace, prune_into, cut_off, tmp_path):
    _, work = cut_off
    names = {path.name for path in work.iterdir()}
    assert {"progress.json", "lock", "config.json"} < names
    for name in sorted(names | {"progress.json.tmp", "states-2", "README.md", "tokenizer.json", "other"}):
        copy = shutil.copytree(work, tmp_path / name / work.name)
        victim = tmp_path / name / "victim"
        if (copy / name).exists():
            shutil.copy(copy / name, victim)  # which would do if it were read
        else:
            victim.write_text("dear")
        before = victim.read_bytes()
        replace(copy / name, victim)
        with pytest.raises(InputError, match="ordinary files in .*move that folder away"):
            prune_into(copy.with_suffix(""))
        assert victim.read_bytes() == before
        assert sorted(path.name for path in copy.parent.iterdir()) == sorted(["victim", work.name])
        assert not is_plain_file(copy / name)


@pytest.mark.skipif(os.name == "nt", reason="links")
@pytest.mark.parametrize("name", ["small", "small.gguf"])
def test_a_folder_that_is_a_link_is_not_entered(name, prune_into, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"{name}.partial").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="a folder or nothing as"):
        prune_into(tmp_path / name)
    assert not list((tmp_path / "elsewhere").iterdir())
    (tmp_path / "fresh.partial").mkdir()
    (tmp_path / "fresh.partial" / "progress.json.tmp").symlink_to(tmp_path / "elsewhere" / "victim")
    with pytest.raises(InputError, match="ordinary files in"):
        prune_into(tmp_path / "fresh")
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("damage", [delete, truncate, flip, partial(flip, share=0)])
def test_what_is_finished_is_the_same_or_refused(damage, prune_into, cut_off, tmp_path):
    expected, work = cut_off
    names = [path.name for path in work.iterdir()]
    assert {"progress.json", "model.safetensors", "config.json"} < {*names}
    assert sum(name.startswith("states-") for name in names) >= 2
    refused_names = set()
    for name in names:
        copy = shutil.copytree(work, tmp_path / name / work.name)
        damage(copy / name)
        for line in refusals(prune_into, expected, copy.with_suffix("")):
            refused_names.add(name)
            assert "delete that folder" in line or name == "progress.json"
            assert "\n" not in line
    of_states = {name for name in names if name.startswith("states-")}
    assert of_states < refused_names
    header_only = isinstance(damage, partial)  # which is written anew
    assert ("model.safetensors" in refused_names) == (not header_only)


def test_an_exported_file_is_the_same_or_refused(prune_into, tmp_path):
    def killed_after_the_export(stage, count, total, report=None):
        if stage == "measuring pruned":
            raise Killed

    for run_folder in ("undisturbed", "cut-off"):
        (tmp_path / run_folder).mkdir()
    prune_into(tmp_path / "undisturbed" / "small.gguf")
    expected = everything(tmp_path / "undisturbed" / "small.gguf")
    with pytest.raises(Killed):
        prune_into(tmp_path / "cut-off" / "small.gguf", killed_after_the_export)
    for damage, name, refused_count in (
        (flip, "small.gguf", 2),
        (truncate, "small.gguf", 2),
        (delete, "small.gguf", 0),  # it is made anew
        (delete, "model.safetensors", 0),  # it is not needed any more
    ):
        run_folder = shutil.copytree(tmp_path / "cut-off", tmp_path / f"{damage.__name__} {name}")
        damage(run_folder / "small.gguf.partial" / name)
        assert len(refusals(prune_into, expected, run_folder / "small.gguf")) == refused_count
