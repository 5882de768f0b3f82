"""What a model can do without an example: choosing among given answers, through lm-eval.

Each answer is a continuation of the same context; the model chooses the one to which it gives the highest
log-probability, in sum (acc), or divided by its length in characters (acc_norm):

    acc      = share of items in which  argmax_i  log p(answer_i | context)                     is the right one,
    acc_norm = share of items in which  argmax_i  log p(answer_i | context) / len(answer_i)     is the right one.

`offline` are the tasks that ship in data/tasks: 20 phenomena of English grammar (pairs: chance is 0.5), last words of
sentences from evaluation.txt, everyday physical sense, and school science (one of four: chance is 0.25). `literature`
are the seven that papers on pruning report; lm-eval fetches them from the Hub. Any other name that lm-eval knows works
as well, if its measure is acc.

Imports lm-eval when called: it takes seconds, and is an extra (`comp-lib[evaluate]`).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..calibration.text import DATA_FOLDERS
from ..errors import InputError, check_package, refusing, suggestion
from ..families.protocol import Model

LITERATURE = ("boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")
OFFLINE = ("comp_grammar", "comp_cloze", "comp_sense", "comp_science")
MEASURES = ("acc", "acc_stderr", "acc_norm", "acc_norm_stderr")
SETS = {"offline": OFFLINE, "literature": LITERATURE}


def task_names(text: str) -> tuple[str, ...]:
    """The tasks that `text` asks for: offline, literature, or names with commas between.

    Raises InputError: none, one that lm-eval does not know, or no lm-eval.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    names = tuple(dict.fromkeys(name for word in words for name in SETS.get(word, (word,))))
    if not names:
        raise InputError(f"expected tasks, got {text!r}; choose {', '.join(SETS)}, or names with commas between")
    known = _manager(names).all_tasks
    for name in names:
        if name not in known:
            hint = suggestion(name, (*SETS, *OFFLINE, *LITERATURE))  # lm-eval's are thousands, too many to list
            raise InputError(f"expected a task that lm-eval knows (lm-eval ls tasks), got {name!r}; {hint}")
    return names


def zero_shot(
    model: Model, tokenizer: Any, tasks: tuple[str, ...], batch: int = 16, limit: int | None = None
) -> list[dict[str, Any]]:
    """A row for each of these tasks, a group before its members; `limit`: only the first items of each.

    `task`, and of `items` answers `acc`, `acc_stderr`, `acc_norm` and `acc_norm_stderr`, shares from 0 to 1, None where
    the task has none; `version` of its definition: numbers of two versions cannot be compared.

    Raises InputError, before a model answers, as `results_of`.
    """
    results = results_of(model, tokenizer, tasks, batch, limit)
    rows, sizes = [], results["n-samples"]
    for name in (each for task in tasks for each in _with_members(task, results["group_subtasks"])):
        values = {measure: results["results"][name].get(f"{measure},none") for measure in MEASURES}
        row = {measure: value if isinstance(value, float) else None for measure, value in values.items()}  # or "N/A"
        leaves = (task for task in _with_members(name, results["group_subtasks"]) if task in sizes)
        items = sum(sizes[task]["effective"] for task in leaves)
        rows.append({"task": name} | row | {"items": items, "version": str(results["versions"].get(name))})
    return rows


def results_of(model: Model, tokenizer: Any, tasks: tuple[str, ...], batch: int, limit: int | None) -> dict[str, Any]:
    """All that lm-eval says of `model` in these tasks, with its answers to every item.

    Raises InputError, before a model answers: tasks that cannot be fetched or stand there twice, or whose measure is
    not acc; or no lm-eval.
    """
    manager = _manager(tasks)
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it gives advice about ways of calling it that are not ours
    advice = "name each task once, go online once, or choose offline"
    with refusing("tasks that lm-eval can load", ", ".join(tasks), advice):
        loaded = manager.load(list(tasks))
    for name, task in loaded["tasks"].items():
        if "acc" not in task.aggregation():
            got = f"{name!r}, which is measured by {', '.join(task.aggregation())}; choose multiple choice"
            raise InputError(f"expected tasks whose measure is acc, got {got}")
    built = [loaded["groups"].get(name, loaded["tasks"].get(name)) for name in tasks]
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch)
    results: dict[str, Any] = simple_evaluate(harness, tasks=built, task_manager=manager, limit=limit)
    return results


def _with_members(name: str, groups: dict[str, list[str]]) -> Iterator[str]:
    yield name
    for member in groups.get(name, []):
        yield from _with_members(member, groups)


def task_folder() -> Path:
    """Where the shipped tasks are: in the wheel, or in the repository."""
    return next(path for folder in DATA_FOLDERS if (path := folder / "tasks").is_dir())


def _manager(names: tuple[str, ...]) -> Any:
    """lm-eval's list of tasks. Its own thousands are read only if one of them is meant: that takes seconds."""
    check_package("lm_eval", "evaluate")
    return _indexed(task_folder(), any(not name.startswith("comp_") for name in names))


@functools.cache
def _indexed(folder: Path, others: bool) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(folder), include_defaults=others)
