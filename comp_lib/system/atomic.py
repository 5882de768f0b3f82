"""Whole or not at all: a file or folder is written under another name beside its place, and then takes its name.

The other name, `NAME.partial-<random>`, belongs to the process that made it; what lies beside a place is never touched
for its name. What a killed process leaves is the old file or folder as it was, and a `.partial-` that its user deletes.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from ..errors import InputError


def resolved(path: str | Path) -> Path:
    """The one name of a file or folder, without links and `~`. Raises InputError for a home that is not there."""
    try:
        return Path(path).expanduser().resolve()
    except (RuntimeError, OSError, ValueError) as error:
        raise InputError(f"expected a place on this machine, got {str(path)[:100]!r}: {error}; name another") from error


def same(one: str | Path, other: str | Path) -> bool:
    """Whether two names are those of one file or folder: by links, a second mount, or letters that do not count."""
    one, other = resolved(one), resolved(other)
    return one == other or (one.exists() and other.exists() and one.samefile(other))


def check_room(folder: Path, needed_bytes: int, what: object, hint: str = "make room or choose another place") -> None:
    """Raises InputError unless the disk of `folder` has room for so many bytes, which `what` needs."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        needed, got = f"{needed_bytes / 1e6:,.0f} MB of free disk space for {what}", f"{free / 1e6:,.0f} MB"
        raise InputError(f"expected {needed}, got {got}: {hint}")


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A name beside `target`, for a file or folder to write, which takes that name if the block ends well.

    If not, what was written is deleted. Raises InputError when the system refuses to write it (a full disk, say).
    """
    partial = target.with_name(f"{target.name}.partial-{secrets.token_hex(4)}")
    try:
        yield partial
        for path in (*(partial.rglob("*") if partial.is_dir() else ()), partial):
            fsync(path)
        take_name(partial, target)
    except BaseException as error:
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError | SafetensorError):
            got = f"{error}: make room or choose another place; what was there stays"
            raise InputError(f"expected to write {target}, got {got}") from error
        raise


def take_name(partial: Path, target: Path) -> None:
    """Give the finished file or folder `partial` the name of `target`; a folder that had it is deleted.

    That folder is first renamed: a process killed between the two renames leaves both, and none of that name.
    """
    old = None
    if target.is_dir():
        old = target.with_name(f"{target.name}.old-{secrets.token_hex(4)}")
        os.replace(target, old)
    os.replace(partial, target)
    fsync(target.parent)
    if old is not None:
        shutil.rmtree(old)


def write_atomically(path: Path, content: bytes) -> None:
    """All of it under that name, or what was there before. Where that is a link, it is what the link leads to."""
    with staged(resolved(path)) as partial:
        partial.write_bytes(content)


def fsync(path: Path) -> None:
    """Let a file or folder reach the disk."""
    if os.name == "nt" and path.is_dir():  # Windows cannot open folders, and has no need to
        return
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
