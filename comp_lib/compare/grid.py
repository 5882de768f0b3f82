"""A grid of runs, methods side by side: ratio x method x seed x calibration size, one row each.

The rows are in DIR/rows.csv, which is written anew beside itself and renamed after every run: a kill costs the run
under way and nothing else, and the same command goes on where it ended. A row is found again by its key, a hash of all
that decides the outcome: the tensors of the model, the texts in its tokens, sizes and settings. Each run has a
process of its own (`one_run`); one that fails leaves a row that says why, and is tried again at the next start.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import CancelledError, as_completed
from dataclasses import KW_ONLY, asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from ..calibration.shares import WRITTEN, shares_of
from ..calibration.texts import load_text
from ..calibration.windows import calibration_tokens, windows_of
from ..errors import InputError, refusing
from ..families import family_of
from ..models.load import load_model
from ..models.save import shareable
from ..planning import check_length, check_request
from ..progress import Progress, no_progress
from ..settings import METHODS, Settings, default_recovery
from ..system.atomic import write_atomically
from ..system.hashes import hash_of_code, hash_of_model, hash_of_tensor, hash_of_value
from ..system.machine import cores
from .cluster import executor, measured

ROWS = "rows.csv"
SHARED = ("model", "calibration", "length", "evaluation", "windows", "window")  # by all runs of a grid


@dataclass(frozen=True)
class Grid:
    """What is compared. `settings` holds what all runs share; its ratio, method, recovery and seed are replaced."""

    model: str
    ratios: tuple[float, ...] = (0.1, 0.2, 0.3, 0.5)
    methods: tuple[str, ...] = METHODS
    seeds: int = 3
    sequences: tuple[int, ...] = (32,)  # of calibration text
    _: KW_ONLY
    settings: Settings = Settings()
    calibration: str = "calibration"  # see `calibration.shares`
    length: int = 256  # tokens in each sequence of it
    evaluation: str = "evaluation"  # name or path of a text, or "kinds" for the mean over all kinds
    windows: int = 12
    window: int = 512  # tokens in each

    def runs(self) -> dict[str, dict[str, Any]]:
        """Key -> what `one_run.measure` is told: first all methods at all ratios, then the next size and seed.

        Loads the model, for its hash. Raises InputError for what can be refused before a run.
        """
        if not (self.ratios and self.methods and self.sequences and self.seeds > 0):
            raise InputError(
                "expected at least one ratio, method, seed and number of sequences, got none: name some"
            )
        model, tokenizer = load_model(self.model)
        biases = bool(family_of(model).bias_fields)
        check_length(model, max(self.length, self.window))
        windows = windows_of(self.evaluation, tokenizer, self.window, self.windows)
        parts = shares_of(self.calibration)
        texts = [load_text(part) for part in parts if part not in WRITTEN]
        for count in self.sequences if len(texts) == len(parts) else ():  # else a model has to write
            size: dict[str, Any] = {"sequences": count, "length": self.length}
            calibration_tokens(self.calibration, tokenizer, **size, evaluated=self.evaluation)
        contents = [hash_of_code(), hash_of_model(model), *map(hash_of_tensor, windows.values()), texts]
        shared = {name: getattr(self, name) for name in SHARED}
        runs = {}
        for seed, sequences, ratio, method in product(
            range(self.seeds), self.sequences, self.ratios, self.methods
        ):
            recovery = default_recovery(method, biases)
            settings = replace(self.settings, ratio=ratio, method=method, recovery=recovery, seed=seed)
            check_request(model, settings)
            one = shared | {"sequences": sequences, "settings": asdict(settings)}
            runs[hash_of_value([contents, _described(one) | {"model": None}])[:16]] = one
        return runs


def run(
    grid: Grid,
    folder: str | Path,
    progress: Progress = no_progress,
    *,
    workers: int = 1,
    scheduler: str | None = None,
) -> pd.DataFrame:
    """Measure the runs of `grid` that DIR/rows.csv lacks, and return its rows, one a run, in the order of the grid.

    workers: runs at a time on this machine, which share its cores; scheduler: of a Dask cluster in its place.
    Rows of other grids in the same folder stay. Only this process writes, a row as soon as its run is done: another one
    at the same time would lose it again.
    Raises InputError, before any work, for what `Grid.runs` refuses, and for a folder with anything but a comparison.
    """
    path = Path(folder).expanduser() / ROWS
    rows = {row["key"]: row for row in read_rows(path).to_dict("records")}
    if not path.exists() and path.parent.exists() and any(path.parent.iterdir()):
        got = f"{folder} with other files in it: name another"
        raise InputError(f"expected a new folder, or that of an earlier comparison, got {got}")
    runs = grid.runs()
    path.parent.mkdir(parents=True, exist_ok=True)
    missing = [key for key in runs if key not in rows or rows[key]["status"] != "ok"]
    progress("runs", len(runs) - len(missing), len(runs))
    shared = workers > 1 and scheduler is None and "OMP_NUM_THREADS" not in os.environ
    threads = max(1, cores() // workers) if shared else None
    with executor(workers, scheduler) as pool:
        futures = {pool.submit(measured, runs[key], os.getcwd(), threads): key for key in missing}
        try:
            for done, future in enumerate(as_completed(futures), len(runs) - len(missing) + 1):
                key = futures[future]
                failure = (
                    CancelledError("the cluster went away") if future.cancelled() else future.exception()
                )
                failed = {"status": "failed", "message": f"{type(failure).__name__}: {failure}"}
                rows[key] = {"key": key} | _described(runs[key]) | (failed if failure else future.result())
                write_atomically(path, pd.DataFrame(list(rows.values())).to_csv(index=False).encode())
                progress("runs", done, len(runs))
        finally:  # after Ctrl-C, which reaches the processes too, no other run begins
            for future in futures:
                future.cancel()
    return pd.DataFrame([rows[key] for key in runs])


def read_rows(path: str | Path) -> pd.DataFrame:
    """The rows of a CSV that `run` wrote; none if there is no such file. Raises InputError for another file."""
    if not Path(path).exists():
        return pd.DataFrame()
    with refusing("rows of a comparison", str(path), "mend or delete it, or name another folder"):
        # an engine whose floats are those that were written
        return pd.read_csv(path, dtype={"key": str}, engine="python").dropna(subset=["key", "status"])


def _described(request: dict[str, Any]) -> dict[str, Any]:
    """What a run is told, as its row says it: without the folders of this machine."""
    settings = request["settings"]
    shown = {name: shareable(value) if isinstance(value, str) else value for name, value in request.items()}
    varied = {name: settings[name] for name in ("method", "recovery", "ratio", "seed")}
    return shown | varied | {"settings": json.dumps(settings)}
