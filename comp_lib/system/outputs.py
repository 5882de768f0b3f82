"""One rule for every file that a command writes: what is there is replaced where that was asked for, and only then."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import InputError
from .atomic import resolved


def check_output(path: str | Path, overwrite: bool = False) -> Path:
    """The path of a file to write, without links. Raises InputError unless it is new, or a file to `overwrite`."""
    target = resolved(path)
    if not os.access(target.parent, os.W_OK | os.X_OK) or not target.parent.is_dir():
        raise InputError(f"expected a file in a folder that can be written to, got {path}: make it, or choose another")
    if os.path.lexists(target) and not target.is_file():
        raise InputError(f"expected an ordinary file, got {path}, which is none: choose another name")
    if target.is_file() and not overwrite:
        raise InputError(f"expected a new file, got {path}, which is there: choose another name or say --overwrite")
    return target
