"""Opening a GGUF file: whole and faithful, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf

from ..errors import InputError


def open_gguf(path: str | Path) -> gguf.GGUFReader:
    """A reader of the GGUF file `path`, of which every tensor is there.

    Raises InputError: no such file, another kind of file, truncated.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f"expected a GGUF file, got {path}, which is not there: check the spelling")
    try:
        return gguf.GGUFReader(path)  # maps every tensor, so that a missing end shows
    except (ValueError, IndexError, KeyError, OSError) as error:
        got = f"{path}, which is damaged or ends too early ({error}); fetch or write it again"
        raise InputError(f"expected a complete GGUF file, got {got}") from error


def check_rope(reader: gguf.GGUFReader, name: str) -> None:
    """transformers drops the rope scaling of a GGUF file in silence, and the model would be subtly wrong."""
    scaling = [key for key in reader.fields if ".rope.scaling." in key]
    scaling += [tensor.name for tensor in reader.tensors if tensor.name.startswith("rope_")]
    if scaling:
        got = f"{name} with {scaling[0]}, which cannot be converted faithfully; use the same model as safetensors"
        raise InputError(f"expected a GGUF file without rope scaling, got {got}")


def metadata(reader: gguf.GGUFReader, key: str) -> Any:
    """What the file says under that key; None where it says nothing."""
    field = reader.get_field(key)
    return None if field is None else field.contents()
