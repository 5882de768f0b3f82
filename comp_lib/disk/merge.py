"""Shards of safetensors become the files that `save_pretrained` would have written, without being read as tensors.

A safetensors file is the length of its header (8 bytes), the header as JSON with the place of each tensor's bytes, and
the bytes. So to join files is to join their headers, with the places moved on, and to copy the bytes behind them.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from ..system.files import INDEX, LARGEST, SINGLE, fsync


def merge(folder: Path, shards: list[str]) -> None:
    """Join `shards` in `folder`, in their order, to model.safetensors, or above LARGEST to numbered files and an index.

    The files take their names one by one, whole; the shards stay.
    """
    files: list[list[str]] = [[]]
    filled = 0
    for shard in shards:
        size = (folder / shard).stat().st_size
        if files[-1] and filled + size > LARGEST:
            files.append([])
            filled = 0
        files[-1].append(shard)
        filled += size
    if len(files) == 1:
        _join(folder, shards, SINGLE)
        return
    places, total = dict[str, str](), 0
    for number, part in enumerate(files, 1):
        name = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        tensors = _join(folder, part, name)
        places |= dict.fromkeys(tensors, name)
        total += sum(end - start for start, end in (tensor["data_offsets"] for tensor in tensors.values()))
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    fsync(folder / INDEX)


def _join(folder: Path, shards: list[str], name: str) -> dict[str, Any]:
    """Write the tensors of `shards` to one file; returns its header: tensor -> dtype, shape and data_offsets."""
    header: dict[str, Any] = {}
    starts, moved = [], 0
    for shard in shards:
        with (folder / shard).open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            tensors = json.loads(file.read(length))
        tensors.pop("__metadata__", None)
        for tensor, fields in tensors.items():
            start, end = fields["data_offsets"]
            header[tensor] = fields | {"data_offsets": [moved + start, moved + end]}
        starts.append(8 + length)
        moved += (folder / shard).stat().st_size - 8 - length
    text = json.dumps({"__metadata__": {"format": "pt"}} | header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    partial_file = folder / f"{name}.tmp"
    with partial_file.open("wb") as whole:
        whole.write(len(text).to_bytes(8, "little") + text)
        for shard, start in zip(shards, starts, strict=True):
            with (folder / shard).open("rb") as file:
                file.seek(start)
                shutil.copyfileobj(file, whole, 16 << 20)
    fsync(partial_file)
    os.replace(partial_file, folder / name)
    return header
