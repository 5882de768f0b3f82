"""What this machine has: processors that compute, memory, and a folder for what need not be computed twice."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import torch

from ..errors import InputError
from .atomic import resolved

CGROUP = Path("/sys/fs/cgroup")  # where Linux says what a container may use


def cache_folder() -> Path:
    """Where converted models, statistics and written text are kept: COMP_LIB_CACHE, else the user's cache folder."""
    user = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return resolved(os.environ.get("COMP_LIB_CACHE") or f"{user}/comp-lib")


def available_device(name: str, double: bool = False) -> torch.device:
    """The device of that name, if it is there; "auto" is the best that is. Raises InputError.

    double: it must have float64, in which sums over tokens are added and solved; Apple's "mps" has none.
    """
    if name == "cpu":  # nobody else is asked: a driver that wakes up cannot be forked
        return torch.device("cpu")
    cuda = (
        ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        if torch.cuda.is_available()
        else []
    )
    mps = ["mps"] if torch.backends.mps.is_available() and not double else []
    available = [*cuda, *mps, "cpu"]
    if name not in ("auto", *available):
        wanted = f"an available device{' with float64' if double else ''} ({', '.join(available)}) or auto"
        raise InputError(f"expected {wanted}, got {name!r}; choose one")
    return torch.device(available[0] if name == "auto" else name)


def cores() -> int:
    """Cores that this process may use: of the machine, and of its container if that has a limit."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = CGROUP / "cpu.max"
    if limit.is_file() and (words := limit.read_text().split())[0] != "max":
        count = min(count, max(1, int(words[0]) // int(words[1])))  # microseconds of each period
    return count


def free_memory() -> int:
    """Bytes that this process may still take: of the machine, and of its container if that has a limit."""
    free: int = psutil.virtual_memory().available
    limit = CGROUP / "memory.max"
    if limit.is_file() and (text := limit.read_text().strip()) != "max":
        used = int((CGROUP / "memory.current").read_text())
        statistics = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        free = min(
            free, int(text) - used + int(statistics.get("inactive_file", 0))
        )  # file pages can be given back
    return free


def peak_bytes() -> int:
    """Most resident memory that this process ever had; on macOS, what it has now."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux; `ru_maxrss` would begin with the size of the process that started this one
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    now = psutil.Process().memory_info()
    return int(getattr(now, "peak_wset", now.rss))
