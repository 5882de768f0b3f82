"""What lies in the folder in which a run works: hidden states, the files of the new model, and a journal.

*Hidden states* of all sequences are in files, for texts that are wider than memory.

*The new model* is laid out before its numbers are there. A safetensors file is the length of its header (8
bytes), the header as JSON with the place of each tensor's bytes, and the bytes. A plan says the shape of
every tensor, so `lay_out` writes the header first, and each layer goes to its place when it is done: in one
file, or above LARGEST_FILE_BYTES in numbered files with an index, as `save_pretrained` makes them.

*The journal* says what is finished. A killed process leaves it whole.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from torch import Tensor

from ..errors import InputError, refusing
from ..system.atomic import fsync, take_name
from ..system.hashes import as_bytes
from ..system.tensors import INDEX, LARGEST_FILE_BYTES

JOURNAL = "progress.json"  # name of its file
STATES_PREFIX = "states-"  # of the names of files with hidden states
LENGTH_BYTES = 8  # of a file, that say how long its header is
ALIGNMENT = 8  # bytes
STORED_TYPES = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.bfloat16": "BF16",
    "torch.float16": "F16",
}


@dataclass(frozen=True)
class StatesFile:
    """Hidden states (S, L, d) in the file `path`: `states[rows]` reads, `states[rows] = values` writes."""

    path: Path
    shape: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def create(cls, folder: Path, shape: Sequence[int], dtype: torch.dtype) -> StatesFile:
        """States of zeros in a new file of `folder`."""
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
            if file.readinto(as_bytes(values)) != values.nbytes:
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


class Place(NamedTuple):
    """Where a tensor belongs."""

    path: Path  # of its file
    start: int  # its first byte there
    row_bytes: int


def lay_out(folder: Path, tensors: Mapping[str, Tensor]) -> dict[str, Place]:
    """Make files in `folder` for `tensors`, of which shapes and dtypes count; numbers that are in them stay."""
    split = split_torch_state_dict_into_shards(dict(tensors), max_shard_size=LARGEST_FILE_BYTES)
    places = dict[str, Place]()
    for file_name, names in split.filename_to_tensors.items():
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        starts = dict[str, int]()
        end = 0
        for name in names:
            tensor = tensors[name]
            starts[name] = end
            end += tensor.nbytes
            header[name] = {
                "dtype": STORED_TYPES[str(tensor.dtype)],
                "shape": [*tensor.shape],
                "data_offsets": [starts[name], end],
            }
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % ALIGNMENT)
        first = LENGTH_BYTES + len(text)
        path = folder / file_name
        with path.open("r+b" if path.exists() else "xb") as file:
            file.write(len(text).to_bytes(LENGTH_BYTES, "little") + text)
            file.truncate(first + end)
        for name, start in starts.items():
            places[name] = Place(path, first + start, tensors[name][0].nbytes)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": dict(sorted(split.tensor_to_filename.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    return places


def write_rows(place: Place, rows: Tensor, first_row: int = 0) -> None:
    """Put rows of a tensor where they belong, from `first_row` on; the disk may not have them yet."""
    with place.path.open("r+b") as file:
        file.seek(place.start + first_row * place.row_bytes)
        file.write(as_bytes(rows.cpu()))


class Journal:
    """The progress of a run in the folder `work`.

    What it names is on the disk before it is named; what it does not name is made again. `state` holds:

        request        what was asked for
        plan           as JSON in a string, once it is known
        layers         for each finished layer of the parent its `LayerReport`, None where it is dropped
        made           what the next layer needs of these beside hidden states
        states         "hidden" and "dense" -> name of the file with the states behind the last of them
        dense, pruned  losses of both models in each window, once they are measured
    """

    def __init__(self, work: Path, request: dict[str, Any]) -> None:
        """Go on with the run in `work`, or begin one. Raises InputError for a run with another request."""
        self.work = work
        self.state: dict[str, Any] = {"plan": None, "layers": [], "made": None, "states": {}}
        self.request: dict[str, Any] = json.loads(json.dumps(request))  # as it is read again
        path = work / JOURNAL
        if path.is_file():
            self.state = _read(path)
            self._check_request()

    def _check_request(self) -> None:
        begun = self.state["request"]
        different = [name for name in self.request if begun.get(name) != self.request[name]]
        if different:
            raise InputError(
                expected="the request that began this run",
                got=f"another one in {self.work} (different: {', '.join(different)})",
                hint="delete that folder to begin anew",
            )

    def record(self, **finished: Any) -> None:
        """Write down what is finished, in one step; hidden states that are not named any more are deleted."""
        self.state |= finished | {"request": self.request}
        temporary = self.work / f"{JOURNAL}.tmp"
        temporary.write_text(json.dumps(self.state), "utf-8")
        fsync(temporary)
        take_name(temporary, self.work / JOURNAL)
        for path in self.work.glob(f"{STATES_PREFIX}*"):
            if path.name not in self.state["states"].values():
                path.unlink()


def _read(path: Path) -> dict[str, Any]:
    """What the file says. Raises InputError unless it is the progress of a run."""
    expected, hint = "the progress of a run", "delete that folder"
    with refusing(expected, str(path.parent), hint):
        state: Any = json.loads(path.read_text("utf-8"))
    if not isinstance(state, dict) or not isinstance(state.get("request"), dict):
        raise InputError(expected=expected, got=f"something else in {path}", hint=hint)
    return state
