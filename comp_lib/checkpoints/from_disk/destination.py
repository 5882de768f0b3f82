"""Where a run on disk writes: the folder in which it works, and the name that the result takes in the end.

The work is done in the folder `NAME.partial`, which becomes the folder NAME. A run that makes a GGUF file
NAME.gguf works in `NAME.gguf.partial`; the file takes its name, and the folder is deleted. Nothing that was
there before is replaced without being asked, and whatever is no file of a run is refused.
"""

from __future__ import annotations

import errno
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from ...utils.errors import InputError
from ...utils.files import checked_new_file, fsync, resolve, take_name
from ..card import Provenance
from ..gguf.write import GgufType
from ..new_folder import PLAN_FILE, check_new_folder
from ..own_texts import TEMPLATE_FOLDER
from .gguf_file import check_gguf_target
from .model_on_disk import ModelOnDisk
from .work_folder import JOURNAL, read_state

LOCK = "lock"
# What a disk refuses: it is full or broken, its user may not write, or there can be no such folder.
DISK_ERRORS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EIO,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
)
STATES_FILES = 5  # files of states at once, at most: of two streams, and of three steps of a layer
DISK_BLOCK = 512  # bytes of a block: the system counts in blocks what a file takes


@dataclass(frozen=True)
class SaveOptions:
    """Options that say how the result of `prune_to` is written and judged."""

    name: str = ""
    """Name of the parent, as the user knows it."""
    windows: Tensor | None = None
    """Tokens (S, L) on which both models are measured."""
    text: str = "evaluation"
    """Name of the text that these tokens are of."""
    provenance: Provenance | None = None
    """The provenance of the pruned model, for its card; None: a short one."""
    overwrite: bool = False
    """Whether an earlier result in the folder may be replaced."""
    dtype: torch.dtype | None = None
    """Dtype of the files; None: that in which the model computes."""
    gguf_type: GgufType | None = None
    """Type of the matrices of a GGUF file; None: a folder."""


def checked_run_folder(out: str | Path, parent: ModelOnDisk, token_count: int, options: SaveOptions) -> Path:
    """Check that a run into `out` may begin, or go on, and return the folder in which it works.

    That folder is beside `out`, until the model has taken the name.

    Args:
        parent: the model that is pruned.
        token_count: how many tokens calibrate, whose hidden states take room.
        options: say whether `out` is a folder, what its numbers take, and what may be replaced.

    Raises InputError for a folder or file of something else, and for a disk without enough room.
    """
    target = resolve(out)
    work = target.parent / f"{target.name}.partial"
    has_its_name = False
    if options.gguf_type is None:
        has_its_name = all((target / name).is_file() for name in (JOURNAL, PLAN_FILE))
        work = target if has_its_name else work
    if work.is_symlink() or (work.exists() and not work.is_dir()):
        raise InputError(
            expected=f"a folder or nothing as {work}",
            got="a file or a link",
            hint="move it away or choose another name",
        )
    taken_bytes = _disk_usage(work) if work.is_dir() else {}
    if taken_bytes.keys() - {LOCK, f"{JOURNAL}.tmp"} and JOURNAL not in taken_bytes:
        raise InputError(
            expected="nothing, or a run that was cut off",
            got=f"{work} with other files",
            hint="move it away or choose another name",
        )
    if options.gguf_type is not None and JOURNAL in taken_bytes:
        exported = read_state(work / JOURNAL).exported
        has_its_name = exported and exported_file(work, target) == target
    if not has_its_name:
        state_bytes = STATES_FILES * token_count * parent.shape.hidden_size * parent.dtype.itemsize
        weight_bytes = parent.shape.total_parameters * (options.dtype or parent.dtype).itemsize
        needed_bytes = max(0, weight_bytes + state_bytes - sum(taken_bytes.values()))
        if options.gguf_type is None:
            check_new_folder(out, options.overwrite, needed_bytes, parent.files.path)
        else:
            check_gguf_target(
                out, options.gguf_type, needed_bytes, parent.files.path, overwrite=options.overwrite
            )
    return work


def _disk_usage(folder: Path) -> dict[str, int]:
    """Name in the folder of a run -> the bytes that the file takes on the disk.

    A file with holes takes less than its size.

    Raises InputError for what a run does not make, such as a link, which may lead to somebody's file.
    """
    usage = {}
    for path in folder.rglob("*"):
        try:
            status = path.lstat()
        except FileNotFoundError:  # another process works here, as the lock will say
            continue
        is_file = stat.S_ISREG(status.st_mode) and status.st_nlink <= 1
        if not is_file and not (stat.S_ISDIR(status.st_mode) and path == folder / TEMPLATE_FOLDER):
            raise InputError(
                expected=f"nothing but ordinary files in {folder}",
                got=f"{path.name}, which is a link, a folder or of another kind",
                hint="move that folder away or choose another name",
            )
        blocks = getattr(status, "st_blocks", None)  # Windows has none
        usage[path.name] = status.st_size
        if blocks is not None:
            usage[path.name] = min(status.st_size, DISK_BLOCK * blocks)
    return usage


@contextmanager
def lock(work: Path) -> Iterator[None]:
    """Let no other process work in the folder `work` while the block runs.

    The folder is made if it is missing.

    Raises InputError when another process works there.
    Raises InputError when the disk refuses something in the block, such as more of a full disk. Other errors
    of the system pass, such as the broken pipe of a program that reads the progress.
    """
    try:
        work.mkdir(parents=True, exist_ok=True)
        with FileLock(work / LOCK, timeout=0):
            yield
    except Timeout as error:
        raise InputError(
            expected=f"no other process that prunes into {work}",
            got="one that does",
            hint="wait until it ends, or choose another name",
        ) from error
    except OSError as error:
        if error.errno not in DISK_ERRORS or _is_of_another_folder(error, work):
            raise
        raise InputError(
            expected=f"to work in {work}",
            got=error,
            hint="make room there, or let it be written to; then the same command goes on",
        ) from error


def _is_of_another_folder(error: OSError, work: Path) -> bool:
    """Whether the system refused a file that is not of this run, such as one of the parent's."""
    if not isinstance(error.filename, str | Path):
        return False
    path = Path(error.filename).absolute()
    target = work.with_name(work.name.removesuffix(".partial"))
    return not (path.is_relative_to(work) or path.is_relative_to(target) or work.is_relative_to(path))


def exported_file(work: Path, target: Path) -> Path | None:
    """The path of the GGUF file that the run in `work` exported; None if somebody took the file away."""
    return next((path for path in (work / target.name, target) if path.is_file()), None)


def finish_folder(work: Path, target: Path, parent: ModelOnDisk, *, overwrite: bool) -> None:
    """Let the folder `work` take its name, and delete what belongs to the run alone.

    Raises InputError where something has come there meanwhile, which so stays.
    """
    if work != target:
        check_new_folder(target, overwrite, 0, parent.files.path)
        for path in work.iterdir():
            fsync(path)
        take_name(work, target)
    (target / LOCK).unlink(missing_ok=True)
    (target / JOURNAL).unlink()  # last, since a run that is killed before this goes on from it


def finish_file(work: Path, target: Path, *, overwrite: bool) -> None:
    """Let the exported GGUF file take its name, and delete the folder `work`.

    Raises InputError where something has come there meanwhile, which so stays.
    """
    exported = work / target.name
    if exported.is_file():
        checked_new_file(target, overwrite)
        take_name(exported, target)
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != JOURNAL:
            path.unlink()
    (work / JOURNAL).unlink()  # last, since a run that is killed before this goes on from it
    work.rmdir()
