"""The installation: what the doctor finds, and what of the cache goes and what stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib import metadata

import pytest
from command import refused, run

from comp_lib.cli import care
from comp_lib.errors import InputError
from comp_lib.models import kept, wheels
from comp_lib.models.gguf_files import CONVERSION
from comp_lib.system import machine


def test_the_version_is_the_package_s():
    done = subprocess.run([sys.executable, "-m", "comp_lib", "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == f"comp-lib {metadata.version('comp-lib')}\n"


def test_the_doctor_finds_what_is_here():
    done = run("doctor", "--json")
    values = json.loads(done.stdout)
    found = {finding["what"]: finding for finding in values["findings"]}
    assert done.exit_code == 0 and values["well"]
    assert found["torch"]["found"] == metadata.version("torch") and found["cores"]["found"] == str(machine.cores())
    assert {extra["name"] for extra in values["extras"]} == set(care.EXTRAS)
    assert next(extra for extra in values["extras"] if extra["name"] == "notebooks")["remedy"] == ""


def nothing(name, wheel):
    raise InputError(f"expected the package {wheel}, got none: install it")


@pytest.mark.parametrize(
    "place, name, value, what, remedy",
    [
        (machine, "free_memory", lambda: 2**30, "free memory", "close other programs"),
        (care, "LEAST_DISK", 2**80, "room in the cache", "comp-lib cache --clear old"),
        (wheels, "_file", nothing, "smollm2-135m", "pip install"),
    ],
)
def test_the_doctor_says_what_to_do(monkeypatch, place, name, value, what, remedy):
    monkeypatch.setattr(place, name, value)
    done = run("doctor", "--json")
    (ill,) = [finding for finding in json.loads(done.stdout)["findings"] if not finding["well"]]
    assert done.exit_code == 1 and ill["what"] == what and remedy in ill["remedy"]


def test_the_doctor_sees_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("COMP_LIB_CACHE", str(tmp_path / "file" / "cache"))
    done = run("doctor", "--json")
    (ill,) = [finding for finding in json.loads(done.stdout)["findings"] if not finding["well"]]
    assert done.exit_code == 1 and ill["what"] == "room in the cache" and "COMP_LIB_CACHE" in ill["remedy"]


def test_a_terminal_that_knows_few_letters_ends_no_work():
    command, few = [sys.executable, "-m", "comp_lib", "doctor"], os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, env=few)
    assert done.returncode == 0 and "Traceback" not in done.stderr and "torch" in done.stdout


def test_an_extra_that_is_missing_is_named_with_what_to_type(monkeypatch):
    monkeypatch.setattr(care, "_installed", lambda name: name != "nbval")
    done = run("doctor")
    assert done.exit_code == 0 and "missing nbval" in done.stdout and "comp-lib[notebooks]" in done.stdout


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder with one entry of each kind, something being written, and things of others."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("COMP_LIB_CACHE", str(folder))
    ours = {
        "models": [f"gguf-{CONVERSION}-{'a' * 64}/model.safetensors", wheels.assembled()[0].name],
        "statistics": [f"statistics/harms-{'b' * 24}.safetensors", f"analysis/layer-{'e' * 24}.safetensors"],
        "written": [f"written/{'c' * 24}.safetensors"],
        "healing": [f"healing/{'c' * 24}.safetensors"],
        "old": [f"gguf-{CONVERSION - 1}-{'d' * 64}/model.safetensors", ".converting-abc/x", ".gguf-2-d.partial-1/x"],
    }
    ours["old"].append(abandoned := f"statistics/.harms-{'f' * 24}.safetensors.partial-1")
    others = ["mine.gguf", "statistics/thesis.csv", "gguf-files/model.gguf", ".gguf-3-e.partial-7/x", "notes.txt"]
    others.append(f"statistics/.harms-{'a' * 24}.safetensors.partial-1")  # being written
    for name in [*(name for names in ours.values() for name in names), *others]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"12345")
    for name in (".converting-abc", ".gguf-2-d.partial-1", abandoned):
        os.utime(folder / name, (time.time() - 2 * kept.ABANDONED,) * 2)
    return folder, ours, others


def test_the_cache_is_counted(cache):
    _, ours, _ = cache
    values = json.loads(run("cache", "--json").stdout)
    assert values["entries"] == {kind: len(ours[kind]) for kind in kept.USE}
    assert values["bytes"] == {kind: 5 * len(ours[kind]) for kind in kept.USE} and values["freed"] is None


@pytest.mark.parametrize("kind", [*kept.USE, "all"])
def test_only_what_is_asked_for_goes_and_nothing_of_others(cache, kind):
    folder, ours, others = cache
    done = run("cache", "--clear", kind)
    stays = [name for each, names in ours.items() for name in names if kind not in (each, "all")]
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert done.exit_code == 0 and left == {*stays, *others} and "freed: " in done.stdout


def test_a_wrong_word_is_refused_before_anything_goes(cache):
    folder, _, _ = cache
    before = sorted(folder.rglob("*"))
    refused(
        run("cache", "--clear", "statistic"),
        ["one of models, statistics, written, healing, old or all", "did you mean"],
    )
    assert sorted(folder.rglob("*")) == before


def test_an_empty_machine_has_an_empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COMP_LIB_CACHE", str(tmp_path / "never"))
    assert set(json.loads(run("cache", "--json").stdout)["entries"].values()) == {0}
