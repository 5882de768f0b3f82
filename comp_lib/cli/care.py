"""The installation itself. `comp-lib doctor`: what is here, and what is missing; `cache`: what is kept on the disk."""

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Annotated

from typer import Exit, Option, echo

from .console import out, show, table
from .options import Json, command

PACKAGE = "comp-lib"
LEAST_MEMORY, LEAST_DISK = 2 * 2**30, 2**30  # bytes for the embedded model: a run of it, and its conversion
EXTRAS = {  # what each is for; `bench`, `browser` and `dev` are for those who work on comp-lib
    "notebooks": "the lessons, in JupyterLab",
    "gguf": "chat, benchmark in llama.cpp, K-quants",
    "evaluate": "tasks, and the texts wikitext2, ptb and c4",
    "distributed": "compare and prune on a cluster",
    "heal": "heal: a short training after pruning",
    "report": "report: the check-up as a page",
}


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's."""

    what: str
    found: str
    well: bool
    remedy: str = ""  # what to type, where it is not well


def version(asked: bool) -> None:
    """Print the version and end, where `asked`."""
    if asked:
        echo(f"{PACKAGE} {metadata.version(PACKAGE)}")
        raise Exit


@command
def doctor(as_json: Json = False) -> None:
    """What comp-lib finds on this machine, what is missing, and what to type. Exit code 1 if a run could fail."""
    told = [*_packages(), *_machine(), *_models()]
    findings = [replace(each, remedy="") if each.well else each for each in told]
    values = {"findings": [vars(finding) for finding in findings], "well": all(each.well for each in findings)}
    rows = [("✓" if each.well else "✗", each.what, each.found, each.remedy) for each in findings]
    extras = _extras()
    rows += [("·", f"extra {name}", found, remedy) for name, found, remedy in extras]
    values["extras"] = [dict(zip(("name", "found", "remedy"), extra, strict=True)) for extra in extras]
    show(table(("", "what", "found", "to do"), rows), values, as_json)
    if not values["well"]:
        raise Exit(1)


@command
def cache(
    clear: Annotated[str | None, Option(help="Remove: models, statistics, written, healing, old or all.")] = None,
    as_json: Json = False,
) -> None:
    """What is kept in the cache folder and how large it is; with --clear a part of it goes. All can be made again."""
    from ..models import kept
    from ..system.machine import cache_folder

    freed = None if clear is None else kept.clear(clear)
    entries = kept.kept()
    sizes = {kind: sum(entry.size for entry in entries if entry.kind == kind) for kind in kept.USE}
    counts = {kind: sum(entry.kind == kind for entry in entries) for kind in kept.USE}
    rows = [(kind, str(counts[kind]), f"{sizes[kind] / 1e6:,.1f}", use) for kind, use in kept.USE.items()]
    values = {"folder": str(cache_folder()), "bytes": sizes, "entries": counts, "freed": freed}
    show(table(("kept", "entries", "MB", "what it is"), rows, title=str(cache_folder())), values, as_json)
    if freed is not None and not as_json:
        out.print(f"freed: {freed / 1e6:,.1f} MB")


def _packages() -> list[Finding]:
    """Python, and what comp-lib cannot do without."""
    names = ("torch", "transformers", "safetensors", "scipy")
    python = ".".join(map(str, sys.version_info[:3]))
    needed = metadata.metadata(PACKAGE)["Requires-Python"]
    findings = [Finding("Python", f"{python} (needed: {needed})", True)]
    return findings + [Finding(name, metadata.version(name), True) for name in (PACKAGE, *names)]


def _machine() -> list[Finding]:
    from ..system.machine import available_device, cache_folder, cores, free_memory

    folder = cache_folder()
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())  # "/", at last, does
    usable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    free, room = free_memory(), shutil.disk_usage(there).free if usable else 0
    close = f"close other programs: {LEAST_MEMORY / 2**30:.0f} GiB are wanted"
    clear = "comp-lib cache --clear old, or set COMP_LIB_CACHE to a larger disk"
    return [
        Finding("cores", str(cores()), True),
        Finding("free memory", f"{free / 2**30:.1f} GiB", free >= LEAST_MEMORY, close),
        Finding("room in the cache", f"{room / 2**30:.1f} GiB in {folder}", room >= LEAST_DISK, clear),
        Finding("device", str(available_device("auto")), True),
    ]


def _models() -> list[Finding]:
    """The model that everything uses has to be there; the others may."""
    from ..errors import InputError
    from ..models.load import EMBEDDED
    from ..models.wheels import WHEELS, wheel_gguf

    try:
        return [Finding(EMBEDDED, wheel_gguf(EMBEDDED).name, True)]
    except InputError:
        return [Finding(EMBEDDED, "not installed", False, WHEELS[EMBEDDED].install)]


def _extras() -> list[tuple[str, str, str]]:
    """Name, what is there of it, and what to type, of each of EXTRAS."""
    from packaging.requirements import Requirement

    needed = [Requirement(line) for line in metadata.requires(PACKAGE) or ()]

    def packages(extra: str) -> Iterator[str]:
        for each in needed:
            if each.marker and each.marker.evaluate({"extra": extra}):
                if each.name == PACKAGE:  # an extra may take in others
                    for other in sorted(each.extras):
                        yield from packages(other)
                else:
                    yield each.name

    found = []
    for extra, use in EXTRAS.items():
        missing = [name for name in packages(extra) if not _installed(name)]
        words = f"missing {', '.join(missing)}" if missing else "complete"
        found.append((extra, f"{words} ({use})", f"pip install '{PACKAGE}[{extra}]'" if missing else ""))
    return found


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
