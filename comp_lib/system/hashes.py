"""Short names for contents: values, tensors, files, models, and this code."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

PACKAGE = Path(__file__).parents[1]
NO_PART_OF_A_MODEL = {"_name_or_path", "transformers_version", "dtype"}  # fields of a config; tensors have a dtype
PIECE = 16 << 20  # bytes of a file, or values of a tensor, read at a time
WHOLE_NUMBERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # bytes -> a dtype to view them as


def of_value(value: Any) -> str:
    """SHA-256, in hex, of anything that JSON can hold, whatever the order of its keys.

    >>> of_value({"a": 1, "b": 2}) == of_value({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def of_tensor(values: Tensor) -> str:
    """Of the numbers, their dtype and shape."""
    content = values.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(f"{values.dtype}{tuple(values.shape)}".encode() + content).hexdigest()


def of_file(path: Path) -> str:
    """Of the bytes of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(PIECE):
            digest.update(block)
    return digest.hexdigest()


def of_model(model: nn.Module) -> str:
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
    return of_value([digest.hexdigest()[:16], kept])[:16]


@cache
def of_code() -> str:
    """Of all modules of this package: a stored result never meets a formula other than its own."""
    paths = sorted(PACKAGE.glob("**/*.py"))
    return of_value({path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in paths})[:16]
