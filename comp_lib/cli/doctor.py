"""`comp-lib doctor`: what is here, what is missing, and what to type."""

import os
import shutil
import sys
from importlib import metadata, util

from typer import Exit

from .. import __version__
from .console import out, table

LEAST_MEMORY, LEAST_DISK = 2 * 2**30, 2**30  # bytes for the embedded model: a run of it, and its conversion
EXTRAS = {"notebooks": "matplotlib", "report": "papermill", "gguf": "xllamacpp", "evaluate": "lm_eval"}
EXTRAS |= {"heal": "peft", "distributed": "distributed"}  # extra: a package that it brings


def doctor() -> None:
    """What comp-lib finds on this machine, what is missing, what to type. Exit code 1 if SmolLM2 could not be run."""
    from ..models.load import EMBEDDED
    from ..models.wheels import WHEELS
    from ..system.machine import available_device, cache_folder, cores, free_memory

    folder, free, model = cache_folder(), free_memory(), WHEELS[EMBEDDED]
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())  # "/", at last, does
    room = shutil.disk_usage(there).free if there.is_dir() and os.access(there, os.W_OK | os.X_OK) else 0
    clear = "delete what is in that folder, or set COMP_LIB_CACHE to a larger disk"
    here = all(util.find_spec(wheel.replace("-", "_")) for wheel in model["packages"])
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers"))
    findings = [  # what, found, well, what to do where it is not
        ("versions", f"comp-lib {__version__}, {versions}, Python {sys.version.split()[0]}", True, ""),
        ("computes on", f"{cores()} cores, {available_device('auto')}", True, ""),
        (
            "free memory",
            f"{free / 2**30:.1f} GiB",
            free >= LEAST_MEMORY,
            "close other programs: 2 GiB are wanted",
        ),
        ("room in the cache", f"{room / 2**30:.1f} GiB in {folder}", room >= LEAST_DISK, clear),
        (EMBEDDED, "here" if here else "missing", here, model["install"]),
    ]
    rows = [
        ("✓" if well else "✗", what, found, "" if well else remedy) for what, found, well, remedy in findings
    ]
    if missing := [extra for extra, package in EXTRAS.items() if util.find_spec(package) is None]:
        rows.append(
            ("·", "extras", f"missing: {', '.join(missing)}", f"pip install 'comp-lib[{','.join(missing)}]'")
        )
    out.print(table(("", "what", "found", "to do"), rows))
    if not all(well for _, _, well, _ in findings):
        raise Exit(1)
