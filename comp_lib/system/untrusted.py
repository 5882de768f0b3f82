"""Files from strangers: opened only if they are ordinary files of a bounded size, and JSON only if it is an object.

A named pipe in the place of a file would let the reader wait for ever, a device would never end, and JSON that is
nested a million times would end the interpreter. So each of these is refused by name before it is read.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from ..errors import InputError

SMALL = 16 << 20  # bytes of a file of settings: config.json, an index of shards
LARGE = 100 << 20  # bytes of a tokenizer: the largest that are in use have a third of it


def ordinary(path: Path, limit: int | None = None) -> Path:
    """`path`. Raises InputError unless it is a file (or a link to one) of at most `limit` bytes that can be read."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise InputError(f"expected the file {path}, got {error}; fetch or save it again") from error
    if not stat.S_ISREG(status.st_mode):
        got = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        raise InputError(f"expected the file {path}, got {got}, which is not read; put a file there")
    if not os.access(path, os.R_OK):
        raise InputError(f"expected the file {path}, got one that may not be read: ask its owner, or copy it")
    if limit is not None and status.st_size > limit:
        expected, got = f"at most {limit >> 20} MB in {path}", f"{status.st_size >> 20} MB"
        raise InputError(f"expected {expected}, got {got}; fetch or save it again")
    return path


def read_object(path: Path, limit: int = SMALL) -> dict[str, Any]:
    """What a JSON file says. Raises InputError unless it is an object, in an ordinary file of at most `limit` bytes."""
    advice = "fetch or save it again"
    try:
        content = json.loads(ordinary(path, limit).read_text(encoding="utf-8"))
        json.dumps(content, ensure_ascii=False).encode()  # half a character can be read, and never written again
    except InputError:
        raise
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        got = f"{type(error).__name__}: {error}; {advice}"
        raise InputError(f"expected JSON in {path}, got {got}") from error
    if not isinstance(content, dict):
        raise InputError(f"expected an object in {path}, got {short(content)}; {advice}")
    return content


def short(value: object) -> str:
    """`value` as Python writes it, cut to a part of a line.

    >>> short("x" * 100)[-5:]
    'xx...'
    """
    text = repr(value) if isinstance(value, str | int | float | None) else f"{type(value).__name__} {str(value)[:60]!r}"
    return text if len(text) <= 60 else f"{text[:57]}..."
