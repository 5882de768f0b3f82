"""What this machine has: processors that compute, memory, and a folder for what need not be computed twice."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from ..errors import InputError
from .atomic import resolved

C_LIBRARY = ctypes.CDLL(None) if sys.platform == "linux" else None
CGROUP = Path("/sys/fs/cgroup")  # where Linux says what a container may use


def cache_folder() -> Path:
    """Where converted models, statistics and written text are kept: COMP_LIB_CACHE, else the user's cache folder."""
    if named := os.environ.get("COMP_LIB_CACHE"):
        return resolved(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "comp-lib"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "comp-lib"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "comp-lib"


def finish(device: str | torch.device) -> None:
    """Wait until `device` has done what it was asked to: a CUDA device answers before it has."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def available_device(name: str, double: bool = False) -> torch.device:
    """The device of that name, if it is there; "auto" is the best that is. Raises InputError.

    double: it must have float64, in which sums over tokens are added and solved; Apple's "mps" has none.
    """
    cuda = ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))] if torch.cuda.is_available() else []
    mps = ["mps"] if torch.backends.mps.is_available() and not double else []
    available = [*cuda, *mps, "cpu"]
    if name == "auto":
        return torch.device(available[0])
    if name not in available:
        wanted = f"an available device{' with float64' if double else ''} ({', '.join(available)}) or auto"
        raise InputError(f"expected {wanted}, got {name!r}; choose one")
    return torch.device(name)


def cores() -> int:
    """Cores that this process may use: of the machine, and of its container if that has a limit."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = CGROUP / "cpu.max"
    if limit.is_file() and (words := limit.read_text().split())[0] != "max":
        count = min(count, max(1, int(words[0]) // int(words[1])))  # microseconds of each period
    return count


@contextmanager
def exact_products() -> Iterator[None]:
    """Products of float32 are computed in float32, whatever the caller lets torch round them to."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def free_memory(device: str | torch.device = "cpu") -> int:
    """Bytes that this process may still take: of the machine, of its container if that has a limit, and of a card."""
    free: int = psutil.virtual_memory().available
    limit = CGROUP / "memory.max"
    if limit.is_file() and (text := limit.read_text().strip()) != "max":
        used = int((CGROUP / "memory.current").read_text())
        statistics = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        free = min(free, int(text) - used + int(statistics.get("inactive_file", 0)))  # file pages can be given back
    return min(free, torch.cuda.mem_get_info(device)[0]) if torch.device(device).type == "cuda" else free


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(psutil.Process().memory_info().rss)


def peak_bytes() -> int:
    """Most resident memory that this process ever had."""
    if sys.platform == "linux":  # where `ru_maxrss` begins with the size of the process that started this one
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def release_memory() -> None:
    """Give what was freed back to the system, and to others on a card, which C libraries and torch else keep."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if C_LIBRARY is not None and hasattr(C_LIBRARY, "malloc_trim"):  # glibc has it, others do not
        C_LIBRARY.malloc_trim(0)
