"""Heavy statistics, computed once: a cache on disk that notebooks, widgets and kernels share.

An entry is a set of named tensors in one safetensors file, called by the SHA-256 of what it depends on: the model (its
tensors, not its name), the tokens, the settings, and the code of this package but for what only draws: a formula that
is mended, or broken, never meets numbers of its former self. Whoever asks for the same thing later gets the file.
Writing is atomic (a temporary sibling, then a rename), so two kernels that compute the same entry at once both end
well; a damaged file is computed anew, and clearing the cache under a kernel's feet costs it a computation, never an
error.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

from ..errors import InputError
from ..models.load import cache_folder
from ..system import hashes

ABANDONED = 3600  # seconds after which a file that never got its name is nobody's any more


def statistics_folder() -> Path:
    """Where the entries are; may not exist yet."""
    return cache_folder() / "statistics"


def cached(
    what: str, model: nn.Module, ids: Tensor, settings: dict, compute: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """`compute()`, or what an earlier call with the same model, tokens (S, L) and JSON-able settings computed.

    Raises InputError when the entry cannot be written.
    """
    key = json.dumps(
        {
            "what": what,
            "code": hashes.of_code("lessons"),
            "model": hashes.of_model(model),
            "settings": settings,
            "tokens": hashes.of_tensor(ids),
        },
        sort_keys=True,
    )
    path = statistics_folder() / f"{what}-{hashes.of_text(key)[:24]}.safetensors"
    try:
        return load(path.read_bytes())  # load_file has its own words for a file cleared while it opens
    except (FileNotFoundError, NotADirectoryError):
        pass  # not computed yet, or cleared a moment ago
    except SafetensorError:  # cut short by a full disk, say: an entry can always be made again
        path.unlink(missing_ok=True)
    found = {name: _alone(tensor) for name, tensor in compute().items()}
    try:
        _write(found, path, key)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"expected to write statistics to {path.parent}, got {error}: make room there, or set COMP_LIB_CACHE"
        ) from error
    return found


def _alone(tensor: Tensor) -> Tensor:
    """The tensor, contiguous, on the CPU, and in a storage of its own: what safetensors can write."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _write(found: dict[str, Tensor], path: Path, key: str) -> None:
    """All of the entry under its name, or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".partial")
    os.close(handle)
    try:
        save_file(found, temporary, metadata={"key": key})
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def cache_size() -> tuple[int, int]:
    """(entries, bytes) of the statistics on disk."""
    found = [status.st_size for path in statistics_folder().glob("*.safetensors") if (status := _status(path))]
    return len(found), sum(found)


def clear_cache() -> int:
    """Remove all statistics (not the converted models); returns the bytes freed. Safe while others compute."""
    freed = 0
    for path in statistics_folder().glob("*"):
        status = _status(path)
        unfinished = path.suffix != ".safetensors"  # our temporary file, or the one safetensors itself makes beside it
        if status is None or (unfinished and time.time() - status.st_mtime < ABANDONED):
            continue  # gone already, or someone is writing it
        path.unlink(missing_ok=True)
        freed += status.st_size
    return freed


def _status(path: Path) -> os.stat_result | None:
    """What the system knows of a file; None if another process has just removed it."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def to_tensors(values: dict[str, list | tuple | Tensor]) -> dict[str, Tensor]:
    """Plain numbers as tensors, for `compute` functions that produce lists."""
    return {name: value if isinstance(value, Tensor) else torch.tensor(value) for name, value in values.items()}
