"""A grid of runs, peers side by side: ratio x method x seed x calibration size, one row each.

The rows are in DIR/rows.csv, which is written anew beside itself and renamed after every run: a kill costs the run
under way and nothing else, and the same command goes on where it ended. A row is found again by its key, a hash of all
that decides the outcome: the tensors of the model, the texts in its tokens, sizes and settings. Each run has a
process of its own (`one_run`); one that fails leaves a row that says why, and is tried again at the next start.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import BaseFileLock, FileLock

from ..calibration.text import TEXTS, load_text
from ..calibration.tokens import SELF, calibration_tokens, check_source, needs_model, renamed
from ..errors import InputError
from ..evaluation.by_kind import windows_of
from ..families import family_called
from ..models.load import load_model, open_model
from ..models.wheels import WHEELS
from ..prune import check_request
from ..report import Progress, no_progress
from ..settings import METHODS, default_recovery
from ..shape import Shape
from ..system import hashes
from ..system.atomic import write_atomically
from .cluster import Engine, RunOutcome, one_by_one
from .one_run import Common, Run, RunRequest, contents

ROWS = "rows.csv"
MOST_RUNS = 100_000  # of one grid: at a minute each, ten weeks
PLACES = ("model", "calibration", "evaluation")  # fields of a run that may name a path
VARIED = ("ratio", "method", "recovery", "seed")  # settings that the runs of one grid differ in
DETERMINED = tuple(
    "key grid status message model method recovery ratio seed sequences length calibration evaluation windows window "
    "removed parameters dense_loss loss increase increase_low increase_high kl top1_agreement kinds".split()
)
TIMED = ("seconds", "passes", "peak_megabytes", "decode_ms", "dense_decode_ms", "decode_ratio")  # vary from run to run
COLUMNS = (*DETERMINED, *TIMED, "threads", "dtype", "settings", "versions")
# of what can be missing, and of hashes, some of which look like numbers
TYPES = dict.fromkeys(("key", "grid", "message", "kinds", "versions"), "string")
TYPES |= dict.fromkeys(("parameters", "threads"), "Int64")


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
        grid = product(range(self.seeds), self.sequences, self.ratios, self.methods)
        common: dict[str, Any] = {name: getattr(self, name) for name in Common.__dataclass_fields__}
        for seed, sequences, ratio, method in dict.fromkeys(grid):
            recovery = self.recovery or default_recovery(method)
            if recovery == "bias" and self.recovery is None:
                recovery = default_recovery(method, self._biases)
            settings = replace(self.settings, ratio=ratio, method=method, recovery=recovery, seed=seed)
            yield Run(sequences=sequences, **common | {"settings": settings})

    @cached_property
    def _biases(self) -> bool:
        """Whether the model's family has room for biases. Raises InputError for a model that is not there."""
        return bool(family_called(open_model(self.model)[1].model_type).bias_fields)

    def check(self) -> None:
        """Raises InputError, by name, for all that can be told without the model's weights."""
        for name, values in (("ratio", self.ratios), ("method", self.methods), ("number of sequences", self.sequences)):
            if not values:
                raise InputError(f"expected at least one {name}, got an empty list: name some, separated by commas")
        if min(self.sequences) < 1 or self.length < 2:
            got = f"{min(self.sequences)} x {self.length}"
            raise InputError(f"expected at least 1 sequence of at least 2 tokens, got {got}: ask for more")
        if self.seeds < 1:
            raise InputError(f"expected at least 1 seed, got {self.seeds}: 3 show the spread")
        if self.windows < 2:
            raise InputError(f"expected at least 2 evaluation windows, got {self.windows}: an interval needs several")
        count = self.seeds * len(self.sequences) * len(self.ratios) * len(self.methods)
        if count > MOST_RUNS:
            raise InputError(f"expected at most {MOST_RUNS:,} runs, got {count:,}: ask for fewer seeds or ratios")
        for planned in self.runs():
            planned.settings.check()
        load_text(self.evaluation)
        check_source(self.calibration)

    def contents(self) -> dict[str, str]:
        """What model and texts hold, as hashes, after every check: this loads the model. Raises InputError."""
        self.check()
        model, tokenizer = load_model(self.model, self.dtype)
        shape, context = Shape.of(model), model.config.max_position_embeddings
        for planned in {(run.settings.ratio, run.settings.method): run for run in self.runs()}.values():
            check_request(shape, planned.settings)
        if max(self.length, self.window) > context:
            most = f"{context} tokens, which is what the model takes"
            got = f"{self.length} and {self.window}: ask for shorter ones"
            raise InputError(f"expected sequences and windows of at most {most}, got {got}")
        windows_of(self.evaluation, tokenizer, self.window, self.windows)
        if not needs_model(self.calibration):  # what the model writes is never too short
            size: dict[str, Any] = {"sequences": max(self.sequences), "length": self.length}
            calibration_tokens(self.calibration, tokenizer, **size, evaluated=self.evaluation)
        return contents(next(self.runs()), model, tokenizer)

    def keyed(self, contents: dict[str, str] | None = None) -> tuple[str, dict[str, Run]]:
        """The name of the grid, and key -> run, for these contents, None for those of now. Raises InputError.

        What one grid has in common, so that its rows may stand in one table, is all but VARIED and the sequences.
        """
        contents = self.contents() if contents is None else contents
        keyed = {_key(_identity(planned), contents): planned for planned in self.runs()}
        common = _identity(next(self.runs())) | {"sequences": None}
        common["settings"] = {name: value for name, value in common["settings"].items() if name not in VARIED}
        return _key(common, contents), keyed


