"""Files and folders, written as a whole or not at all; places to write to; and objects read from JSON.

A file or folder is written under another name in the same folder, `NAME.partial-<random>`, and then takes its
name. A killed process leaves the old file as it was, and a `.partial-` that its user deletes. `take_name`
says what it leaves of an old folder.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from .errors import InputError, refusing

SAVE_AGAIN_HINT = "fetch or save it again"  # hint for a file that makes no sense


def resolve(path: str | Path) -> Path:
    """The one name of a file or folder, without links and `~`.

    Raises InputError for a missing home.
    """
    with refusing("a place on this machine", str(path)[:100], "such as build/small"):
        str(path).encode()  # a name that is no text cannot be opened again
        return Path(path).expanduser().resolve()


def check_link(folder: Path, path: Path) -> None:
    """Check that the text `path` of a model's `folder` is no link to a file of somebody else.

    What comp-lib copies from a folder is to be of that folder. In the Hub's cache each file is a link into
    `blobs`, beside the folder `snapshots` that has the model's.

    Raises InputError where it leads anywhere else.
    """
    home = folder.resolve()
    places = (home, home.parents[1] / "blobs") if home.parent.name == "snapshots" else (home,)
    if not any(path.resolve().is_relative_to(place) for place in places):
        raise InputError(
            expected="texts that lie in the model's folder",
            got=f"{str(path)!r}, a link to somewhere else",
            hint="delete the link",
        )


def check_room(folder: Path, needed_bytes: int, purpose: object) -> None:
    """Check that the disk of `folder` has room for the bytes that `purpose` needs.

    Raises InputError where the disk has less room.
    """
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise InputError(
            expected=f"{needed_bytes / 1e6:,.0f} MB of free disk space for {purpose}",
            got=f"{free_bytes / 1e6:,.0f} MB",
            hint="make room or choose another place",
        )


@contextmanager
def stage(target: Path) -> Iterator[Path]:
    """Give a name beside `target`, to write a file or folder under.

    If the block ends well, what was written takes the name `target`. If not, it is deleted.

    Raises InputError when the system refuses to write, as on a full disk.
    """
    partial = target.with_name(f"{target.name}.partial-{secrets.token_hex(4)}")
    try:
        yield partial
        for path in (*partial.rglob("*"), partial):
            fsync(path)
        take_name(partial, target)
    except BaseException as error:
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError | SafetensorError):
            raise InputError(
                expected=f"to write {target}",
                got=error,
                hint="make room or choose another place; what was there stays",
            ) from error
        raise


def take_name(partial: Path, target: Path) -> None:
    """Give the finished file or folder `partial` the name `target`.

    A folder that had this name is first renamed, at last deleted. A process that is killed between the two
    renames leaves both folders, and none of that name.
    """
    old_folder = None
    if target.is_dir():
        old_folder = target.with_name(f"{target.name}.old-{secrets.token_hex(4)}")
        os.replace(target, old_folder)
    os.replace(partial, target)
    fsync(target.parent)
    if old_folder is not None:
        shutil.rmtree(old_folder)


def write_atomically(path: Path, content: bytes) -> None:
    """Write all of `content`, or leave the file as it was.

    Where `path` is a link, its target is written.
    """
    with stage(resolve(path)) as partial:
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


def checked_new_file(path: str | Path, overwrite: bool = False) -> Path:
    """The path of a file to write, without links.

    Raises InputError for a file that is there already unless it is to `overwrite`, and for a folder that
    cannot be written to.
    """
    target = resolve(path)
    if not os.access(target.parent, os.W_OK | os.X_OK) or not target.parent.is_dir():
        raise InputError(
            expected="a file in a folder that can be written to",
            got=path,
            hint="make it, or choose another",
        )
    if os.path.lexists(target) and not (overwrite and target.is_file()):
        raise InputError(
            expected="a new file",
            got=f"{path}, which is there",
            hint="choose another name, or set overwrite (--overwrite) if it is a file",
        )
    return target


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises InputError for a file that holds another value, or is no ordinary file.
    """
    expected = "a file with an object in JSON"
    with refusing(expected, str(path), SAVE_AGAIN_HINT):
        if not path.is_file():  # a pipe would let the reader wait for ever
            raise InputError(expected=expected, got=f"{str(path)!r}: none", hint=SAVE_AGAIN_HINT)
        content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise InputError(
            expected=expected, got=f"{str(path)!r}: a {type(content).__name__}", hint=SAVE_AGAIN_HINT
        )
    return content


def hide_folders(value: object) -> str:
    """`value` as text, without the folders of a path: their names are nobody's business.

    >>> hide_folders("/models/tiny"), hide_folders("general+/texts/mine.txt")
    ('tiny', 'general+mine.txt')
    """
    text = str(value)
    exists = os.path.exists(text)
    if "+" in text and not exists:
        return "+".join(map(hide_folders, text.split("+")))
    if exists or os.path.isabs(text):
        return os.path.basename(os.path.abspath(text))
    return text
