"""One rule for every file that a command writes: nothing of anybody else is overwritten unless that was asked for.

A file that is there is replaced without a word if this library wrote it (`ours` knows by its content), with
`--overwrite` otherwise. What is no ordinary file (a folder, a pipe, a device) is never replaced. Pictures carry a mark
that says who drew them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

from ..errors import InputError
from .atomic import resolved
from .untrusted import read_object

MARK = "comp-lib"  # the "Software" of our pictures
HEAD = 4096  # bytes of a picture in which it stands
LARGEST = 64 << 20  # bytes of a JSON file that is read to see whose it is

Ours = Callable[[Path], bool]
"""Whether the content of a file says that this library wrote it."""


def check_output(path: str | Path, ours: Ours, overwrite: bool = False, *, what: str = "", way: str = "") -> Path:
    """The resolved path of a file to write. Raises InputError unless it is new, ours, or may be overwritten.

    what: if given, the kind of file that not even `overwrite` replaces by another kind. way: what to say beside
    another name (default: --overwrite).
    """
    target = resolved(path)
    folder = target.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        todo = "choose another folder" if folder.is_dir() else "make the folder first"
        raise InputError(f"expected a file in a folder that can be written to, got {path}: {todo}")
    if target.is_dir():
        raise InputError(f"expected a file, got the folder {path}: name a file in it")
    if os.path.lexists(target) and not target.is_file():
        raise InputError(f"expected an ordinary file, got {path}, which is none: choose another name")
    if target.is_file() and not ours(target):
        if what:
            raise InputError(f"expected {what} to overwrite, got {path}, which is none: choose another name")
        if target.suffix == ".safetensors" or _begins(b"GGUF", target):
            raise InputError(f"expected a file that holds no model, got {path}: choose another name")
        if not overwrite:
            todo = way or "choose another name or say --overwrite"
            raise InputError(f"expected a new file or one of ours, got {path}, which is another: {todo}")
    return target


def our_picture(path: Path) -> bool:
    """A PNG with our mark."""
    with path.open("rb") as file:
        return f"Software\0{MARK}".encode() in file.read(HEAD)


def our_json(fields: Collection[str]) -> Ours:
    """A JSON object with just these fields."""
    return partial(_has_fields, frozenset(fields))


def _has_fields(fields: frozenset[str], path: Path) -> bool:
    try:
        return read_object(path, LARGEST).keys() == fields
    except InputError:
        return False


def starts_with(start: bytes) -> Ours:
    """A file that begins with these bytes."""
    return partial(_begins, start)


def _begins(start: bytes, path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(start)) == start
