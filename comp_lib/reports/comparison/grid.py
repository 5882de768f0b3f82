"""A grid of runs, methods side by side: ratio x method x seed x calibration size, one row each.

The rows are in DIR/rows.csv, which is written anew beside itself and renamed after every run: a kill costs
the run under way and nothing else, and the same command goes on where it ended. A row is found by its key, a
hash of all that decides the outcome: the tensors of the model, the texts in its tokens, sizes and settings.
Each run has a process of its own (`one_run`). A run that fails leaves a row that says why, and is tried again
at the next start.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import CancelledError, Future, as_completed
from dataclasses import KW_ONLY, asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import PreTrainedTokenizerBase

from ...calibration.defaults import COMPARED_SEQUENCES, USUAL_LENGTH, USUAL_WINDOW
from ...calibration.mixtures import shares_of, texts_of
from ...calibration.windows import calibration_tokens
from ...checkpoints.load import load_model
from ...decoder.tokens import check_length
from ...evaluation.windows import windows_of
from ...pruning.checks import check_settings_for
from ...pruning.method_version import METHOD_VERSION
from ...pruning.methods import METHODS
from ...pruning.planning import complete_settings
from ...pruning.settings import Settings, SettingsChanges
from ...utils.arguments import check_whole_number
from ...utils.errors import InputError, refusing
from ...utils.files import hide_folders, write_atomically
from ...utils.hashes import hash_of_model, hash_of_tensor, hash_of_value
from ...utils.machine import cores
from ...utils.progress import Progress, no_progress
from .cluster import Outcome, executor, measure_in_process

ROWS_FILE = "rows.csv"
# fields of a grid that all its runs share
SHARED_FIELDS = ("model", "calibration", "length", "judged_on", "window_count", "window_length")


@dataclass(frozen=True)
class Grid:
    """Which runs are compared: each ratio with each method, seed and number of calibration sequences."""

    model: str
    """Name of the model, as for `load_model`."""
    ratios: tuple[float, ...] = (0.1, 0.2, 0.3, 0.5)
    """Parts of the decoder's parameters to remove."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Names of methods; each has its default recovery."""
    seeds: int = 3
    """How many seeds, from 0 on."""
    sequences: tuple[int, ...] = (COMPARED_SEQUENCES,)
    """Numbers of calibration sequences."""
    _: KW_ONLY
    changes: SettingsChanges = field(default_factory=SettingsChanges)
    """Settings of all runs that are not those of their method's preset, such as {"multiple": 32}."""
    calibration: str = "calibration"
    """Source of the calibration text, see `calibration.mixtures`."""
    length: int = USUAL_LENGTH
    """Tokens in a calibration sequence."""
    judged_on: str = "evaluation"
    """Name or path of the text that judges, or "kinds" for the mean over all kinds."""
    window_count: int = 12
    """How many windows of the text that judges, or of each kind."""
    window_length: int = USUAL_WINDOW
    """Tokens of each of these windows."""


def runs_of(grid: Grid) -> dict[str, dict[str, Any]]:
    """The key of each run of a grid -> the arguments of `one_run.measure`.

    First come all methods at all ratios, then the same with the next number of sequences, then with the
    next seed. The model is loaded for its hash.

    Raises InputError for what can be refused before a run.
    """
    if not (grid.ratios and grid.methods and grid.sequences and grid.seeds > 0):
        raise InputError(
            expected="at least one ratio, method, seed and number of sequences",
            got="none",
            hint="leave one out to have the usual ones",
        )
    model, tokenizer = load_model(grid.model)
    check_length(max(grid.length, grid.window_length), model.config.max_position_embeddings)
    windows_by_text = windows_of(grid.judged_on, tokenizer, grid.window_length, grid.window_count)
    texts = _calibration_texts(grid, tokenizer)
    contents = [
        METHOD_VERSION,
        hash_of_model(model),
        *map(hash_of_tensor, windows_by_text.values()),
        texts,
    ]
    shared = {name: getattr(grid, name) for name in SHARED_FIELDS}
    runs = {}
    for seed, sequences, ratio, method in product(
        range(grid.seeds), grid.sequences, grid.ratios, grid.methods
    ):
        own: SettingsChanges = {"ratio": ratio, "method": method, "seed": seed}
        settings = complete_settings(model, Settings(**(grid.changes | own)))
        check_settings_for(model, settings)
        request = shared | {"sequences": sequences, "settings": asdict(settings)}
        key = hash_of_value([contents, _columns_of(request) | {"model": None}])[:16]
        runs[key] = request
    return runs


