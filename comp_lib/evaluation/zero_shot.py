"""What a model can do without an example: choosing among given answers, through lm-eval.

Each answer is a continuation of the same context; the model chooses the one to which it gives the highest
log-probability, in sum (acc), or divided by its length in characters (acc_norm):

    acc      = share of items in which  argmax_i  log p(answer_i | context)                     is the right one,
    acc_norm = share of items in which  argmax_i  log p(answer_i | context) / len(answer_i)     is the right one.

A small model is near chance in hard tasks, and one item more or less is noise. Steadier are, item by item,

    margin      = log p(right | context) - max log p(wrong | context)         above 0 where acc counts it as right,
    choice loss = - log of the right answer's share of the probability of all answers,

both in nats, with bootstrap intervals over the items; two models' are compared best item by item (`Score.margins`).

`offline` are the tasks that ship in data/tasks: 20 phenomena of English grammar (pairs: chance is 0.5), last words of
sentences from evaluation.txt, everyday physical sense, and school science (one of four: chance is 0.25). `literature`
are the seven that papers on pruning report; lm-eval fetches them from the Hub. Any other name that lm-eval knows works
as well.

Imports lm-eval when called: it takes seconds, and is an extra (`comp-lib[evaluate]`).
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ..calibration.text import DATA_FOLDERS
from ..errors import InputError, suggestion
from ..families.protocol import Model
from .confidence import bootstrap_interval

LITERATURE = ("boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")
OFFLINE = ("comp_grammar", "comp_cloze", "comp_sense", "comp_science")
SETS = {"offline": OFFLINE, "literature": LITERATURE}


@dataclass(frozen=True)
class Score:
    """Accuracy in one task, or over all the tasks of a group."""

    task: str
    acc: float  # share of items, 0 to 1
    acc_stderr: float | None
    acc_norm: float | None  # None where the task does not define it
    acc_norm_stderr: float | None
    items: int
    version: str  # of the task's definition: numbers of two versions cannot be compared
    group: bool = False
    # of each item, where the answers are scored one by one; what no number can say is left out
    margins: tuple[float, ...] = ()  # nats
    choice_losses: tuple[float, ...] = ()  # nats

    @property
    def margin(self) -> float | None:
        """Mean of `margins`."""
        return fmean(self.margins) if self.margins else None

    @property
    def choice_loss(self) -> float | None:
        """Mean of `choice_losses`."""
        return fmean(self.choice_losses) if self.choice_losses else None

    def intervals(self, level: float = 0.95, seed: int = 0) -> dict[str, tuple[float, float]]:
        """Bootstrap intervals over the items of acc, margin and choice_loss."""
        right = [float(margin > 0.0) for margin in self.margins]
        values = {"acc": right, "margin": self.margins, "choice_loss": self.choice_losses}
        return {name: bootstrap_interval(each, level, seed) for name, each in values.items() if each}


def task_names(text: str) -> tuple[str, ...]:
    """The tasks that `text` asks for: offline, literature, or names with commas between.

    Raises InputError: none, one that lm-eval does not know or only as a tag, or no lm-eval.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    names = tuple(dict.fromkeys(name for word in words for name in SETS.get(word, (word,))))
    if not names:
        raise InputError(f"expected tasks, got {text!r}; choose {', '.join(SETS)}, or names with commas between")
    manager = _manager(names)
    for name in names:
        if name not in manager.all_tasks:
            raise InputError(f"expected a task that lm-eval knows, got {name!r}; {_hint(name, manager.all_tasks)}")
        if name in manager.all_tags:
            raise InputError(f"expected a task or a group, got {name!r}, which is a tag: name its tasks one by one")
    return names


def _hint(name: str, known: list[str]) -> str:
    for names in ([*SETS, *OFFLINE, *LITERATURE], known):  # lm-eval's are thousands, too many to list
        if (hint := suggestion(name, names)).startswith("did you mean"):
            return hint
    return f"choose {', '.join(SETS)}, or see lm-eval ls tasks"


