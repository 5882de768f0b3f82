"""How much memory this process has needed."""

from __future__ import annotations

from pathlib import Path

import psutil


def peak_bytes() -> int:
    """Most resident memory that this process ever had.

    On Linux not `ru_maxrss`: that survives exec, and so starts at the size of the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    memory = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):  # Windows, which has no module `resource`
        return int(memory.peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
