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

from .errors import InputError
from .files import write_atomically

TENSOR = "tensor of this entry"  # the JSON of a result has {TENSOR: name} where the result has a tensor
STRUCTURE = "structure"  # name of the tensor that holds the JSON of an entry


def load_or_make(path: Path, make: Callable[[], Any]) -> Any:
    """The result that the entry `path` holds; where it cannot be read, `make` is called and its result kept.

    `make` runs without gradients. A result is what JSON can hold, with tensors anywhere in it. Tensors come
    back on the CPU, tuples as lists.

    Raises InputError when the entry cannot be written, or is there and may not be read.
    """
    try:
        entry = load(path.read_bytes())
    except (IsADirectoryError, PermissionError) as error:
        raise InputError(
            expected=f"to read {path}", got=error, hint="delete it, or set COMP_LIB_CACHE"
        ) from error
    except (FileNotFoundError, NotADirectoryError, SafetensorError):
        with torch.no_grad():
            result = make()
        entry = _pack(result)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, save(entry))
        except (OSError, InputError) as error:
            raise InputError(
                expected=f"to write to {path.parent}", got=error, hint="set COMP_LIB_CACHE"
            ) from error
    return _unpack(entry)


def _pack(result: Any) -> dict[str, Tensor]:
    """The tensors of an entry that holds `result`."""
    entry: dict[str, Tensor] = {}

    def name_of(tensor: Tensor) -> dict[str, str]:
        """Put a tensor into the entry; the JSON has its name instead."""
        name = str(len(entry))
        entry[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {TENSOR: name}

    text = json.dumps(result, default=name_of)
    entry[STRUCTURE] = torch.tensor(list(text.encode()), dtype=torch.uint8)
    return entry


def _unpack(entry: dict[str, Tensor]) -> Any:
    """The result that `entry` holds."""

    def tensor_or_node(node: dict[str, Any]) -> Any:
        return entry[node[TENSOR]] if TENSOR in node else node

    text = bytes(entry[STRUCTURE].tolist()).decode()
    return json.loads(text, object_hook=tensor_or_node)
