"""The folder in which a run works: hidden states, the files of the new model, and a journal.

*Hidden states* of all sequences are in files, since those of a long text may not fit in memory.

*The new model* is laid out before its numbers are known. A safetensors file is the length of its header (8
bytes), the header as JSON with the position of each tensor's bytes, and the bytes. A plan says the shape of
every tensor, so `lay_out` writes the header first, and each layer is written to its position when it is
finished. There is one file, or above LARGEST_FILE_BYTES numbered files with an index, as `save_pretrained`
makes them.

*The journal* says what is finished. It is never half written, even by a process that is killed.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from torch import Tensor

from ...utils.errors import InputError, refusing
from ...utils.files import fsync, take_name
from ...utils.hashes import as_bytes, checksum_of_file
from ..tensors import INDEX_FILE, LARGEST_FILE_BYTES, stored_type
from .run_state import BEGIN_ANEW_HINT, EXPECTED_PROGRESS, STATES_PREFIX, RunState

JOURNAL = "progress.json"  # name of the journal's file
LENGTH_BYTES = 8  # bytes at the start of a safetensors file that hold the length of its header
ALIGNMENT = 8  # bytes of which the length of a header is a multiple


@dataclass(frozen=True)
class StatesFile:
    """Hidden states (S, L, d) in the file `path`: `states[rows]` reads, `states[rows] = values` writes."""

    path: Path
    """Path of the file."""
    shape: tuple[int, ...]
    """The sizes (S, L, d)."""
    dtype: torch.dtype
    """Dtype of the numbers in the file."""

    @classmethod
    def create(cls, folder: Path, shape: Sequence[int], dtype: torch.dtype) -> StatesFile:
        """Make a new file of zeros in `folder`, for states of this shape."""
        names = (folder / f"{STATES_PREFIX}{number}" for number in itertools.count())
        path = next(path for path in names if not path.exists())
        with path.open("xb") as file:
            file.truncate(math.prod(shape) * dtype.itemsize)
        return cls(path, tuple(shape), dtype)

    def __getitem__(self, rows: slice) -> Tensor:
        start, stop, _ = rows.indices(self.shape[0])
        values = torch.empty(stop - start, *self.shape[1:], dtype=self.dtype)
        with self.path.open("rb") as file:
            file.seek(start * values[0].nbytes)
            count = file.readinto(as_bytes(values))
        if count != values.nbytes:
            raise ValueError(
                f"expected {values.nbytes} bytes of hidden states, got an end of file in {self.path}"
            )
        return values

    def __setitem__(self, rows: slice, values: Tensor) -> None:
        values = values.to("cpu", self.dtype)
        start, _, _ = rows.indices(self.shape[0])
        with self.path.open("r+b") as file:
            file.seek(start * values[0].nbytes)
            file.write(as_bytes(values))


class Slot(NamedTuple):
    """The place of a tensor's bytes."""

    path: Path
    """Path of the file that has them."""
    start: int
    """Position of the first byte in the file."""
    size: int
    """Bytes of the tensor."""
    row_bytes: int
    """Bytes of one row."""


def lay_out(folder: Path, tensors: Mapping[str, Tensor]) -> dict[str, Slot]:
    """Make safetensors files in `folder` with room for `tensors`, and return the slot of each tensor.

    Of the tensors only shapes and dtypes are read. The numbers in files that an earlier run made stay.
    """
    split = split_torch_state_dict_into_shards(dict(tensors), max_shard_size=LARGEST_FILE_BYTES)
    slots = dict[str, Slot]()
    for file_name, names in split.filename_to_tensors.items():
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        starts = dict[str, int]()
        end = 0
        for name in names:
            tensor = tensors[name]
            starts[name] = end
            end += tensor.nbytes
            header[name] = {
                "dtype": stored_type(tensor.dtype),
                "shape": [*tensor.shape],
                "data_offsets": [starts[name], end],
            }
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % ALIGNMENT)
        data_start = LENGTH_BYTES + len(text)
        path = folder / file_name
        with path.open("r+b" if path.exists() else "xb") as file:
            file.write(len(text).to_bytes(LENGTH_BYTES, "little") + text)
            file.truncate(data_start + end)
        for name, start in starts.items():
            tensor = tensors[name]
            slots[name] = Slot(path, data_start + start, tensor.nbytes, tensor[0].nbytes)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": dict(sorted(split.tensor_to_filename.items()))}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    return slots


def write_rows(slot: Slot, rows: Tensor, first_row: int = 0) -> None:
    """Write rows of a tensor to its slot, from `first_row` on.

    The disk may not have them yet.
    """
    with slot.path.open("r+b") as file:
        file.seek(slot.start + first_row * slot.row_bytes)
        file.write(as_bytes(rows.cpu()))


class Journal:
    """The progress of a run in the folder `work`: its `state`, which is written down as soon as it changes.

    What it names is on the disk before it is named. What it does not name is made again.
    """

    def __init__(self, work: Path, identity: Mapping[str, Any]) -> None:
        """Go on with the run in `work`, or begin one.

        identity: all that decides the bytes of the run.

        Raises InputError where the run in `work` has another identity.
        """
        self.work = work
        self.state = RunState(json.loads(json.dumps(identity)))  # equal to one that was read from JSON
        path = work / JOURNAL
        if path.is_file():
            first_state = read_state(path)
            self._check_identity(first_state.identity)
            self.state = first_state

    def _check_identity(self, first_identity: Mapping[str, Any]) -> None:
        identity = self.state.identity
        different = [name for name in identity if first_identity.get(name) != identity[name]]
        if different:
            raise InputError(
                expected="the request that began this run",
                got=f"another one in {self.work} (different: {', '.join(different)})",
                hint=BEGIN_ANEW_HINT,
            )

    def check(self, name: str, path: Path, start: int = 0, size: int | None = None) -> None:
        """Check that something that is finished has the bytes that it had then.

        name: its name in `RunState.checksums`.

        The other arguments say where its bytes are, as for `checksum_of_file`.

        Raises InputError where others are there, or none.
        """
        if not path.is_file() or checksum_of_file(path, start, size) != self.state.checksums.get(name):
            raise InputError(
                expected=f"{name} as a run that was cut off left it in {self.work}",
                got="a file that is gone or damaged",
                hint=BEGIN_ANEW_HINT,
            )

    def record(self, **finished: Any) -> None:
        """Write down what is finished, in one step, and delete hidden states that are no longer named.

        finished: fields of `RunState`.
        """
        self.state = replace(self.state, **finished)
        temporary = self.work / f"{JOURNAL}.tmp"
        temporary.write_text(self.state.to_json(), "utf-8")
        fsync(temporary)
        take_name(temporary, self.work / JOURNAL)
        for path in self.work.glob(f"{STATES_PREFIX}*"):
            if path.name not in self.state.states_files:
                path.unlink()


def read_state(path: Path) -> RunState:
    """The state in a journal's file.

    Raises InputError unless it is the progress of a run of this version.
    """
    with refusing(EXPECTED_PROGRESS, str(path), BEGIN_ANEW_HINT):
        return RunState.from_json(json.loads(path.read_text("utf-8")), path)
