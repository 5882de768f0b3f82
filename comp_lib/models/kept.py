"""What the user's cache folder keeps: what it is, how large, and what may go without being asked for twice.

Everything in it can be made again: models converted from GGUF or put together from parts, statistics of the lessons,
text that models wrote. What an older version converted, and what a killed process left, is of no use to anybody.
"""

from __future__ import annotations

import re
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, suggestion
from ..system.atomic import bytes_in
from ..system.machine import cache_folder
from .gguf_files import CONVERSION
from .wheels import assembled

# of entries -> what they are
FOLDERS = {"statistics": "statistics", "analysis": "statistics", "written": "written", "healing": "healing"}
ABANDONED = 3600  # seconds after which what has no name yet is nobody's any more
USE = {
    "models": "converted or put together once; the next load makes them again",
    "statistics": "of the lessons and of check-ups; the next run computes them again",
    "written": "text that models wrote to be calibrated on; written again when asked for",
    "healing": "how far trainings had come that were cut off; the same command goes on from there",
    "old": "of an older version, or left by a process that was killed: no use to anybody",
}


@dataclass(frozen=True)
class Kept:
    """An entry of the cache folder."""

    path: Path
    kind: str  # one of USE
    size: int  # bytes


def kept() -> list[Kept]:
    """What we put into the cache folder, by name; COMP_LIB_CACHE may name a folder in which others keep things too."""
    folder = cache_folder()
    found = []
    for path in sorted([*folder.glob("*"), *(path for name in FOLDERS for path in folder.glob(f"{name}/*"))]):
        with suppress(FileNotFoundError):  # another process has just removed it, or given it its name
            if (kind := _kind(path)) is not None:
                found.append(Kept(path, kind, bytes_in(path)))
    return found


def clear(kind: str) -> int:
    """Remove what is of that kind, one of USE or "all"; bytes freed. Raises InputError for another word.

    Whoever computes an entry at the same time loses a computation, and gets no error.
    """
    if kind not in (*USE, "all"):
        raise InputError(f"expected one of {', '.join(USE)} or all, got {kind!r}: {suggestion(kind, [*USE, 'all'])}")
    gone = [entry for entry in kept() if kind in (entry.kind, "all")]
    try:
        for entry in gone:
            shutil.rmtree(entry.path) if entry.path.is_dir() else entry.path.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"expected to empty the cache, got {error}: close what uses it, and try again") from error
    return sum(entry.size for entry in gone)


def _kind(path: Path) -> str | None:
    """One of USE; None for what is not ours, or is being written."""
    name, place = path.name, path.parent.name
    entry = r"(\w+-)?[0-9a-f]{24}\.safetensors"
    unfinished = (
        rf"\.{entry}\.partial-\d+(-.*)?" if place in FOLDERS else r"\.(gguf-.*|.*\.gguf)\.partial-.*|\.converting-\w+"
    )
    if re.fullmatch(unfinished, name):
        return "old" if time.time() - path.stat().st_mtime >= ABANDONED else None
    if place in FOLDERS:
        return FOLDERS[place] if re.fullmatch(entry, name) else None
    if converted := re.fullmatch(r"gguf-(\d+)-[0-9a-f]{64}", name):
        return "models" if int(converted[1]) == CONVERSION else "old"
    return "models" if path in assembled() else None
