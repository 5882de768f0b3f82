"""The lessons that have exercises: where their notebooks are, and which check belongs to which function.

Used by tests/lessons.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import nbformat
import numpy as np
import torch

from comp_lib.hybrid_granularity.plan import Plan, PlanRequest
from comp_lib.hybrid_granularity.uniform import uniform_plan

EXERCISES = Path(__file__).parents[1] / "notebooks" / "exercises"
sys.path.insert(0, str(EXERCISES))
from course.checking import Wrong as Wrong  # noqa: E402


def code_sources(path: Path) -> list[str]:
    """The sources of the code cells of a notebook."""
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def number_of(path: Path) -> str:
    """The lesson's number, with which the name of its notebook begins: "02b"."""
    return path.stem.split("_")[0]


def checks_module(number: str) -> ModuleType:
    """The module that checks the exercises of a lesson."""
    return importlib.import_module(f"checks_{number}")


def functions(path: Path) -> dict:
    """Name -> function, for all functions that the cells of a notebook define; and the names that these need.

    Cells that only call the checks are not run.
    """
    namespace = {"torch": torch, "Tensor": torch.Tensor, "Callable": Callable, "np": np}
    namespace |= {"uniform_plan": uniform_plan, "Plan": Plan, "PlanRequest": PlanRequest}
    namespace["checks"] = checks_module(number_of(path))
    for source in code_sources(path):
        if source.startswith("def "):
            exec(source, namespace)
    return namespace


@dataclass(frozen=True)
class Lesson:
    """A lesson that has exercises."""

    name: str  # of its notebooks
    checks: dict[str, Callable]  # name of a function that the reader writes -> the function that checks it

    @property
    def stubs(self) -> Path:
        return EXERCISES / f"{self.name}.ipynb"

    @property
    def solutions(self) -> Path:
        return EXERCISES / "solutions" / f"{self.name}.ipynb"


def lesson(path: Path) -> Lesson:
    """The lesson of a notebook of solutions, which has a cell `checks.check_x(x)` for each function `x`."""
    module = checks_module(number_of(path))
    checks = {}
    for source in code_sources(path):
        match = re.fullmatch(r"checks\.(\w+)\((\w+)\)", source)
        if match:
            check, function = match.groups()
            checks[function] = getattr(module, check)
    return Lesson(path.stem, checks)


SOLUTIONS = sorted((EXERCISES / "solutions").glob("*.ipynb"))
LESSONS = {number_of(path): lesson(path) for path in SOLUTIONS}
