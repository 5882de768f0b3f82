"""A grid of runs, methods side by side: ratio x method x seed x calibration size, one row each.

The rows are in DIR/rows.csv, which is written anew beside itself and renamed after every run: a kill costs the run
under way and nothing else, and the same command goes on where it ended. A row is found again by its key, a hash of all
that decides the outcome: the tensors of the model, the texts in its tokens, sizes and settings. Each run has a
process of its own (`one_run`); one that fails leaves a row that says why, and is tried again at the next start.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ..calibration.text import encode, load_text, opening
from ..calibration.tokens import WRITTEN, calibration_tokens, needs_model, sources
from ..errors import InputError
from ..evaluation.by_kind import windows_of
from ..families import family_of
from ..models.load import load_model, open_model
from ..models.save import shareable
from ..planning import check_request
from ..report import Progress, no_progress
from ..settings import METHODS, default_recovery
from ..system import hashes
from ..system.files import write_atomically
from .cluster import Engine, Outcome, one_by_one
from .one_run import Common, Run

ROWS = "rows.csv"
TEXT = "key status message model method recovery calibration evaluation dtype settings versions".split()
MEASURED = ("removed", "dense_loss", "loss", "increase", "kl", "top1_agreement")
TIMED = ("seconds", "peak_megabytes", "decode_ratio")  # vary from run to run
TYPES = dict.fromkeys(TEXT, "string") | dict.fromkeys("seed sequences length windows window".split(), "int64")
TYPES |= dict.fromkeys(("ratio", *MEASURED, "increase_low", "increase_high", *TIMED), "float64")
TYPES |= dict.fromkeys(("parameters", "threads"), "Int64")
COLUMNS = tuple(TYPES)


@dataclass(frozen=True)
class Grid(Common):
    """What is compared. `settings` holds what all runs share; its ratio, method, recovery and seed are replaced."""

    ratios: tuple[float, ...] = (0.1, 0.2, 0.3, 0.5)
    methods: tuple[str, ...] = METHODS
    seeds: int = 3
    sequences: tuple[int, ...] = (32,)
    recovery: str | None = None  # None: the default of each method

    def runs(self) -> Iterator[Run]:
        """In an order that gives a whole picture early: all methods at all ratios, then the next size and seed."""
        biases = bool(family_of(open_model(self.model)[0]).bias_fields)
        common: dict[str, Any] = {name: getattr(self, name) for name in Common.__dataclass_fields__}
        grid = product(range(self.seeds), self.sequences, self.ratios, self.methods)
        for seed, sequences, ratio, method in dict.fromkeys(grid):
            recovery = self.recovery or default_recovery(method, biases)
            settings = replace(self.settings, ratio=ratio, method=method, recovery=recovery, seed=seed)
            yield Run(sequences=sequences, **common | {"settings": settings})

    def keyed(self) -> dict[str, Run]:
        """Key -> run, after every check that can be made before a run: this loads the model. Raises InputError."""
        runs = list(self.runs())
        if not runs:
            raise InputError("expected at least one ratio, method, seed and number of sequences, got none: name some")
        model, tokenizer = load_model(self.model, self.dtype)
        context = model.config.max_position_embeddings
        if max(self.length, self.window) > context:
            got = f"{self.length} and {self.window}: ask for shorter ones"
            raise InputError(f"expected sequences and windows of at most {context} tokens, the model's, got {got}")
        for one in runs:
            check_request(model, one.settings)
        windows = windows_of(self.evaluation, tokenizer, self.window, self.windows)
        for count in () if needs_model(self.calibration) else self.sequences:  # what the model writes is long enough
            size: dict[str, Any] = {"sequences": count, "length": self.length}
            calibration_tokens(self.calibration, tokenizer, **size, evaluated=self.evaluation)
        texts = [load_text(part) for part in sources(self.calibration) if part not in WRITTEN]
        calibration = torch.cat([opening(tokenizer), *(encode(tokenizer, text) for text in texts)])
        contents = [hashes.of_model(model), *map(hashes.of_tensor, (calibration, *windows.values()))]
        return {hashes.of_value([contents, _asked(one) | {"model": None}])[:16]: one for one in runs}


def run(grid: Grid, folder: str | Path, progress: Progress = no_progress, engine: Engine = one_by_one) -> pd.DataFrame:
    """Measure the runs of `grid` that DIR/rows.csv lacks, and return its rows, one a run, in the order of the grid.

    Rows of other grids in the same folder stay. Only this process writes, a row as soon as its run is done.
    Raises InputError before any work, and when a cluster goes away; the rows that are done stay.
    """
    path = Path(folder).expanduser() / ROWS
    rows = {row["key"]: row for row in read_rows(path).to_dict("records")}
    runs = grid.keyed()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"expected a folder to write rows to, got {error}: name another") from error
    missing = [key for key in runs if key not in rows or rows[key]["status"] != "ok"]
    progress("runs", len(runs) - len(missing), len(runs))
    requests = {key: asdict(runs[key]) for key in missing}
    with contextlib.closing(engine(requests)) as outcomes:  # whatever stops us ends the runs under way
        for left, (key, outcome) in zip(reversed(range(len(missing))), outcomes, strict=True):
            rows[key] = _row(key, runs[key], outcome)
            write_atomically(path, _table(rows.values()).to_csv(index=False).encode())
            progress("runs", len(runs) - left, len(runs))
    return _table(rows[key] for key in runs)


def read_rows(path: str | Path) -> pd.DataFrame:
    """The rows of a CSV that `run` wrote; none if there is no such file. Raises InputError for another file."""
    if not Path(path).exists():
        return _table([])
    try:
        # an engine whose floats are those that were written
        return pd.read_csv(path, dtype=TYPES, usecols=list(COLUMNS), engine="python")[list(COLUMNS)]
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        advice = "mend or delete it, or name another folder"
        raise InputError(f"expected rows of a comparison in {str(path)!r}, got {error}: {advice}") from error


def _table(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=list(COLUMNS)).astype(TYPES)


def _row(key: str, run: Run, outcome: Outcome) -> dict[str, Any]:
    """The row of one run: what it was, and what came, or why nothing came."""
    row = asdict(run.settings) | _asked(run)
    row |= {"key": key, "settings": json.dumps(asdict(run.settings))}
    if isinstance(outcome, dict) and not all(math.isfinite(outcome[name]) for name in MEASURED):
        outcome = f"expected finite numbers, got a loss of {outcome['loss']}: remove less"
    return row | ({"status": "failed", "message": outcome} if isinstance(outcome, str) else {"status": "ok"} | outcome)


def _asked(run: Run) -> dict[str, Any]:
    """The run without the folders of this machine."""
    return asdict(run) | {what: shareable(getattr(run, what)) for what in ("model", "calibration", "evaluation")}
