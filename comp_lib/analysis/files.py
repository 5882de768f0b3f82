"""Frames as files: Parquet for programs, CSV for everybody."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pandas as pd

from ..errors import InputError
from ..system.atomic import write_atomically
from ..system.outputs import check_output, nobodys

ENDINGS = (".csv", ".parquet")


def check_file(path: str | Path, overwrite: bool = False) -> Path:
    """The resolved path of a file to write. Raises InputError for one that is there, another ending, or no pyarrow."""
    suffix = Path(path).suffix.lower()
    if suffix not in ENDINGS:
        raise InputError(f"expected a file that ends in {' or '.join(ENDINGS)}, got {str(path)!r}: choose one of these")
    if suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise InputError("expected the package pyarrow for Parquet, got none: pip install pyarrow, or write a .csv")
    return check_output(path, nobodys, overwrite)


def write(frame: pd.DataFrame, path: str | Path, overwrite: bool = False) -> Path:
    """The frame, with its index as columns, as Parquet or CSV by the ending of `path`, whole or not at all.

    Raises InputError as `check_file`, and when the system refuses to write it.
    """
    target, table = check_file(path, overwrite), frame.reset_index()
    if target.suffix.lower() == ".csv":
        write_atomically(target, table.to_csv(index=False).encode())
    else:
        write_atomically(target, table.to_parquet(index=False))
    return target
