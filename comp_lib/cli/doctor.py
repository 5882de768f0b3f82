"""The command `doctor`: what this machine has, what it lacks, and what to type."""

import os
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from typer import Exit, echo

from .. import __version__
from ..utils.arguments import pip_command
from .console import make_table, output

MIN_MEMORY = 2 * 2**30  # bytes, for a run of the included model
MIN_DISK = 2**30  # bytes, for its conversion
EXTRAS = {  # extra -> a package that it brings
    "plots": "matplotlib",
    "notebooks": "jupyterlab",
    "report": "papermill",
    "gguf": "xllamacpp",
    "evaluate": "lm_eval",
    "heal": "peft",
    "distributed": "distributed",
}


@dataclass(frozen=True)
class Finding:
    """One thing that the doctor has examined."""

    name: str
    """What was examined."""
    value: str
    """What was found."""
    is_enough: bool = True
    """Whether the included model can run with it."""
    remedy: str = ""
    """What to do where it is not enough."""


def doctor() -> None:
    """List what is here, what is missing and what to type. Exit code 1 if SmolLM2 could not be run."""
    findings = _findings()
    rows = []
    for finding in findings:
        if finding.is_enough:
            rows.append(("✓", finding.name, finding.value, ""))
        else:
            rows.append(("✗", finding.name, finding.value, finding.remedy))
    missing = [extra for extra, package in EXTRAS.items() if util.find_spec(package) is None]
    if missing:
        rows.append(("·", "extras", f"missing: {', '.join(missing)}", "see below"))
    output.print(make_table(("", "what", "found", "to do"), rows))
    if missing:
        echo(f"all extras: {pip_command(*missing)}")
    if not all(finding.is_enough for finding in findings):
        raise Exit(1)


def _findings() -> list[Finding]:
    """Everything that the included model needs."""
    from ..checkpoints.wheels import INCLUDED_MODEL, WHEELS
    from ..utils.machine import available_device, cache_folder, cores, free_memory

    python = sys.version.split()[0]
    libraries = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers"))
    memory = free_memory()
    cache = cache_folder()
    disk = _free_disk(cache)
    larger_disk = "delete what is in that folder, or set COMP_LIB_CACHE to a larger disk"
    wheel = WHEELS[INCLUDED_MODEL]
    is_installed = all(util.find_spec(package.replace("-", "_")) for package in wheel.packages)
    return [
        Finding("versions", f"comp-lib {__version__}, {libraries}, Python {python}"),
        Finding("computes on", f"{cores()} cores, {available_device('auto')}"),
        Finding(
            "free memory",
            f"{memory / 2**30:.1f} GiB",
            memory >= MIN_MEMORY,
            "close other programs: 2 GiB are wanted",
        ),
        Finding("room in the cache", f"{disk / 2**30:.1f} GiB in {cache}", disk >= MIN_DISK, larger_disk),
        Finding(INCLUDED_MODEL, "here" if is_installed else "missing", is_installed, wheel.install),
    ]


def _free_disk(folder: Path) -> int:
    """Bytes that may be written to a folder, which need not exist yet: 0 where nothing may."""
    nearest = next(path for path in (folder, *folder.parents) if path.exists())  # at the latest "/"
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        return shutil.disk_usage(nearest).free
    return 0
