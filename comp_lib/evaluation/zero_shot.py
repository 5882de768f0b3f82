"""Accuracy of a model in tasks without an example: it chooses among given answers, through lm-eval.

Each answer is a continuation of the same context; the model chooses the one to which it gives the highest
log-probability, in sum (acc), or divided by its length in characters (acc_norm):

    acc      = share of items in which  argmax_i log p(answer_i | context)                   is the right one,
    acc_norm = share of items in which  argmax_i log p(answer_i | context) / len(answer_i)   is the right one.

`offline` are the tasks that ship in data/tasks: 20 phenomena of English grammar (pairs: chance is 0.5), last
words of sentences from evaluation.txt, everyday physical sense, and school science (one of four: chance is
0.25). `literature` are the seven that papers on pruning report; lm-eval fetches them from the Hub. Any other
name that lm-eval knows works as well. A file of tasks does not, since it can name code to run.

Imports lm-eval when called: it takes seconds, and is an extra (`comp-lib[evaluate]`).
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..calibration.texts import DATA_FOLDERS, find_shipped
from ..decoder.types import Model
from ..utils.arguments import suggestion
from ..utils.errors import InputError, refusing

SETS = {
    "offline": ("comp_grammar", "comp_cloze", "comp_sense", "comp_science"),
    "literature": ("boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa"),
}


def load_tasks(text: str) -> list[Any]:
    """Load lm-eval's tasks and groups of tasks that `text` names, with commas between the names.

    A name is "offline", "literature", or one that lm-eval knows.

    Raises InputError for what lm-eval cannot load: a name that it does not know, such as a path, a task that
    is there twice or cannot be fetched. A task that lm-eval calls unsafe is refused, too.
    """
    from lm_eval.tasks import TaskManager

    # lm-eval gives advice about ways of calling it that are not ours
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    names: list[str] = []
    for word in text.split(","):
        names += SETS.get(word.strip(), (word.strip(),))
    names = list(dict.fromkeys(names))  # each name once
    shipped = find_shipped("tasks", DATA_FOLDERS)
    # it takes seconds to read the thousands of tasks that lm-eval brings
    with_defaults = not all(name.startswith("comp_") for name in names)
    manager = TaskManager(include_path=str(shipped), include_defaults=with_defaults)
    advice = f"choose {', '.join(SETS)} or what `lm-eval ls tasks` names, each once, and go online once"
    for name in names:
        if name not in manager.all_tasks:  # lm-eval would take it for a path
            hint = suggestion(name, (*SETS, *manager.all_tasks), otherwise=advice)
            raise InputError(expected="names of tasks that lm-eval knows", got=repr(name), hint=hint)
    with refusing("tasks that lm-eval can load", text, advice), _in_an_empty_folder():
        loaded = manager.load(names)
    members = {name for group in loaded["group_map"].values() for name in group}
    for name, task in loaded["tasks"].items():
        if getattr(task, "UNSAFE_CODE", False):  # they run what the model writes
            raise InputError(
                expected="tasks that run no code", got=f"{name}, which lm-eval calls unsafe", hint=advice
            )
    loaded_by_name = loaded["groups"] | loaded["tasks"]
    return [task for name, task in loaded_by_name.items() if name not in members]


def zero_shot(
    model: Model, tokenizer: Any, tasks: list[Any], batch: int = 16, limit: int | None = None
) -> Any:
    """Everything that lm-eval reports of `model` in these tasks, which `load_tasks` gives.

    Returns a dictionary. Its `results` are, for each task and group, shares from 0 to 1, such as `acc,none`
    and `acc_stderr,none`. Its `samples` are the answers to every item. Its `versions` are the versions of the
    tasks; scores of two versions cannot be compared.

    limit: how many items of each task are asked, from the first on; None: all.
    """
    from lm_eval import evaluate
    from lm_eval.defaults import DEFAULT_OTHER_SEED
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    loaded = TaskManager(include_defaults=False).load(tasks)
    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config("num_fewshot", 0)
        task.set_fewshot_seed(DEFAULT_OTHER_SEED)
    # Not `simple_evaluate`: it also describes the machine, for which it starts pip and git where one stands.
    with _in_an_empty_folder():
        return evaluate(HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch), loaded, limit=limit)


@contextmanager
def _in_an_empty_folder() -> Iterator[None]:
    """Let the block run in an empty folder.

    The libraries `evaluate` and `datasets` take a metric or data of the current folder for what they are
    asked for, and a metric is code.
    """
    current = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="comp-lib-") as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(current)
