"""Does it fit? Asked before the first weight is read: a kernel that the system kills says nothing to anybody."""

from __future__ import annotations

from pathlib import Path

import psutil

from ..errors import InputError
from .convert_gguf import is_gguf
from .gguf_file import open_gguf
from .load import DTYPES, locate
from .reading import read_config
from .skeleton import skeleton

COPIES = 2  # a model and its pruned copy; what pruning itself needs is small beside them
CGROUP = Path("/sys/fs/cgroup")  # where Linux says what a container may use


def check_memory(name: str, dtype: str = "float32") -> None:
    """Raises InputError when the model of that name and a pruned copy need more memory than is free.

    Raises it as well for a name that `load_model` would refuse.
    """
    needed, free = count_parameters(name) * DTYPES[dtype].itemsize * COPIES, free_memory()
    if needed > free:
        expected = f"{needed / 1e9:.1f} GB of free memory for {name} and its pruned copy in {dtype}"
        got = f"{free / 1e9:.1f} GB: close something, choose a smaller model, or dtype='bfloat16'"
        raise InputError(f"expected {expected}, got {got}")


def count_parameters(name: str) -> int:
    """Parameters of the model of that name, a tied head once, without reading its weights."""
    if is_gguf(name):
        return sum(int(tensor.n_elements) for tensor in open_gguf(name).tensors)
    source, _ = locate(name)
    parameters: int = skeleton(read_config(source)).num_parameters()
    return parameters


def free_memory() -> int:
    """Bytes that this process may still take: of the machine, and of its container if that has a limit."""
    free: int = psutil.virtual_memory().available
    limit = CGROUP / "memory.max"
    if limit.is_file() and (text := limit.read_text().strip()) != "max":
        used = int((CGROUP / "memory.current").read_text())
        statistics = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        free = min(free, int(text) - used + int(statistics.get("inactive_file", 0)))  # file pages can be given back
    return free
