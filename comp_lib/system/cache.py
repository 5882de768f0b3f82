"""Tensors in the user's cache folder: an entry is there as a whole, or it is not there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..errors import InputError
from .atomic import write_atomically

UNREADABLE = (FileNotFoundError, NotADirectoryError, SafetensorError)  # not there, cleared a moment ago, or cut short


def fetch(path: Path) -> dict[str, Tensor] | None:
    """The tensors of an entry, None where there is none that can be read."""
    try:
        return load(path.read_bytes())
    except UNREADABLE:
        return None


def store(path: Path, tensors: dict[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """All of the entry under its name, or nothing. Raises InputError when it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, save(tensors, metadata=None if metadata is None else dict(metadata)))
    except (OSError, InputError) as error:
        advice = "make room there, or set COMP_LIB_CACHE"
        raise InputError(f"expected to write to the cache, {path.parent}, got {error}: {advice}") from error
