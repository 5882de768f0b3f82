"""Atomic writing: a folder or a file is the old one, the new one, or absent, whenever the process dies.

All of it goes into a hidden sibling, `.NAME.partial-PID-HOST`, reaches the disk (fsync), and then the sibling takes the
name in one step: a rename, or, over an old folder, Linux's exchange of two names. Where a system or file system has no
exchange, the old folder is first renamed to `.NAME.old-PID-HOST`: a process killed between the two renames leaves NAME
absent. `tidy` puts such a folder back, and sweeps away what dead processes left.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from safetensors import SafetensorError

from ..errors import InputError

HOST = re.sub(r"[^\w-]", "-", platform.node())[:60] or "here"  # a folder may be shared by machines


def resolved(path: str | Path) -> Path:
    """The one name of a file or folder, without links and `~`."""
    return Path(path).expanduser().resolve()


def same(one: str | Path, other: str | Path) -> bool:
    """Whether two names are those of one file or folder: by links, a second mount, or letters that do not count."""
    one, other = resolved(one), resolved(other)
    return one == other or (one.exists() and other.exists() and one.samefile(other))


def bytes_in(path: Path, stored: bool = False) -> int:
    """Of a file, or of all files in a folder; 0 where there is neither.

    stored: only what has room on the disk already, which a file that is written at its end first has not.
    """
    files = path.rglob("*") if path.is_dir() else (path,)
    found = [file.stat() for file in files if file.is_file()]
    return sum(
        min(one.st_size, 512 * one.st_blocks) if stored and hasattr(one, "st_blocks") else one.st_size for one in found
    )


def check_room(folder: Path, needed_bytes: int, what: object, hint: str = "make room or choose another place") -> None:
    """Raises InputError unless the disk of `folder` has room for so many bytes, which `what` needs."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        needed, got = f"{needed_bytes / 1e6:,.0f} MB of free disk space for {what}", f"{free / 1e6:,.0f} MB"
        raise InputError(f"expected {needed}, got {got}: {hint}")


Strangers = Callable[[Path], list[str]]  # what of a folder's content is not ours to delete, by name


@contextmanager
def staged(target: Path, overwrite: bool = True, foreign_files: Strangers = lambda folder: []) -> Iterator[Path]:
    """A hidden name, for a file or folder to write, which becomes `target` if the block ends well and else vanishes.

    Raises InputError when the system refuses to write it (a full disk, say): what was there stays.
    """
    partial = _sibling(target, "partial")
    try:
        yield partial
        publish(partial, target, overwrite, foreign_files)
    except BaseException as error:
        tidy(target)
        if isinstance(error, OSError | SafetensorError):
            taken = isinstance(error, OSError) and error.errno in (errno.EEXIST, errno.ENOTEMPTY)
            meanwhile = "another process has written there meanwhile, so choose another name"
            todo = meanwhile if taken else "make room or choose another place"
            got = f"{error}: {todo}; what was there stays"
            raise InputError(f"expected to write {target}, got {got}") from error
        raise


def write_atomically(path: Path, content: bytes) -> None:
    """All of it under that name, or what was there before. Where that is a link, it is what the link leads to."""
    with staged(resolved(path)) as partial:
        partial.write_bytes(content)


def publish(partial: Path, target: Path, overwrite: bool, foreign_files: Strangers) -> None:
    """Let the finished file or folder `partial`, on the disk of `target`, take its name.

    Raises InputError when the folder that it is to replace has `foreign_files`: nothing is deleted.
    """
    _settle(partial)
    _publish(partial, target, overwrite, foreign_files)


def _sibling(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.{kind}-{os.getpid()}-{HOST}")


def _settle(partial: Path) -> None:
    """Let all of it reach the disk, each file readable to whoever may read the folder's config.json."""
    for path in partial.rglob("*"):
        if path.is_file():
            path.chmod((partial / "config.json").stat().st_mode)  # safetensors creates its files for the owner alone
        fsync(path)
    fsync(partial)


def fsync(path: Path) -> None:
    """Let a file or folder reach the disk."""
    if os.name == "nt" and path.is_dir():  # Windows cannot open folders, and has no need to
        return
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _publish(partial: Path, target: Path, overwrite: bool, foreign_files: Strangers) -> None:
    if partial.is_dir() and target.is_dir() and not any(target.iterdir()):
        target.rmdir()
    if partial.is_file() or not overwrite or not target.exists():
        take = _take_new_name if partial.is_file() and not overwrite else os.replace
        take(partial, target)  # OSError if someone else has put files there meanwhile
        fsync(target.parent)
        return
    _check_known(target, target, foreign_files)
    old, exchanged = partial, _exchange(partial, target)
    if not exchanged:
        old = _sibling(target, "old")
        os.replace(target, old)
        os.replace(partial, target)
    try:
        _check_known(old, target, foreign_files)  # what came at the last moment
    except InputError:
        if not (exchanged and _exchange(partial, target)):
            os.replace(target, partial)
            os.replace(old, target)
        raise
    fsync(target.parent)  # only a new folder that is surely there replaces the old one
    shutil.rmtree(old)


def _take_new_name(partial: Path, target: Path) -> None:
    """Like a rename, which would replace a file that somebody else has put there meanwhile. Raises FileExistsError."""
    try:
        os.link(partial, target)
    except FileExistsError:
        raise
    except OSError:  # a file system where nothing has two names
        os.replace(partial, target)
    else:
        partial.unlink()


def _check_known(folder: Path, target: Path, foreign_files: Strangers) -> None:
    if names := foreign_files(folder):
        expected = f"a model's files and no others in {folder}, which the new {target.name} is to replace"
        got = f"{', '.join(names[:3])}{', ...' * (len(names) > 3)}: move them away, and give the command again"
        raise InputError(f"expected {expected}, got {got}")


def _exchange(one: Path, other: Path) -> bool:
    """Swap the names of two folders in one step; False where system (glibc before 2.28) or file system cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), swap) == 0


def tidy(target: Path) -> None:
    """Undo what interrupted saves left beside `target`: put an old folder back, delete what is partial.

    What another machine does in a folder that is shared is left alone: nobody here knows whether it still runs.
    """
    pattern = re.compile(rf"\.{re.escape(target.name)}\.(partial|old)-(\d{{1,9}})(?:-{re.escape(HOST)})?")
    for path in list(target.parent.glob(".*")):
        match = pattern.fullmatch(path.name)
        # our own leftovers are never in use (saves of one process do not overlap); those of a running process may be
        if match is None or (int(match[2]) != os.getpid() and psutil.pid_exists(int(match[2]))):
            continue
        while os.path.lexists(path):
            with contextlib.suppress(FileNotFoundError):  # another process is at it as well
                if match[1] == "old" and not target.exists():
                    os.replace(path, target)
                elif path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
