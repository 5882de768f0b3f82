"""`comp-lib doctor`: what is here, what is missing, and what to type."""

import importlib.util
import os
import shutil
import sys
from importlib import metadata

from typer import Exit

from .console import show, table
from .options import Json

LEAST_MEMORY, LEAST_DISK = 2 * 2**30, 2**30  # bytes for the embedded model: a run of it, and its conversion
EXTRAS = {  # extra: (a package that it brings, what it is for)
    "notebooks": ("matplotlib", "the lessons, in JupyterLab, and all pictures"),
    "report": ("papermill", "report: the check-up as a page"),
    "gguf": ("xllamacpp", "GGUF files run in llama.cpp"),
    "evaluate": ("lm_eval", "tasks, and the texts wikitext2, ptb and c4"),
    "heal": ("peft", "heal: a short training after pruning"),
    "distributed": ("distributed", "compare on a cluster"),
}


def doctor(as_json: Json = False) -> None:
    """What comp-lib finds on this machine, what is missing, and what to type. Exit code 1 if a run could fail."""
    from ..errors import InputError
    from ..models.load import EMBEDDED
    from ..models.wheels import WHEELS, wheel_gguf
    from ..system.machine import available_device, cache_folder, cores, free_memory

    folder, free = cache_folder(), free_memory()
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())  # "/", at last, does
    room = shutil.disk_usage(there).free if there.is_dir() and os.access(there, os.W_OK | os.X_OK) else 0
    try:
        model, here = wheel_gguf(EMBEDDED).name, True
    except InputError:
        model, here = "not installed", False
    clear = "delete what is in that folder, or set COMP_LIB_CACHE to a larger disk"
    findings = [  # what, found, well, what to do where it is not
        ("Python", sys.version.split()[0], True, ""),
        *((name, metadata.version(name), True, "") for name in ("comp-lib", "torch", "transformers")),
        ("cores", str(cores()), True, ""),
        ("free memory", f"{free / 2**30:.1f} GiB", free >= LEAST_MEMORY, "close other programs: 2 GiB are wanted"),
        ("room in the cache", f"{room / 2**30:.1f} GiB in {folder}", room >= LEAST_DISK, clear),
        ("device", str(available_device("auto")), True, ""),
        (EMBEDDED, model, here, WHEELS[EMBEDDED].install),
    ]
    rows = [("✓" if well else "✗", what, found, "" if well else remedy) for what, found, well, remedy in findings]
    for extra, (package, use) in EXTRAS.items():
        missing = importlib.util.find_spec(package) is None
        remedy = f"pip install 'comp-lib[{extra}]'" if missing else ""
        rows.append(("·", f"extra {extra}", f"{'missing' if missing else 'here'} ({use})", remedy))
    well = all(mark != "✗" for mark, *_ in rows)
    values = [dict(zip(("what", "found", "remedy"), row, strict=True)) for _, *row in rows]
    show(table(("", "what", "found", "to do"), rows), {"findings": values, "well": well}, as_json)
    if not well:
        raise Exit(1)
