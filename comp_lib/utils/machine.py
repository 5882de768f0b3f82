"""This machine: its processors, its free memory, and the folder for results that are kept."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import torch

from .arguments import suggestion
from .errors import InputError
from .files import resolve

# folder where Linux, with control groups v2, says what a container may use; the files of v1 are not read
CGROUP = Path("/sys/fs/cgroup")


def cache_folder() -> Path:
    """The folder of models, statistics and written text: COMP_LIB_CACHE, else in the user's cache folder."""
    user_folder = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return resolve(os.environ.get("COMP_LIB_CACHE") or f"{user_folder}/comp-lib")


def available_device(name: str, double: bool = False) -> torch.device:
    """The device of that name; "auto" is the best one.

    double: the device must have float64, in which sums over tokens are added and solved. Apple's "mps" has
    none.

    Raises InputError where this machine has no such device.
    """
    if name == "cpu":  # no driver is asked: one that wakes up cannot be forked
        return torch.device("cpu")
    available = []
    if torch.cuda.is_available():
        available += ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available() and not double:
        available.append("mps")
    available.append("cpu")
    if name == "auto":
        return torch.device(available[0])
    if name not in available:
        precision = " with float64" if double else ""
        hint = suggestion(str(name), [*available, "auto"], otherwise="choose one")
        if str(name).startswith(("gpu", "cuda")):
            hint = "did you mean 'cuda'?" if "cuda" in available else "torch finds no GPU of NVIDIA's here"
        raise InputError(
            expected=f"an available device{precision} ({', '.join(available)}) or auto",
            got=repr(name),
            hint=hint,
        )
    return torch.device(name)


def cores() -> int:
    """How many cores this process may use; in a container no more than control groups v2 allow."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    limit = CGROUP / "cpu.max"
    if limit.is_file():
        quota, period = limit.read_text().split()[:2]  # microseconds of computing in each period, or "max"
        if quota != "max":
            count = min(count, max(1, int(quota) // int(period)))
    return count


def free_memory() -> int:
    """How many bytes this process may still take; in a container no more than control groups v2 allow."""
    free_bytes: int = psutil.virtual_memory().available
    limit = CGROUP / "memory.max"
    if limit.is_file():
        limit_text = limit.read_text().strip()
        if limit_text != "max":
            used_bytes = int((CGROUP / "memory.current").read_text())
            lines = (CGROUP / "memory.stat").read_text().splitlines()
            statistics = dict(line.split() for line in lines)
            file_bytes = int(statistics.get("inactive_file", 0))  # pages of files that can be given back
            free_bytes = min(free_bytes, int(limit_text) - used_bytes + file_bytes)
    return free_bytes


def free_card_memory(device: torch.device) -> int:
    """Bytes that are free on a CUDA device."""
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return free_bytes


def peak_bytes() -> int:
    """The most resident memory that this process ever had, in bytes; on macOS, what it has now."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux; `ru_maxrss` would begin with the size of the process that started this one
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    memory = psutil.Process().memory_info()
    return int(getattr(memory, "peak_wset", memory.rss))
