"""A run that can be taken up again: `NAME.partial`, beside the folder NAME that it will become.

    lock            held while a process works here: a second one is refused
    journal.jsonl   what was asked for, then a line for each thing done, on the disk before the next begins
    model/          files of the new model, each complete before the journal names it
    states-N        hidden states (see `states`)

After kill -9, power loss or a full disk the journal says which layers are finished; whatever it does not name is
thrown away and made again. So the run ends with the bytes of an undisturbed one. A line that was cut off while it was
written is no line. Another request than the one that began the journal is refused, by what differs.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import InputError
from ..system import atomic, hashes


class Journal:
    """What has been done of one request; use `Journal.open`."""

    def __init__(self, target: Path) -> None:
        self.target, self.folder = target, partial_folder(target)
        self.model, self.path = self.folder / "model", self.folder / "journal.jsonl"
        self.records: list[dict[str, Any]] = []

    @classmethod
    @contextmanager
    def open(cls, target: Path, request: dict[str, Any]) -> Iterator[Journal]:
        """The journal of the folder `target` (resolved), begun now or taken up again, and locked meanwhile.

        Raises InputError when another process works there, when it was begun for another request, or when the disk is
        full: what was done stays for the next attempt.
        """
        journal = cls(target)
        request = json.loads(json.dumps(request))
        try:
            journal.folder.mkdir(parents=True, exist_ok=True)
            with _locked(journal.folder / "lock", target):
                journal._read(request)
                yield journal
        except OSError as error:
            raise InputError(
                f"expected to write to {journal.folder}, got {error}; mend that, and the same command goes on from "
                "the last finished layer"
            ) from error

    def find(self, what: str) -> dict[str, Any] | None:
        """The latest record called `what`."""
        return next(reversed(self.all(what)), None)

    def all(self, what: str) -> list[dict[str, Any]]:
        """The records called `what`, first to last."""
        return [record for record in self.records if record["what"] == what]

    def add(self, what: str, **fields: Any) -> dict[str, Any]:
        """One more thing that is done, and will be after a power loss too; returns its record.

        Of what it made it may name `files` (name -> SHA-256) in the folder, and `ranges` of files of the model.
        """
        record: dict[str, Any] = json.loads(json.dumps({"what": what, **fields}))
        with self.path.open("ab") as file:
            file.write(json.dumps(record).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.records.append(record)
        return record

    @property
    def published(self) -> bool:
        """Whether the model has taken its name, and the process died before it could clean up."""
        ready = self.find("ready")
        return ready is not None and not (self.model.is_dir() and self.model.stat().st_ino == ready["inode"])

    def publish(self, overwrite: bool) -> None:
        """Let the model take its name, and remove the journal."""
        if self.find("ready") is None:
            self.add("ready", inode=self.model.stat().st_ino)
        atomic.publish(self.model, self.target, overwrite)
        self.remove()

    def remove(self) -> None:
        shutil.rmtree(self.folder)

    def keep_only(self, names: Collection[str]) -> None:
        """Throw away the hidden states that are not among `names`."""
        for path in self.folder.glob("states-*"):
            if path.name not in names:
                path.unlink()

    def look(self) -> int:
        """Read the records that are there, and say how many bytes they take."""
        lines = self.path.read_bytes().split(b"\n")[:-1] if self.path.exists() else []  # the last was cut off
        self.records = [json.loads(line) for line in lines]
        return sum(len(line) + 1 for line in lines)

    def _read(self, request: dict[str, Any]) -> None:
        whole = self.look()
        if not self.records:
            self._begin(request)
            return
        os.truncate(self.path, whole)
        begun = self.records[0]["request"]
        if begun != request:
            changes = "; ".join(_changes(begun, request))
            raise InputError(
                f"expected the command that began {self.folder}, got another one ({changes}): "
                "give that command to go on, or delete that folder to begin anew"
            )
        if not self.published and not self._whole():
            self._begin(request)

    def _begin(self, request: dict[str, Any]) -> None:
        for path in (self.model, self.path):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        self.keep_only(())
        self.model.mkdir()
        self.records = []
        self.add("begun", request=request)

    def _whole(self) -> bool:
        """Whether all that the records name is still what it was: a dying machine may lose some."""
        files: dict[str, str] = {}
        for record in self.records:
            files = record.get("files", files)  # hidden states: those of the last layer
            for name, start, length, digest in record.get("ranges", ()):
                if hashes.of_file(self.model / name, start, length) != digest:
                    return False
        return all(hashes.of_file(self.folder / name) == digest for name, digest in files.items())


def partial_folder(target: Path) -> Path:
    return target.with_name(f"{target.name}.partial")


def _changes(old: Any, new: Any, name: str = "") -> list[str]:
    """What differs between two requests, as `name was this, is that`."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [f"{name} was {_short(old)}, is {_short(new)}"]
    changes = []
    for key in sorted(old.keys() | new.keys()):
        changes += _changes(old.get(key), new.get(key), key)
    return changes


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


@contextmanager
def _locked(path: Path, target: Path) -> Iterator[None]:
    """Hold the lock file `path`. The system lets go of it when the process ends, however it ends."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"expected to be alone, got another process that prunes into {target}: wait for it, or choose another "
            "folder"
        ) from error
    try:
        yield
    finally:
        lock.release()