def _calibration_texts(grid: Grid, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The texts of the calibration source of a grid that no model writes.

    Raises InputError for too little text, and for numbers of sequences or tokens that are none.
    """
    for sequences in grid.sequences:
        check_whole_number("sequences", sequences, 1)
    check_whole_number("length", grid.length, 2)
    texts = list(texts_of(grid.calibration).values())
    nothing_to_write = len(texts) == len(shares_of(grid.calibration))
    if nothing_to_write:  # else a model has to write, which takes too long for a check
        for sequences in grid.sequences:
            calibration_tokens(
                grid.calibration,
                tokenizer,
                sequences=sequences,
                length=grid.length,
                judged_on=grid.judged_on,
            )
    return texts


def run(
    grid: Grid,
    folder: str | Path,
    progress: Progress = no_progress,
    *,
    workers: int = 1,
    scheduler: str | None = None,
) -> pd.DataFrame:
    """Measure the runs of `grid` that `folder`/rows.csv lacks: a row for each run, in the order of the grid.

    Rows of other grids in the same folder stay. Only this process writes the file, a row as soon as its run
    is done. Two processes at the same time would lose rows of each other.

    Args:
        workers: runs at a time on this machine, which share its cores.
        scheduler: address of a Dask cluster that measures the runs in place of this machine.

    Raises InputError, before any work, for what `runs_of` refuses, and for a folder with anything but a
    comparison.
    """
    path = Path(folder).expanduser() / ROWS_FILE
    rows = {row["key"]: row for row in read_rows(path).to_dict("records")}
    if not path.exists() and path.parent.exists() and any(path.parent.iterdir()):
        raise InputError(
            expected="a new folder, or that of an earlier comparison",
            got=f"{folder} with other files in it",
            hint="choose another folder",
        )
    runs = runs_of(grid)
    path.parent.mkdir(parents=True, exist_ok=True)
    missing = [key for key in runs if key not in rows or rows[key]["status"] != "ok"]
    finished = len(runs) - len(missing)
    progress("runs", finished, len(runs))
    with executor(workers, scheduler) as pool:
        threads = _threads_of_a_run(workers, scheduler)
        futures = {pool.submit(measure_in_process, runs[key], os.getcwd(), threads): key for key in missing}
        try:
            for future in as_completed(futures):
                key = futures[future]
                rows[key] = {"key": key} | _columns_of(runs[key]) | _outcome_of(future)
                write_atomically(path, pd.DataFrame(list(rows.values())).to_csv(index=False).encode())
                finished += 1
                progress("runs", finished, len(runs))
        finally:  # no further run begins after Ctrl-C, which has reached the processes of the others
            for future in futures:
                future.cancel()
    return pd.DataFrame([rows[key] for key in runs])


def _threads_of_a_run(workers: int, scheduler: str | None) -> int | None:
    """Threads for each of several runs on this machine; None: each run decides."""
    if workers == 1 or scheduler is not None or "OMP_NUM_THREADS" in os.environ:
        return None
    return max(1, cores() // workers)


def _outcome_of(future: Future[Outcome]) -> Outcome:
    """The measurements of a run that has ended, or why it failed."""
    failure: BaseException | None
    if future.cancelled():  # only a cluster that goes away cancels a run
        failure = CancelledError("the cluster went away")
    else:
        failure = future.exception()
    if failure is None:
        return future.result()
    return {"status": "failed", "message": f"{type(failure).__name__}: {failure}"}


def read_rows(path: str | Path) -> pd.DataFrame:
    """The rows of a CSV that `run` wrote; no row where there is no such file.

    Raises InputError for any other file.
    """
    if not Path(path).exists():
        return pd.DataFrame()
    with refusing("rows of a comparison", str(path), "correct or delete it, or name another folder"):
        # this engine reads exactly the floats that were written
        return pd.read_csv(path, dtype={"key": str}, engine="python").dropna(subset=["key", "status"])


def _columns_of(request: dict[str, Any]) -> dict[str, Any]:
    """The columns of a row that say what was asked for, without the folders of this machine."""
    settings = request["settings"]
    return {
        "model": hide_folders(request["model"]),
        "calibration": hide_folders(request["calibration"]),
        "length": request["length"],
        "judged_on": hide_folders(request["judged_on"]),
        "window_count": request["window_count"],
        "window_length": request["window_length"],
        "sequences": request["sequences"],
        "settings": json.dumps(settings),
        "method": settings["method"],
        "recovery": settings["recovery"],
        "ratio": settings["ratio"],
        "seed": settings["seed"],
    }
