"""Results in the user's cache folder: an entry is there as a whole, or it is not there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..errors import InputError
from .atomic import write_atomically

TENSOR, STRUCTURE = (
    "tensor of this entry",
    "structure",
)  # the mark of a tensor in the JSON of a result; where that is


def remembered(path: Path, make: Callable[[], Any]) -> Any:
    """What the entry holds; where none can be read, what `make` returns without gradients, kept.

    That is what JSON can hold, and tensors anywhere in it, which come back on the CPU; tuples come back as lists.
    Raises InputError when the entry cannot be written.
    """
    try:
        entry = load(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, SafetensorError):
        entry = {}

        def number(tensor: Tensor) -> dict[str, str]:
            entry[place := str(len(entry))] = (
                tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            )
            return {TENSOR: place}

        with torch.no_grad():
            text = json.dumps(make(), default=number)
        entry[STRUCTURE] = torch.tensor(list(text.encode()), dtype=torch.uint8)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, save(entry))
        except (OSError, InputError) as error:
            raise InputError(
                f"expected to write to {path.parent}, got {error}: set COMP_LIB_CACHE"
            ) from error
    text = bytes(entry[STRUCTURE].tolist()).decode()
    return json.loads(text, object_hook=lambda node: entry[node[TENSOR]] if TENSOR in node else node)
