"""Short names for contents: files, tensors, values, models, and this code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

PACKAGE = Path(__file__).parents[1]
# What decides a result: everything but what draws, shows, compares or talks to the user.
ROOMS = "importance hybrid_granularity recovery statistics calibration families baselines models system".split()
SAMPLE = 64  # values of each tensor that enter the fingerprint of a model
NO_PART_OF_A_MODEL = {"_name_or_path", "transformers_version", "dtype"}  # fields of a config; tensors have a dtype
CHUNK = 1 << 22  # values summed at a time
PIECE = 16 << 20  # bytes of a file read at a time
WHOLE_NUMBERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # bytes -> a dtype to view them as


def of_bytes(content: bytes | memoryview) -> str:
    """SHA-256, in hex.

    >>> of_bytes(b"")[:16]
    'e3b0c44298fc1c14'
    """
    return hashlib.sha256(content).hexdigest()


def of_text(text: str) -> str:
    """Of the text in UTF-8."""
    return of_bytes(text.encode())


def of_value(value: Any) -> str:
    """Of anything that JSON can hold, whatever the order of its keys.

    >>> of_value({"a": 1, "b": 2}) == of_value({"b": 2, "a": 1})
    True
    """
    return of_text(json.dumps(value, sort_keys=True))


def of_tensor(values: Tensor) -> str:
    """Of the numbers, their dtype and shape."""
    content = values.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return of_bytes(f"{values.dtype}{tuple(values.shape)}".encode() + content)


def of_file(path: Path, start: int = 0, length: int | None = None) -> str | None:
    """Of a file, or of `length` bytes of it; None where there is no file, or not so many bytes."""
    if not path.is_file():
        return None
    digest, left = hashlib.sha256(), path.stat().st_size - start if length is None else length
    with path.open("rb") as file:
        file.seek(start)
        while left > 0 and (block := file.read(min(PIECE, left))):
            digest.update(block)
            left -= len(block)
    return None if left else digest.hexdigest()


def of_model(model: nn.Module) -> str:
    """Of the tensors of `model`, see `of_tensors`, and of its config: the same numbers may rotate or mask otherwise."""
    return of_both(of_tensors(model.state_dict().items()), model.config)


def of_both(tensors: str, config: Any) -> str:
    """Of a model: the name of its tensors, and the fields of its config that decide a number."""
    fields = json.loads(config.to_json_string())
    return of_value([tensors, {name: fields[name] for name in fields.keys() - NO_PART_OF_A_MODEL}])[:16]


def of_tensors(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Of tensors that come one at a time: names, shapes, a spread sample of values, and a sum over all bits.

    The sum makes one changed weight a different model; taken over integers, it does not depend on its order.
    """
    digest = hashlib.sha256()
    for name, tensor in tensors:
        flat = tensor.detach().flatten()
        step = max(1, flat.numel() // SAMPLE)
        bits = flat.view(WHOLE_NUMBERS[flat.itemsize])
        total = sum(int(part.sum()) for part in bits.split(CHUNK))
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}{total}".encode())
        digest.update(flat[::step].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


@cache
def of_code(*rooms: str) -> str:
    """Of the modules on top of this package, and of those in ROOMS and `rooms` (folders, or modules in them).

    Read once in a process. Whoever keeps a result keeps this with it: a formula that is mended, or broken, never meets
    numbers of its former self.
    """
    patterns = ["*.py", *(f"{room}{end}" for room in (*ROOMS, *rooms) for end in ("/**/*.py", ".py"))]
    paths = sorted({path for pattern in patterns for path in PACKAGE.glob(pattern)})
    return of_value({path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in paths})[:16]