def zero_shot(
    model: Model, tokenizer: Any, tasks: tuple[str, ...], batch: int = 16, limit: int | None = None
) -> list[Score]:
    """Scores of `model` in these tasks, a group before its members; `limit`: only the first items of each.

    Raises InputError, before a model answers: a task whose items cannot be fetched, that a group has as well, or whose
    measure is not acc; or no lm-eval.
    """
    manager = _manager(tasks)
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    logger = logging.getLogger("lm_eval")
    with ExitStack() as end:
        end.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.ERROR)  # it gives advice about ways of calling it that are not ours
        harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch)
        try:
            built = _built(manager, tasks)
            results = simple_evaluate(harness, tasks=built, task_manager=manager, limit=limit, log_samples=True)
        except OSError as error:
            got = f"{type(error).__name__}: {error}; go online once, or choose offline"
            raise InputError(f"expected to fetch the tasks {', '.join(tasks)} from the Hub, got {got}") from error
        except ValueError as error:
            if "Duplicate task" not in str(error):
                raise
            got = f"{str(error)[:200]}: leave out the group or its member"
            raise InputError(f"expected each task once, got {got}") from error
    return [_score(name, results) for task in tasks for name in _with_members(task, results["group_subtasks"])]


def _built(manager: Any, names: tuple[str, ...]) -> list[Any]:
    """lm-eval's tasks and groups of these names. Raises InputError for one whose measure is not acc."""
    loaded = manager.load(list(names))
    measures = {name: set(task.aggregation()) for name, task in loaded["tasks"].items()}
    for name, group in loaded["groups"].items():
        measures[name] = {each.metric for each in group.aggregate_metric_list or ()}
    for name, found in measures.items():
        if "acc" not in found:
            got = f"{name!r}, which is measured by {', '.join(sorted(found)) or 'nothing'}; choose multiple choice"
            raise InputError(f"expected tasks whose measure is acc, got {got}")
    return [loaded["groups"].get(name, loaded["tasks"].get(name)) for name in names]


def _with_members(name: str, groups: dict[str, list[str]]) -> Iterator[str]:
    yield name
    for member in groups.get(name, []):
        yield from _with_members(member, groups)


def _score(name: str, results: dict[str, Any]) -> Score:
    values = {key.removesuffix(",none"): value for key, value in results["results"][name].items()}
    numbers = {key: float(value) for key, value in values.items() if isinstance(value, int | float)}  # "N/A" is none
    leaves = [task for task in _with_members(name, results["group_subtasks"]) if task in results["n-samples"]]
    items = sum(results["n-samples"][leaf]["effective"] for leaf in leaves)
    accuracy = (numbers["acc"], numbers.get("acc_stderr"), numbers.get("acc_norm"), numbers.get("acc_norm_stderr"))
    samples = [sample for leaf in leaves for sample in results["samples"][leaf] if isinstance(sample["target"], int)]
    answers = [([value for value, _ in sample["filtered_resps"]], sample["target"]) for sample in samples]
    found = [_of_item(*each) for each in answers if len(each[0]) > 1 and all(map(math.isfinite, each[0]))]
    margins, losses = zip(*found, strict=True) if found else ((), ())
    version = str(results["versions"].get(name))
    return Score(name, *accuracy, items, version, leaves != [name], margins, losses)


def _of_item(values: list[float], right: int) -> tuple[float, float]:
    """Margin and choice loss, nats, of an item whose answers have these log-probabilities."""
    best, others = values[right], [value for place, value in enumerate(values) if place != right]
    top = max(values)
    return best - max(others), top + math.log(sum(math.exp(value - top) for value in values)) - best


def task_folder() -> Path:
    """Where the shipped tasks are: in the wheel, or in the repository."""
    return next(path for folder in DATA_FOLDERS if (path := folder / "tasks").is_dir())


def _manager(names: tuple[str, ...]) -> Any:
    """lm-eval's list of tasks. Its own thousands are read only if one of them is meant: that takes seconds."""
    own = _indexed(task_folder(), False)
    return own if set(names) <= set(own.all_tasks) else _indexed(task_folder(), True)


@functools.cache
def _indexed(folder: Path, defaults: bool) -> Any:
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        todo = "pip install 'comp-lib[evaluate]'"
        raise InputError(f"expected the library lm-eval for zero-shot tasks, got none; {todo}") from error
    return TaskManager(include_path=str(folder), include_defaults=defaults)
