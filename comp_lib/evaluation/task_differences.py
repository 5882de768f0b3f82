"""Two models in the same tasks: how far their accuracies lie apart, and whether that is chance.

Both answer the same items. So the interval is that of the mean of the differences, item by item; within a
group of tasks only items vary (see `confidence`). A task differs where its interval leaves out zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .confidence import Interval, confidence_intervals

ACCURACIES = ("acc", "acc_norm")  # names of lm-eval, see `zero_shot`


@dataclass(frozen=True)
class TaskDifference:
    """The accuracy of a model and of its parent in a task or a group of tasks."""

    task: str
    """Its name in lm-eval."""
    measure: str
    """One of ACCURACIES."""
    parent_accuracy: float
    """Of the parent, 0 to 1."""
    accuracy: float
    """Of the model, 0 to 1."""
    interval: Interval
    """95% interval of the difference of both; NaN where there is none."""

    @property
    def difference(self) -> float:
        """`accuracy` - `parent_accuracy`."""
        return self.accuracy - self.parent_accuracy

    @property
    def differs(self) -> bool:
        """Whether the difference is more than chance: false where there is no interval."""
        low, high = self.interval
        return low > 0 or high < 0


def task_differences(results: Mapping[str, Any], parent_results: Mapping[str, Any]) -> list[TaskDifference]:
    """The differences in each task or group that was asked for and is scored by an accuracy.

    results, parent_results: what `zero_shot` reports of the model and of its parent, in the same tasks.
    """
    groups = results["group_subtasks"]
    members = {member for group in groups.values() for member in group}
    differences = []
    for task, scores in results["results"].items():
        if task in members:
            continue
        for measure in ACCURACIES:
            key = f"{measure},none"
            if key in scores:
                parent_accuracy = parent_results["results"][task][key]
                by_task = [
                    _by_item(results, name, measure) - _by_item(parent_results, name, measure)
                    for name in _leaves(task, groups)
                ]
                low, high = confidence_intervals(*(values[None] for values in by_task))[0].tolist()
                row = TaskDifference(task, measure, parent_accuracy, scores[key], (low, high))
                differences.append(row)
    return differences


def _by_item(results: Mapping[str, Any], task: str, measure: str) -> np.ndarray:
    """1 for each item of a task that was answered rightly, else 0, in the order of the items (n,)."""
    samples = sorted(results["samples"][task], key=lambda sample: sample["doc_id"])
    return np.array([sample[measure] for sample in samples], dtype=np.float64)


def _leaves(task: str, groups: Mapping[str, list[str]]) -> Iterator[str]:
    """The tasks that have items: those of a group, or the task itself."""
    if task not in groups:
        yield task
        return
    for member in groups[task]:
        yield from _leaves(member, groups)
