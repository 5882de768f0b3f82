"""The files of a model that is not there yet: each tensor has its place in them before its numbers are known.

A safetensors file is the length of its header (8 bytes), the header as JSON with the place of each tensor's bytes, and
the bytes. A plan says the shape of every tensor, so the header comes first, and each layer goes to its place when it is
done: in one file, or above LARGEST in numbered files with an index, as `save_pretrained` makes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import split_torch_state_dict_into_shards
from torch import Tensor

from ..system.tensor_files import INDEX, as_bytes

LARGEST = "5GB"  # of a file
DTYPES = {"torch.float64": "F64", "torch.float32": "F32", "torch.bfloat16": "BF16", "torch.float16": "F16"}


class Place(NamedTuple):
    """Where a tensor is."""

    file: Path
    start: int  # of its bytes
    row: int  # bytes of a row


Places = dict[str, Place]


def lay_out(folder: Path, tensors: Mapping[str, Tensor]) -> Places:
    """Make files in `folder` for `tensors`, of which shapes and dtypes count; numbers that are in them stay."""
    places: Places = {}
    split = split_torch_state_dict_into_shards(dict(tensors), max_shard_size=LARGEST)
    for file, names in split.filename_to_tensors.items():
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        ends = [0]
        for name in names:
            ends.append(ends[-1] + tensors[name].nbytes)
            fields = {"dtype": DTYPES[str(tensors[name].dtype)], "shape": [*tensors[name].shape]}
            header[name] = fields | {"data_offsets": ends[-2:]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        path = folder / file
        with path.open("r+b" if path.exists() else "xb") as whole:
            whole.write(len(text).to_bytes(8, "little") + text)
            whole.truncate(8 + len(text) + ends[-1])
        for name, start in zip(names, ends, strict=False):
            places[name] = Place(path, 8 + len(text) + start, tensors[name][0].nbytes)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": dict(sorted(split.tensor_to_filename.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    return places


def write(places: Places, name: str, rows: Tensor, first: int = 0) -> Path:
    """Put rows of a tensor where they belong, from row `first` on; returns the file: the disk may not have it yet."""
    place = places[name]
    with place.file.open("r+b") as file:
        file.seek(place.start + first * place.row)
        file.write(as_bytes(rows.cpu()))
    return place.file
