"""Where the files of a model are: in a package, a folder or a GGUF file, or on the Hub."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from ..utils.arguments import suggestion
from ..utils.errors import InputError, refusing
from .wheels import INCLUDED_MODEL, WHEELS, wheel_gguf

FILES_NOT_FETCHED = ("original/*", "consolidated*")  # patterns of the same weights in other forms
HUB_ID = r"[\w-][\w.-]*/[\w.-]+"
OUT_OF_REACH = (HfHubHTTPError, LocalEntryNotFoundError)  # the Hub's answer, and no answer and no copy here


def locate(name: str) -> tuple[Path, bool]:
    """Where to read `name` from, and whether it is on the Hub.

    The folder of a model on the Hub has only its config so far.
    """
    if name in WHEELS:
        return wheel_gguf(name), False
    # expanduser and is_dir refuse a home that is not there, and a name of 5,000 letters
    with refusing("the name of a model", name[:100], "check the spelling"):
        path = Path(name).expanduser()
        is_folder = name != "" and path.is_dir()  # Path("") is the current folder
        is_file = path.is_file()
    is_gguf = path.suffix == ".gguf"
    if is_folder or (is_file and is_gguf):
        return path, False
    if is_file or is_gguf or not re.fullmatch(HUB_ID, name):
        wheel_names = " or ".join(map(repr, WHEELS))
        problem = f"{name!r}, nothing of that name"
        if is_file:
            problem = f"{name!r}, a file whose name ends otherwise, and no folder"
        elif "/" in name and not is_gguf:
            problem = f"no folder {name}"
        raise InputError(
            expected=f"{wheel_names}, a folder, a .gguf file or a Hub id (owner/name)",
            got=problem,
            hint=suggestion(name, WHEELS, otherwise="check the spelling"),
        )
    return snapshot(name, "config.json"), True


def snapshot(hub_id: str, *patterns: str) -> Path:
    """Folder with the files of a model on the Hub that match `patterns`, fetched now or earlier.

    Code is not fetched.
    """
    expected = f"{INCLUDED_MODEL!r}, a folder, a .gguf file or a reachable Hub id"
    hint = "check the spelling, or the connection, if it is a Hub id (owner/name)"
    with refusing(expected, hub_id, hint):
        try:
            folder = snapshot_download(
                hub_id, allow_patterns=list(patterns), ignore_patterns=list(FILES_NOT_FETCHED)
            )
        except OUT_OF_REACH as error:
            got = f"no folder {hub_id}, and no such model within reach of the Hub ({type(error).__name__})"
            raise InputError(expected=expected, got=got, hint=hint) from error
    return Path(folder)
