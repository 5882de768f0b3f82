"""JSON from strangers: an object, or an error that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import InputError

SMALL = 16 << 20  # bytes of a file of settings: config.json, an index of shards


def read_object(path: Path, limit: int = SMALL) -> dict[str, Any]:
    """What a JSON file says. Raises InputError unless it is an object, in an ordinary file of at most `limit` bytes."""
    advice = "fetch or save it again"
    if not path.is_file():  # a pipe would let the reader wait for ever
        raise InputError(f"expected the file {path}, got none; {advice}")
    if (size := path.stat().st_size) > limit:
        raise InputError(f"expected at most {limit >> 20} MB in {path}, got {size >> 20} MB; {advice}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"expected JSON in {path}, got {type(error).__name__}: {error}; {advice}") from error
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
