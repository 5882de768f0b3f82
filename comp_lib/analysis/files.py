"""Frames as files: Parquet for programs, CSV for everybody."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ..errors import InputError, check_package
from ..system.atomic import write_atomically
from ..system.outputs import check_output

ENDINGS = (".csv", ".parquet")


def write(frame: pd.DataFrame, path: str | Path, overwrite: bool = False) -> Path:
    """The frame, with its index as columns, as Parquet or CSV by the ending of `path`, whole or not at all.

    Raises InputError for a file that is there, another ending, no pyarrow, and when the system refuses to write it.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in ENDINGS:
        raise InputError(f"expected a file that ends in {' or '.join(ENDINGS)}, got {str(path)!r}: choose one of these")
    if suffix == ".parquet":
        check_package("pyarrow", "the package pyarrow for Parquet", "pip install pyarrow, or write a .csv")
    target, table = check_output(path, lambda _: False, overwrite), frame.reset_index()
    csv = suffix == ".csv"
    write_atomically(target, table.to_csv(index=False).encode() if csv else table.to_parquet(index=False))
    return target
