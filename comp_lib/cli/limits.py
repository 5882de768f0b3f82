"""What the options of any command may say, in one table, checked before a command begins.

The numbers are no advice: they keep a slip of the finger from asking for more than a machine has, or than a library can
count. What depends on the model or on other options is checked where that is known.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from errno import EACCES
from pathlib import Path
from stat import S_ISDIR
from typing import Any

from ..errors import InputError

# option: (least, most)
LIMITS = {
    "sequences": (1, 100_000),
    "length": (2, 1_000_000),
    "windows": (2, 100_000),
    "window": (2, 1_000_000),
    "seed": (0, 2**63 - 1),
    "seeds": (1, 1_000),
    "multiple": (1, 1_000_000),
    "kv_groups": (1, 100_000),
    "attentions": (0, 9_999),
    "search": (0, 100),
    "trials": (0, 1_000),
    "steps": (1, 100_000),
    "batch": (1, 10_000),
    "rank": (1, 10_000),
    "tokens": (1, 1_000_000),
    "context": (16, 10_000_000),
    "rounds": (1, 10_000),
    "prompt": (1, 1_000_000),
    "threads": (1, 1_024),
    "shards": (1, 10_000),
}
OTHERS = {  # where a command says something else
    ("chat", "threads"): (0, 1_024),  # 0: llama.cpp's choice
    ("evaluate", "sequences"): (1, 1_000_000),
}
LONGEST = 1_000_000  # characters of any words
NAMES = "model models calibration text evaluate_on against parent".split()  # words that may name a file or folder
# outputs that are files, and the endings they must have
FILES = {"file": (), "figure": (".png",), "as_json": (), "page_file": (".html", ".htm")}
LONGEST_NAME = 200  # bytes of an output's; systems take 255, and what is half written is called by more than its name


def check(command: str, values: Mapping[str, Any], typed: Mapping[str, str]) -> None:
    """Raises InputError for a value out of the limits, and for words that cannot name what they should.

    values: of each parameter, by its name; a Path is something to write. typed: how people type that name.
    """
    for name, value in values.items():
        if isinstance(value, int) and not isinstance(value, bool):
            _check_number(typed[name], value, OTHERS.get((command, name), LIMITS.get(name)))
        for words in value if isinstance(value, list) else [value]:
            if isinstance(words, str | Path):
                _check_words(typed[name], str(words))
                if name in NAMES or isinstance(words, Path):
                    _check_name(typed[name], str(words))
        if isinstance(value, Path):
            _check_output(typed[name], value, FILES.get(name))


def _check_number(option: str, value: int, limits: tuple[int, int] | None) -> None:
    if limits is not None and not limits[0] <= value <= limits[1]:
        got = str(value) if abs(value) < 10**30 else "a number of more than 30 digits"
        raise InputError(f"expected {option} from {limits[0]:,} to {limits[1]:,}, got {got}: choose one of those")


def _check_words(option: str, words: str) -> None:
    """A NUL ends a word for the system, and half of a character is none for anybody."""
    if len(words) > LONGEST:
        raise InputError(f"expected {option} of at most {LONGEST:,} characters, got {len(words):,}: shorten it")
    if "\0" in words or words.encode("utf-8", "replace").decode() != words:
        raise InputError(f"expected {option} in UTF-8, without NUL, got {words[:100]!r}: write it another way")


def _check_name(option: str, words: str) -> None:
    """What the system does not take as a name, or does not let this user read."""
    path = os.path.expanduser(words)
    if words.startswith("~") and path == words:
        raise InputError(f"expected {option} in a home that is there, got {words[:100]!r}: write ./ before the ~")
    try:
        folder = S_ISDIR(os.stat(path).st_mode)
        if not os.access(path, os.R_OK | (os.X_OK if folder else 0)):
            raise PermissionError(EACCES, os.strerror(EACCES))
    except (FileNotFoundError, NotADirectoryError):
        return  # a name of something else, or of what is to be made
    except OSError as error:
        if "+" in words:  # a mixture, whose parts are looked at where they are read
            return
        got = f"{words[:100]!r}: {error.strerror}; choose another"
        raise InputError(f"expected {option} to name what this user may read, got {got}") from error


def _check_output(option: str, path: Path, endings: tuple[str, ...] | None) -> None:
    """Something to write: not the root, nor a name that leaves no room. endings: of a file; None: it is a folder."""
    path = path.expanduser()
    if path.resolve() == Path(path.resolve().anchor):
        raise InputError(f"expected {option} to be a place of its own, got {path}: name something inside it")
    if (size := len(os.fsencode(path.name))) > LONGEST_NAME:
        got = f"{size} in {path.name[:30]!r}...: shorten it"
        raise InputError(f"expected {option} with a name of at most {LONGEST_NAME} bytes, got {got}")
    if endings is None and path.exists() and not path.is_dir():
        raise InputError(f"expected {option} to be a folder, got the file {path}: choose another name")
    if endings is not None and path.is_dir():
        raise InputError(f"expected {option} to be a file, got the folder {path}: name a file in it")
    if endings and path.suffix.lower() not in endings:
        got = f"{path.name!r}: choose another name"
        raise InputError(f"expected {option} to be a {' or '.join(endings)} file, got {got}")