def run(grid: Grid, folder: str | Path, progress: Progress = no_progress, engine: Engine = one_by_one) -> pd.DataFrame:
    """Measure the runs of `grid` that DIR/rows.csv lacks, and return its rows, one a run, in the order of the grid.

    Rows of other grids in the same folder stay. Only this process writes, a row as soon as its run is done.
    Raises InputError before any work, and when a cluster goes away for good; the rows that are done stay.
    """
    folder = Path(folder)
    path = folder / ROWS
    read_rows(path)  # refuses a file of another kind
    if folder.exists() and not folder.is_dir():
        raise InputError(f"expected a folder for the rows, got the file {str(folder)!r}: name another")
    contents = grid.contents()
    name, runs = grid.keyed(contents)
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"expected a folder to write rows to, got {error}: name another") from error
    rows = read_rows(path)
    missing = [key for key in runs if key not in set(rows.key[rows.status == "ok"])]
    # one lock for all rows: Python ignores a Ctrl-C that comes while it deletes one
    lock = _lock(path)
    requests = {key: asdict(RunRequest(_renamed(runs[key], _absolute), contents)) for key in missing}
    progress("cells", len(runs) - len(missing), len(runs))
    try:
        with contextlib.closing(engine(requests)) as outcomes:  # whatever stops us ends the runs under way
            for left, (key, outcome) in zip(reversed(range(len(missing))), outcomes, strict=True):
                _keep(lock, path, {"grid": name, "key": key} | _row(key, runs[key], outcome, folder))
                progress("cells", len(runs) - left, len(runs))
    finally:
        if new and not any(folder.iterdir()):  # no cluster there, perhaps
            folder.rmdir()
    return read_rows(path).set_index("key").loc[list(runs)].reset_index()


def read_rows(path: str | Path) -> pd.DataFrame:
    """The rows of a CSV that `run` wrote; none if there is no such file. Raises InputError for another file."""
    path = Path(path)
    if not path.exists():
        return pd.DataFrame(columns=list(COLUMNS))
    try:
        rows = pd.read_csv(path, engine="python", dtype=TYPES)  # whose floats are those that were written
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise InputError(f"expected rows of a comparison in {str(path)!r}, got {error}: name another folder") from error
    if "kinds" not in rows:  # an older version did not ask for them
        rows["kinds"] = pd.Series(pd.NA, rows.index, dtype="string")
    missing = ", ".join([name for name in COLUMNS if name not in rows][:3])
    if missing:
        wanted = f"the columns of a comparison in {str(path)!r}"
        raise InputError(f"expected {wanted}, got none called {missing}: name another folder")
    return rows


def _row(key: str, planned: Run, outcome: RunOutcome, folder: Path) -> dict[str, Any]:
    """The row of one run: what it was, and what came, or why nothing came."""
    settings = asdict(planned.settings)
    row = settings | _identity(planned) | {"settings": json.dumps(settings)}
    log = folder / f"failed-{key}.log"
    log.unlink(missing_ok=True)
    if isinstance(outcome, dict):
        return row | {"status": "ok"} | outcome
    message = f"InputError: {outcome}" if isinstance(outcome, InputError) else str(outcome)
    write_atomically(log, (message if isinstance(outcome, InputError) else outcome.output).encode())
    return row | {"status": "failed", "message": message}


def _lock(path: Path) -> BaseFileLock:
    return FileLock(path.with_name(f".{path.name}.lock"))


def _keep(lock: BaseFileLock, path: Path, row: dict[str, Any]) -> None:
    """The row into the file, in the place of an older one of its key. Other processes' rows are not lost."""
    with lock:
        rows = read_rows(path)
        rows = rows[rows.key != row["key"]]
        new = pd.DataFrame([row], columns=list(COLUMNS)).astype(TYPES)
        rows = pd.concat([rows, new], ignore_index=True) if len(rows) else new
        write_atomically(path, rows.to_csv(index=False).encode())
        if importlib.util.find_spec("pyarrow") is not None:
            write_atomically(path.with_suffix(".parquet"), read_rows(path).to_parquet(index=False))


def _identity(planned: Run) -> dict[str, Any]:
    """The run without the places of this machine."""
    identity = asdict(_renamed(planned, lambda part: Path(part).name))
    settings = identity["settings"]
    settings["target"] = settings.pop("aim")  # its name when the first rows were kept: their keys still hold
    if not settings["attentions"]:
        del settings["attentions"]  # which was not asked then
    return identity


def _absolute(part: str | Path) -> str:
    """The name of a model or text as it holds in any working directory."""
    return str(part if part in (*WHEELS, SELF, *TEXTS) or not os.path.exists(part) else Path(part).resolve())


def _renamed(planned: Run, name: Callable[[str | Path], str]) -> Run:
    """The run, with other names of its model and of each of its texts."""
    places: dict[str, Any] = {what: renamed(getattr(planned, what), name) for what in PLACES}
    return replace(planned, **places)


def _key(identity: dict[str, Any], contents: dict[str, str]) -> str:
    return hashes.of_value(identity | {"contents": contents})[:16]
