"""Results in the user's cache folder: an entry is complete, or it is not there."""

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

TENSOR = "tensor of this entry"  # the JSON of a result has {TENSOR: name} where the result has a tensor
STRUCTURE = "structure"  # name of the tensor of an entry that holds the JSON


def load_or_make(path: Path, make: Callable[[], Any]) -> Any:
    """What the entry `path` holds. If it cannot be read, what `make` returns without gradients; that is kept.

    A result is what JSON can hold, with tensors anywhere in it, which come back on the CPU; tuples come back
    as lists. Raises InputError when the entry cannot be written.
    """
    try:
        entry = load(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, SafetensorError):
        with torch.no_grad():
            result = make()
        entry = _packed(result)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, save(entry))
        except (OSError, InputError) as error:
            raise InputError(
                expected=f"to write to {path.parent}", got=error, hint="set COMP_LIB_CACHE"
            ) from error
    return _unpacked(entry)


def _packed(result: Any) -> dict[str, Tensor]:
    """The tensors of an entry that holds `result`."""
    entry: dict[str, Tensor] = {}

    def name_of(tensor: Tensor) -> dict[str, str]:
        """Puts a tensor into the entry; the JSON has its name instead."""
        name = str(len(entry))
        entry[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {TENSOR: name}

    text = json.dumps(result, default=name_of)
    entry[STRUCTURE] = torch.tensor(list(text.encode()), dtype=torch.uint8)
    return entry


def _unpacked(entry: dict[str, Tensor]) -> Any:
    """The result that `entry` holds."""

    def tensor_or_node(node: dict[str, Any]) -> Any:
        return entry[node[TENSOR]] if TENSOR in node else node

    text = bytes(entry[STRUCTURE].tolist()).decode()
    return json.loads(text, object_hook=tensor_or_node)
