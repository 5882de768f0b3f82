"""Numbers as the page carries them: base64 of little-endian half precision. packing.js reads them."""

from __future__ import annotations

import base64

import numpy as np
import torch
from torch import Tensor

HALF = np.dtype("<f2")


def half_bytes(values: Tensor) -> bytes:
    """The bytes of all values, in half precision, row after row."""
    return values.double().numpy().astype(HALF).tobytes()


def from_half_bytes(content: bytes) -> Tensor:
    """The way back, as a page computes with it: float64, of one dimension."""
    return torch.from_numpy(np.frombuffer(content, HALF).astype(np.float64))


def triangle_of(matrix: Tensor) -> Tensor:
    """The numbers above the diagonal of a matrix (n, n), row after row: (n (n - 1) / 2,)."""
    rows, columns = torch.triu_indices(len(matrix), len(matrix), 1)
    return matrix[rows, columns]


def from_triangle(triangle: Tensor, size: int) -> Tensor:
    """The symmetric matrix (n, n) with ones on its diagonal."""
    rows, columns = torch.triu_indices(size, size, 1)
    matrix = torch.eye(size, dtype=torch.float64)
    matrix[rows, columns] = triangle
    matrix[columns, rows] = triangle
    return matrix


def as_base64(content: bytes) -> str:
    """Bytes as letters, which HTML can hold."""
    return base64.b64encode(content).decode("ascii")
