"""The installation: what the doctor finds, and what to type."""

from __future__ import annotations

import os
from importlib import metadata, util

import pytest
from command import ran, refused, run
from typer.testing import CliRunner

from comp_lib.checkpoints import wheels
from comp_lib.cli import doctor
from comp_lib.cli.app import app
from comp_lib.utils import machine

pytestmark = pytest.mark.slow


def test_the_doctor_finds_what_is_here():
    output = " ".join(ran("doctor").stdout.split())
    assert f"torch {metadata.version('torch')}" in output
    assert f"{machine.cores()} cores" in output
    assert "✗" not in output


MISSING = wheels.Wheel(packages=("no-such-wheel",), install="pip install nothing")


@pytest.mark.parametrize(
    ("module", "name", "value", "finding", "remedy"),
    [
        (machine, "free_memory", lambda: 2**30, "free memory", "close other programs"),
        (doctor, "MIN_DISK", 2**80, "room in the cache", "COMP_LIB_CACHE"),
        (wheels, "WHEELS", {"smollm2-135m": MISSING}, "smollm2-135m", "pip install nothing"),
    ],
)
def test_the_doctor_says_what_to_do(monkeypatch, module, name, value, finding, remedy):
    monkeypatch.setattr(module, name, value)
    result = run("doctor")
    (row,) = [line for line in result.stdout.splitlines() if line.startswith("│ ✗")]
    assert result.exit_code == 1
    assert finding in row
    assert remedy in result.stdout


def test_the_doctor_sees_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("COMP_LIB_CACHE", str(tmp_path / "file" / "cache"))
    result = run("doctor")
    assert result.exit_code == 1
    assert "✗ │ room in the cache" in result.stdout


def test_an_extra_that_is_missing_is_named_with_what_to_type(monkeypatch):
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == "peft" else "here")
    output = ran("doctor").stdout
    assert "comp-lib[heal]" in output
    assert "comp-lib[report]" not in output


@pytest.mark.parametrize(
    ("package", "extra", "command"),
    [
        ("matplotlib", "plots", "demo"),
        ("matplotlib", "plots", "compare MODEL --out out"),
        ("lm_eval", "evaluate", "evaluate MODEL --tasks offline"),
        ("peft", "heal", "heal MODEL --parent MODEL --out out"),
        ("papermill", "report", "report MODEL --out page.html"),
    ],
)
def test_a_command_whose_extra_is_missing_says_what_to_type(
    parent, tmp_path, monkeypatch, package, extra, command
):
    find_spec = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *_: None if name == package else find_spec(name))
    monkeypatch.chdir(tmp_path)
    refused(run(*command.replace("MODEL", str(parent)).split()), [f"comp-lib[{extra}]"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"XDG_CACHE_HOME": "/x"}, "/x/comp-lib"),
        ({}, "HOME/.cache/comp-lib"),
        ({"COMP_LIB_CACHE": "~/mine"}, "HOME/mine"),
    ],
)
def test_the_cache_is_where_a_system_keeps_such_folders(monkeypatch, variables, expected):
    for name in ("COMP_LIB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(machine.cache_folder()) == expected.replace("HOME", os.path.expanduser("~"))


def test_a_terminal_that_knows_few_letters_ends_no_work():
    result = CliRunner(charset="ascii").invoke(app, ["doctor"])
    assert result.exit_code == 0, result.exception
    assert "torch" in result.stdout, result.exception
    assert "?" in result.stdout, result.exception
