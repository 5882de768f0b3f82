"""What tasks say of a pruned model beside its dense parent: accuracy in those that ship."""

from __future__ import annotations

import math
from dataclasses import asdict
from importlib import metadata
from typing import Any

import pandas as pd

from ..evaluation.zero_shot import OFFLINE, Score, task_folder, zero_shot
from ..families.protocol import Model
from ..models.reading import quiet
from ..prune import prune
from ..settings import Settings
from ..system import hashes
from ..system.cache import remembered
from .columns import ALL, tidy
from .sample import Sample
from .store import entry, fingerprint

PHENOMENA = 20  # members of the task of grammar, of each of which items are asked
WIDE = 1.96  # standard errors to either side


def tasks(
    model: Model, tokenizer: Any, sample: Sample, settings: Settings, which: str, items: int = 30
) -> pd.DataFrame:
    """Accuracy of the model, and of what `settings` make of it on `sample`; columns: COLUMNS["tasks"].

    items: of each task, and about as many twice over of grammar. Raises InputError as `prune` and `zero_shot`.
    """
    key = [fingerprint(model), hashes.of_tensor(sample.ids), asdict(settings), items]
    key += [hashes.of_file(path) for path in sorted(task_folder().glob("*.jsonl"))]
    key += [metadata.version("lm_eval"), hashes.of_text(tokenizer.backend_tokenizer.to_str())]

    def measure() -> list[dict[str, Any]]:
        small = prune(model, sample.ids, settings).model
        return [{"which": name} | row for name in ("dense", "") for row in _scores(small if not name else model)]

    def _scores(one: Model) -> list[dict[str, Any]]:
        limits = {task: max(1, 2 * items // PHENOMENA) if "grammar" in task else items for task in OFFLINE}
        with quiet():  # a text beyond the context is cut by lm-eval, and says so
            return [_row(zero_shot(one, tokenizer, (task,), limit=limit)[0]) for task, limit in limits.items()]

    measured = remembered(entry("task_frame", "tasks", *key), measure)
    shared = {"kind": ALL, "tokens": sample.tokens}
    rows = [shared | row | {"which": row["which"] or which} for row in measured]
    return tidy("tasks", rows, fingerprint(model), sample.seed)


def _row(score: Score) -> dict[str, Any]:
    wide = WIDE * (math.nan if score.acc_stderr is None else score.acc_stderr)
    low, high = max(0.0, score.acc - wide), min(1.0, score.acc + wide)
    return {"task": score.task, "accuracy": score.acc, "low": low, "high": high, "items": score.items}
