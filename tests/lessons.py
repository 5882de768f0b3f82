"""The lessons that have exercises: where their notebooks are, and which check belongs to which function."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nbformat
import numpy as np
import torch

from comp_lib.hybrid_granularity.uniform import uniform_plan
from comp_lib.plan import Plan, PlanRequest

EXERCISES = Path(__file__).parents[1] / "notebooks" / "exercises"
sys.path.insert(0, str(EXERCISES))
from checking import Wrong as Wrong  # noqa: E402


def functions(path: Path) -> dict:
    """What the cells of a notebook define, its checks left out."""
    space = {"torch": torch, "Tensor": torch.Tensor, "Callable": Callable, "np": np}
    space |= {"uniform_plan": uniform_plan, "Plan": Plan, "PlanRequest": PlanRequest}
    space["checks"] = importlib.import_module(f"checks_{path.stem.split('_')[0]}")
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code" and cell.source.startswith("def "):
            exec(cell.source, space)
    return space


@dataclass(frozen=True)
class Lesson:
    name: str
    checks: dict[str, Callable]  # function that the reader writes -> what checks it

    @property
    def stubs(self) -> Path:
        return EXERCISES / f"{self.name}.ipynb"

    @property
    def solutions(self) -> Path:
        return EXERCISES / "solutions" / f"{self.name}.ipynb"


def lesson(path: Path) -> Lesson:
    """What a notebook of solutions says: a cell `checks.check_x(x)` for each function, `checks` being its module."""
    checks = importlib.import_module(f"checks_{path.stem.split('_')[0]}")
    sources = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    pairs = [match for source in sources if (match := re.fullmatch(r"checks\.(\w+)\((\w+)\)", source))]
    return Lesson(path.stem, {pair[2]: getattr(checks, pair[1]) for pair in pairs})


LESSONS = {
    path.stem.split("_")[0]: lesson(path) for path in sorted((EXERCISES / "solutions").glob("*.ipynb"))
}
