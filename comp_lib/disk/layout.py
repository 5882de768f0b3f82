"""The files of a new model, laid out before its numbers are there, and written tensor by tensor.

A safetensors file is the length of its header (8 bytes), the header as JSON with the place of each tensor's bytes, and
the bytes. A plan says the shape of every tensor, so `lay_out` writes the header first, and each layer goes to its place
when it is done: in one file, or above LARGEST_FILE_BYTES in numbered files with an index, as `save_pretrained` makes
them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import split_torch_state_dict_into_shards
from torch import Tensor

from ..system.hashes import as_bytes
from ..system.tensors import INDEX, LARGEST_FILE_BYTES

LENGTH_BYTES = 8  # of a file, that say how long its header is
ALIGNMENT = 8  # bytes
STORED_TYPES = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.bfloat16": "BF16",
    "torch.float16": "F16",
}


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
