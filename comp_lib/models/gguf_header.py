"""The header of a GGUF file, walked through once before any library reads it.

A header is a list of named values and a list of tensors, each with a count before it. A library believes these counts,
and a file of a hundred bytes can claim 2**60 entries, or lists in lists in lists. So here each count is held against
the bound below and the bytes that are left, and nothing is kept but where the walk has got to.
"""

from __future__ import annotations

import mmap
import struct
from math import prod
from pathlib import Path

import gguf

from ..errors import InputError

VALUES, TENSORS, ENTRIES, TEXT, DIMENSIONS = 10_000, 100_000, 8_000_000, 16 << 20, 4  # at most, in a file
VERSIONS = (2, 3)
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a number of each type
WHOLE, STRING, LIST = 4, 8, 9
TYPES = {kind.value: size for kind, size in gguf.GGML_QUANT_SIZES.items()}  # of tensors -> (numbers, bytes) of a block


class _Walk:
    """A place in the bytes of a file, from which whole numbers are read."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content, self.at = content, 0

    def skip(self, size: int) -> None:
        if size > len(self.content) - self.at:
            raise ValueError(f"{size:,} bytes, where {len(self.content) - self.at:,} are left")
        self.at += size

    def whole(self, code: str, most: int, what: str) -> int:
        """The number of that struct code, 0 to `most`."""
        start = self.at
        self.skip(struct.calcsize(f"<{code}"))
        value: int = struct.unpack_from(f"<{code}", self.content, start)[0]
        if value > most:
            raise ValueError(f"{value:,} {what}, of at most {most:,}")
        return value

    def text(self) -> str:
        length = self.whole("Q", TEXT, "bytes of text")
        start = self.at
        self.skip(length)
        return self.content[start : self.at].decode("utf-8")  # UnicodeDecodeError is a ValueError


def check_header(path: Path) -> int:
    """How many numbers the tensors of the GGUF file `path` have in all.

    Raises InputError unless the header can be read, and every tensor in it is there.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _check(_Walk(content))
    except (ValueError, OSError) as error:  # ValueError too for an empty file
        got = f"{path}, which is damaged or ends too early ({error}); fetch or write it again"
        raise InputError(f"expected a complete GGUF file, got {got}") from error


def _check(walk: _Walk) -> int:
    walk.skip(4)
    if walk.content[:4] != b"GGUF" or walk.whole("I", 1 << 32, "") not in VERSIONS:
        raise ValueError("another beginning than that of GGUF, version 2 or 3")
    tensors, values = walk.whole("Q", TENSORS, "tensors"), walk.whole("Q", VALUES, "values")
    alignment, left = gguf.GGUF_DEFAULT_ALIGNMENT, ENTRIES
    for _ in range(values):
        name, kind, start = walk.text(), walk.whole("I", 12, "as a type"), walk.at
        left -= _value(walk, kind, left)
        if name == "general.alignment":
            if kind != WHOLE:
                raise ValueError(f"an alignment of type {kind}")
            alignment = struct.unpack_from("<I", walk.content, start)[0]
    if alignment not in {1 << power for power in range(3, 17)}:
        raise ValueError(f"an alignment of {alignment}")
    found = [_tensor(walk) for _ in range(tensors)]
    walk.skip(-walk.at % alignment)
    walk.skip(max((end for end, _ in found), default=0))
    return sum(numbers for _, numbers in found)


def _value(walk: _Walk, kind: int, most: int) -> int:
    """Step over a value; returns how many it was."""
    if kind == STRING:
        walk.text()
    elif kind == LIST:
        inner, count = walk.whole("I", 12, "as a type"), walk.whole("Q", most, "entries in lists")
        if inner == LIST:
            raise ValueError("a list in a list")
        if inner != STRING:
            walk.skip(count * SIZES[inner])
            return count
        for _ in range(count):
            walk.text()
        return count
    else:
        walk.skip(SIZES[kind])
    return 1


def _tensor(walk: _Walk) -> tuple[int, int]:
    """Step over what is said of a tensor: where it ends, from the first byte of all tensors, and its numbers."""
    name, axes = walk.text(), walk.whole("I", DIMENSIONS, "dimensions")
    shape = [walk.whole("Q", 1 << 40, "numbers in a row") for _ in range(axes)]
    kind, start = walk.whole("I", 1 << 16, "as a type"), walk.whole("Q", len(walk.content), "as first byte")
    if kind not in TYPES or not shape or 0 in shape:
        raise ValueError(f"{name[:60]} of type {kind} and shape {shape}")
    block, size = TYPES[kind]
    if shape[0] % block:
        raise ValueError(f"{name[:60]} with rows of {shape[0]}, which are no blocks of {block}")
    return start + prod(shape) // block * size, prod(shape)
