"""Does it fit? Asked before the first weight is read: a kernel that the system kills says nothing to anybody."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ..errors import InputError
from .load import DTYPES, _check_config, _locate, _read

COPIES = 2  # a model and its pruned copy; what pruning itself needs is small beside them
CGROUP = Path("/sys/fs/cgroup")  # where Linux says what a container may use


def check_memory(name: str, dtype: str = "float32") -> None:
    """Raises InputError when the model of that name and a pruned copy need more memory than is free.

    Raises it as well for a name that `load_model` would refuse.
    """
    needed, free = count_parameters(name) * DTYPES[dtype].itemsize * COPIES, free_memory()
    if needed > free:
        raise InputError(
            f"expected {needed / 1e9:.1f} GB of free memory for {name} and its pruned copy in {dtype}, "
            f"got {free / 1e9:.1f} GB: close something, choose a smaller model, or dtype='bfloat16'"
        )


def count_parameters(name: str) -> int:
    """Parameters of the model of that name, a tied head once, without reading its weights."""
    path = Path(name).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        import gguf  # here, not above: only such a file pays for it

        return sum(int(tensor.n_elements) for tensor in gguf.GGUFReader(path).tensors)
    source, _ = _locate(name)
    _check_config(source)
    with torch.device("meta"):  # shapes without numbers
        model = AutoModelForCausalLM.from_config(_read(AutoConfig.from_pretrained, source))
    return sum(parameter.numel() for parameter in model.parameters())


def free_memory() -> int:
    """Bytes that this process may still take: of the machine, and of its container if that has a limit."""
    free = psutil.virtual_memory().available
    limit = CGROUP / "memory.max"
    if limit.is_file() and (text := limit.read_text().strip()) != "max":
        used = int((CGROUP / "memory.current").read_text())
        statistics = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        free = min(free, int(text) - used + int(statistics.get("inactive_file", 0)))  # file pages can be given back
    return free
