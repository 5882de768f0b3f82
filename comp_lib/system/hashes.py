"""The bytes of a tensor, and SHA-256 of values, tensors, files, models and this package."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

PACKAGE = Path(__file__).parents[1]
PIECE = 16 << 20  # bytes of a file, or values of a tensor, read at a time
# fields of a config that are no part of a model; tensors have a dtype
NO_PART_OF_A_MODEL = {"_name_or_path", "transformers_version", "dtype"}
WHOLE_NUMBERS = {
    1: torch.uint8,
    2: torch.int16,
    4: torch.int32,
    8: torch.int64,
}  # bytes -> dtype to view them as


def as_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU, to read into or to write from.

    >>> as_bytes(torch.ones(2)).nbytes
    8
    """
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data


def hash_of_value(value: Any) -> str:
    """SHA-256, in hex, of anything that JSON can hold, whatever the order of its keys.

    >>> hash_of_value({"a": 1, "b": 2}) == hash_of_value({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def hash_of_tensor(values: Tensor) -> str:
    """Of the numbers, their dtype and shape."""
    head = f"{values.dtype}{tuple(values.shape)}".encode()
    return hashlib.sha256(head + as_bytes(values.detach().cpu())).hexdigest()


def hash_of_file(path: Path) -> str:
    """Of the bytes of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(PIECE):
            digest.update(block)
    return digest.hexdigest()


def hash_of_model(model: nn.Module) -> str:
    """Of the names, shapes and numbers of its tensors, and of its config, which may rotate or mask otherwise.

    Of the numbers a spread sample, and a sum over all bits, which one changed weight changes.
    """
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        flat = tensor.detach().flatten()
        total = sum(int(part.sum()) for part in flat.view(WHOLE_NUMBERS[flat.itemsize]).split(PIECE))
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}{total}".encode())
        digest.update(flat[:: max(1, flat.numel() // 64)].float().cpu().numpy().tobytes())
    config: Any = model.config
    fields = json.loads(config.to_json_string())
    kept = {name: fields[name] for name in fields.keys() - NO_PART_OF_A_MODEL}
    return hash_of_value([digest.hexdigest()[:16], kept])[:16]


@functools.cache
def hash_of_code() -> str:
    """Of all modules of this package: a stored result never meets a formula other than its own."""
    code = {path.relative_to(PACKAGE).as_posix(): path.read_text("utf-8") for path in PACKAGE.glob("**/*.py")}
    return hash_of_value(code)[:16]
