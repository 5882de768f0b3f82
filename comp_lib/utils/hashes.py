"""The bytes of a tensor; checksums of files; SHA-256 of values, tensors, files, models and this package."""

from __future__ import annotations

import functools
import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import PACKAGE

BLOCK_SIZE = 16 << 20  # bytes of a file that are read at a time
PIECE_SIZE = 1 << 16  # integers that are added at a time: as many as a processor's cache holds
SAMPLE_SIZE = 64  # numbers of each tensor that go into the hash of a model
# fields of a config that do not change what a model computes, and its dtype, which the tensors have
IGNORED_FIELDS = {"_name_or_path", "transformers_version", "dtype"}
# bytes of a number -> dtype of integers with the same bits; 8 bytes are two integers
INTEGER_DTYPES = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int32}


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
    """SHA-256 of the numbers, their dtype and shape."""
    description = f"{values.dtype}{tuple(values.shape)}".encode()
    return hashlib.sha256(description + as_bytes(values.detach().cpu())).hexdigest()


def hash_of_file(path: Path) -> str:
    """SHA-256 of the bytes of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_SIZE):
            digest.update(block)
    return digest.hexdigest()


def checksum_of_file(path: Path, start: int = 0, size: int | None = None) -> int:
    """CRC-32 of `size` bytes of a file, or of all, from the position `start` on.

    It differs where one byte differs, and does without the time of SHA-256: a second for about 1 GB.
    """
    checksum = 0
    left = path.stat().st_size - start if size is None else size
    with path.open("rb") as file:
        file.seek(start)
        while left > 0 and (block := file.read(min(left, BLOCK_SIZE))):
            checksum = zlib.crc32(block, checksum)
            left -= len(block)
    return checksum


def hash_of_model(model: nn.Module) -> str:
    """Hash of the names, shapes and numbers of its tensors, and of its config.

    Of the numbers of a tensor it takes a sample, spread over the tensor, and sums over all bits. One changed
    weight changes a sum, and so do two weights that change places.
    """
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        numbers = tensor.detach().flatten()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(as_bytes(_position_sums(numbers)))
        sample = numbers[:: max(1, numbers.numel() // SAMPLE_SIZE)]
        digest.update(sample.float().cpu().numpy().tobytes())
    config: Any = model.config
    fields = json.loads(config.to_json_string())
    hashed_fields = {name: fields[name] for name in fields.keys() - IGNORED_FIELDS}
    return hash_of_value([digest.hexdigest()[:16], hashed_fields])[:16]


def _position_sums(numbers: Tensor) -> Tensor:
    """The bits of `numbers` (n,), added piece by piece: (pieces,), on the CPU.

    The sum of a piece is sum_j j i_j over its integers i_1, i_2, ... No second tensor of n numbers is made.
    """
    integers = numbers.view(INTEGER_DTYPES[numbers.itemsize])
    positions = torch.arange(1, PIECE_SIZE + 1, device=numbers.device)
    sums = [(piece * positions[: len(piece)]).sum() for piece in integers.split(PIECE_SIZE)]
    return torch.stack(sums).cpu()


@functools.cache
def hash_of_code() -> str:
    """Hash of all modules of this package: a stored result never meets a formula other than its own."""
    code = {path.relative_to(PACKAGE).as_posix(): path.read_text("utf-8") for path in PACKAGE.glob("**/*.py")}
    return hash_of_value(code)[:16]
