"""A run that can be taken up again: `NAME.partial`, beside the folder NAME that it will become.

    lock            held while a process works here: a second one is refused
    journal.jsonl   what was asked for, then a line for each thing done, on the disk before the next begins
    model/          files of the new model, each complete before the journal names it
    states-N        hidden states (see `states_on_disk`)

After kill -9, power loss or a full disk the journal says which layers are finished; whatever it does not name is
thrown away and made again. So the run ends with the bytes of an undisturbed one. A line that was cut off while it was
written is no line; one that was changed afterwards does not fit its seal, and is refused. Another request than the one
that began the journal is refused, by what differs.

Nothing of anybody else is touched: a folder of that name without such a journal is refused, and of ours only what we
made is deleted. Whether the model has taken its name is decided by what lies there, byte for byte.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import InputError
from ..models.save import foreign_files
from ..system import atomic, hashes

STATES = re.compile(r"states-\d{1,9}")
HELD_STAYS = os.name == "nt"  # whether the system deletes no file that is held, as Windows
BEGIN = b'{"what": "begun", '  # of every journal


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
        new = [path for path in journal.folder.parents if not path.exists()]
        try:
            journal.check_ours()
            journal.folder.mkdir(parents=True, exist_ok=True)
            with journal._locked():
                begun = journal._read(request)
                try:
                    yield journal
                except InputError:
                    if begun and len(journal.records) == 1:  # refused before anything was done
                        journal.remove()
                        for path in new:
                            if path.is_dir() and not any(path.iterdir()):
                                path.rmdir()
                    raise
        except OSError as error:
            todo = "mend that, and the same command goes on from the last finished layer"
            got = f"{error}; {todo}"
            raise InputError(f"expected to write to {journal.folder} and to read the model, got {got}") from error

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
            file.write(json.dumps(record | {"seal": hashes.of_value(record)}).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.records.append(record)
        return record

    @property
    def published(self) -> bool:
        """Whether the model has taken its name, and the process died before it could clean up."""
        ready = self.find("ready")
        return ready is not None and self._holds(self.target, ready["papers"])

    def publish(self, overwrite: bool) -> None:
        """Let the model take its name, and remove the journal."""
        if self.find("ready") is None:
            papers = sorted({path.name for path in self.model.iterdir()} - self._weights())
            self.add("ready", papers={name: hashes.of_file(self.model / name) for name in papers})
        atomic.publish(self.model, self.target, overwrite, foreign_files)
        self.remove()

    def remove(self) -> None:
        """What we made, the journal last; a file of somebody else stays, and the folder with it."""
        self.keep_only(())
        if self.model.is_dir() and not foreign_files(self.model):
            shutil.rmtree(self.model)
        self.path.unlink(missing_ok=True)
        if not HELD_STAYS:  # else it waits until the lock is let go
            self._tidy()

    def _tidy(self) -> None:
        """The lock and the folder, of a journal that is removed."""
        if self.folder.is_dir() and not self.path.exists():
            (self.folder / "lock").unlink(missing_ok=True)
            if not any(self.folder.iterdir()):
                self.folder.rmdir()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock file. The system lets go of it when the process ends, however it ends."""
        lock = FileLock(self.folder / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            got = f"another process that prunes into {self.target}: wait for it, or choose another folder"
            raise InputError(f"expected to be alone, got {got}") from error
        try:
            yield
        finally:
            lock.release()
            if HELD_STAYS:
                self._tidy()

    def states(self) -> set[str]:
        """Names of the files with hidden states."""
        return {path.name for path in self.folder.iterdir() if STATES.fullmatch(path.name)}

    def keep_only(self, names: Collection[str]) -> None:
        """Throw away the hidden states that are not among `names`."""
        self.throw_away(self.states().difference(names))

    def throw_away(self, names: Iterable[str]) -> None:
        """These hidden states."""
        for name in names:
            (self.folder / name).unlink()

    def look(self) -> int:
        """Read the records that are there, and say how many bytes they take. Raises InputError for a damaged line."""
        lines = self.path.read_bytes().split(b"\n")[:-1] if self.path.is_file() else []  # the last was cut off
        self.records = [self._record(number, line) for number, line in enumerate(lines, 1)]
        return sum(len(line) + 1 for line in lines)

    def _record(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            record: dict[str, Any] = json.loads(line)
            sealed = record.pop("seal") == hashes.of_value(record) and (number == 1) == (record["what"] == "begun")
            sealed = sealed and all(
                map(STATES.fullmatch, (*record.get("files", ()), *record.get("states", {}).values()))
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            sealed = False
        if not sealed:
            got = f"line {number} of {self.path}, which is damaged or of another version"
            raise InputError(f"expected a journal as comp-lib wrote it, got {got}: delete {self.folder} to begin anew")
        return record

    def check_ours(self) -> None:
        """Raises InputError unless the folder is new, empty, or holds a journal: before anything in it is touched."""
        if not os.path.lexists(self.folder):
            return
        got = "that is no folder"
        if self.folder.is_dir() and not self.folder.is_symlink():
            lock, names = self.folder / "lock", {path.name for path in self.folder.iterdir()}
            if self.path.is_file() and not self.path.is_symlink():
                with self.path.open("rb") as file:
                    if (start := file.read(len(BEGIN))) == BEGIN:
                        return
                    if names <= {"lock", self.path.name} and BEGIN.startswith(start):  # cut off in the first line
                        return
            if not names or names == {"lock"} and lock.is_file() and not lock.stat().st_size:
                return
            got = f"it with {', '.join(sorted(names)[:3])} and no journal of ours"
        wanted = f"{self.folder} for the work in progress to be new or empty"
        raise InputError(f"expected {wanted}, got {got}: move it away, or choose another name")

    def _read(self, request: dict[str, Any]) -> bool:
        """Take up the journal, or begin it: whether it was begun."""
        whole = self.look()
        if not self.records:
            self._begin(request)
            return True
        os.truncate(self.path, whole)
        self.check_request(dict.fromkeys(self.records[0]["request"]) | request)
        if not self.published and not self._whole():
            self._begin(request)
        self.model.mkdir(exist_ok=True)
        return False

    def check_request(self, part: dict[str, Any]) -> None:
        """Raises InputError unless what was begun, if anything was, has these fields in its request."""
        part = json.loads(json.dumps(part))
        begun = self.records[0]["request"] if self.records else part
        if changes := _changes({name: begun.get(name) for name in part}, part):
            got = f"another one ({'; '.join(changes)}): give that command to go on, or delete that folder to begin anew"
            raise InputError(f"expected the command that began {self.folder}, got {got}")

    def check_alone(self) -> None:
        """Raises InputError when another process works here."""
        if (self.folder / "lock").is_file():
            with self._locked():
                pass

    def _begin(self, request: dict[str, Any]) -> None:
        """Anew; the journal comes first, for a folder without one is not ours."""
        if self.model.is_dir():
            if names := foreign_files(self.model):
                got = f"{', '.join(names[:3])} in it: move that away"
                raise InputError(f"expected nothing but the work in progress in {self.model}, got {got}")
            shutil.rmtree(self.model)
        self.keep_only(())
        self.path.unlink(missing_ok=True)
        self.records = []
        self.add("begun", request=request)
        self.model.mkdir()

    def _whole(self) -> bool:
        """Whether all that the records name is still what it was: a dying machine may lose some."""
        files: dict[str, str] = {}
        for record in self.records:
            files = record.get("files", files)  # hidden states: those of the last layer
        kept = all(hashes.of_file(self.folder / name) == digest for name, digest in files.items())
        ready = self.find("ready")
        return kept and (self._written(self.model) if ready is None else self._holds(self.model, ready["papers"]))

    def _written(self, folder: Path) -> bool:
        """Whether `folder` has all that was written of the model's weights."""
        ranges = (part for record in self.records for part in record.get("ranges", ()))
        return all(hashes.of_file(folder / name, start, length) == digest for name, start, length, digest in ranges)

    def _holds(self, folder: Path, papers: dict[str, str]) -> bool:
        """Whether `folder` is the finished model: its weights, these files (name -> SHA-256), and nothing else."""
        if not folder.is_dir() or {path.name for path in folder.iterdir()} != {*papers, *self._weights()}:
            return False
        return self._written(folder) and all(hashes.of_file(folder / name) == papers[name] for name in papers)

    def _weights(self) -> set[str]:
        """Names of the files that hold them."""
        return {name for record in self.records for name, *_ in record.get("ranges", ())}


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
