"""The lessons that have exercises: where their notebooks are, and which check belongs to which function."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nbformat
import torch

EXERCISES = Path(__file__).parents[1] / "notebooks" / "exercises"
sys.path.insert(0, str(EXERCISES))
import checks_01  # noqa: E402
import checks_02  # noqa: E402
import checks_03  # noqa: E402
import checks_04  # noqa: E402
from checking import Wrong as Wrong  # noqa: E402


def functions(path: Path) -> dict:
    """What the cells of a notebook define, its checks left out."""
    space = {"torch": torch, "Tensor": torch.Tensor, "Callable": Callable, "json": json}
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


LESSON_01 = Lesson(
    "01_layer_importance",
    {
        "block_influence": checks_01.check_block_influence,
        "loss_increase": checks_01.check_loss_increase,
        "greedy_order": checks_01.check_greedy_order,
        "spearman": checks_01.check_spearman,
        "massive": checks_01.check_massive,
    },
)
LESSON_02 = Lesson(
    "02_matrix_condition",
    {
        "gram_of_contributions": checks_02.check_gram,
        "condition_and_cost": checks_02.check_condition,
        "block_cost": checks_02.check_block_cost,
        "remove_one": checks_02.check_remove_one,
    },
)
LESSON_03 = Lesson(
    "03_hybrid_granularity",
    {
        "costs": checks_03.check_costs,
        "width_for_budget": checks_03.check_width,
        "next_layer": checks_03.check_next_layer,
        "reached": checks_03.check_reached,
    },
)
LESSON_04 = Lesson(
    "04_mask_tuning",
    {
        "mask_from_gram": checks_04.check_mask,
        "guarded_mask": checks_04.check_guard,
        "fold": checks_04.check_fold,
        "fit": checks_04.check_fit,
    },
)
LESSONS = (LESSON_01, LESSON_02, LESSON_03, LESSON_04)
