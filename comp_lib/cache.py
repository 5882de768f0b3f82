"""Heavy statistics, computed once: a cache on disk that notebooks, widgets and kernels share.

An entry is a set of named tensors in one safetensors file, called by the SHA-256 of what it depends on: the model (its
tensors, not its name), the tokens, and the settings. Whoever asks for the same thing later gets the file. Writing is
atomic (a temporary sibling, then a rename), so two kernels that compute the same entry at once both end well, and a
damaged file is computed anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .models import cache_folder

VERSION = 1  # of the statistics' meaning: a change of a formula counts it up, so that old entries are never read
SAMPLE = 64  # values of each tensor that enter the fingerprint of a model


def statistics_folder() -> Path:
    """Where the entries are; may not exist yet."""
    return cache_folder() / "statistics"


def fingerprint(model: nn.Module) -> str:
    """A short name for the tensors of `model`: their names, shapes and a spread sample of their values."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        flat = tensor.detach().flatten()
        step = max(1, flat.numel() // SAMPLE)
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(flat[::step].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def cached(
    what: str, model: nn.Module, ids: Tensor, settings: dict, compute: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """`compute()`, or what an earlier call with the same model, tokens (S, L) and JSON-able settings computed."""
    key = json.dumps(
        {
            "what": what, "version": VERSION, "model": fingerprint(model), "settings": settings,
            "tokens": hashlib.sha256(ids.cpu().numpy().tobytes()).hexdigest(), "shape": list(ids.shape),
        },
        sort_keys=True,
    )  # fmt: skip
    path = statistics_folder() / f"{what}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.safetensors"
    if path.exists():
        try:
            return load_file(path)
        except SafetensorError:  # cut short by a full disk, say: an entry can always be made again
            path.unlink(missing_ok=True)
    found = {name: tensor.detach().cpu().contiguous() for name, tensor in compute().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".partial")
    os.close(handle)
    try:
        save_file(found, temporary, metadata={"key": key})
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return found


def cache_size() -> tuple[int, int]:
    """(entries, bytes) of the statistics on disk."""
    files = list(statistics_folder().glob("*.safetensors"))
    return len(files), sum(file.stat().st_size for file in files)


def clear_cache() -> int:
    """Remove all statistics (not the converted models); returns the bytes freed."""
    _, freed = cache_size()
    shutil.rmtree(statistics_folder(), ignore_errors=True)
    return freed


def to_tensors(values: dict[str, list | tuple | Tensor]) -> dict[str, Tensor]:
    """Plain numbers as tensors, for `compute` functions that produce lists."""
    return {name: value if isinstance(value, Tensor) else torch.tensor(value) for name, value in values.items()}
