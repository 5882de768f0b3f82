"""Where the runs of a grid are measured: in processes of this machine, or on the workers of a Dask cluster.

To the grid both are executors, as Python's concurrent.futures has them. Each run has a process of its own
(`one_run`), on a cluster too. Whoever can reach a Dask scheduler can run code on its workers: see
docs/clusters.md.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from ...utils.errors import refusing

# The run is not started by `python -m`, which would import a `random.py` of the working folder in place of
# Python's module.
WITHOUT_WORKING_FOLDER = "import sys, runpy; sys.path = [folder for folder in sys.path if folder]; "
RUN_CODE = WITHOUT_WORKING_FOLDER + "runpy.run_module('comp_lib.reports.comparison.one_run', {}, '__main__')"
COMMAND = (sys.executable, "-c", RUN_CODE)
CONNECTION_TIMEOUT = 10.0  # seconds to find a scheduler

Outcome = dict[str, Any]
"""`status` ("ok" or "failed"), and what was measured, or a `message` that says why the run failed."""


@contextmanager
def executor(workers: int = 1, scheduler: str | None = None) -> Iterator[Executor]:
    """An executor for `workers` runs at a time on this machine, or for the runs on a Dask cluster.

    scheduler: address of the cluster, such as tcp://host:8786; None: this machine.

    Raises InputError when no scheduler answers, or dask.distributed is not there.
    """
    if scheduler is None:
        with ThreadPoolExecutor(workers) as pool:
            yield pool
        return
    hint = "see docs/clusters.md, and pip install 'comp-lib[distributed]'"
    with refusing("a Dask scheduler", scheduler, hint):
        from distributed import Client

        client = Client(scheduler, timeout=CONNECTION_TIMEOUT)
        client.wait_for_workers(1, timeout=CONNECTION_TIMEOUT)
    with client:
        yield client.get_executor(pure=False)


def measure_in_process(request: dict[str, Any], folder: str, threads: int | None = None) -> Outcome:
    """Run `one_run` in a process of its own: what it measured, or why it failed.

    Args:
        request: the arguments of `one_run.measure`, as JSON.
        folder: working folder of the process, if it exists here, so that relative paths hold.
        threads: threads that compute; None: the process decides.
    """
    environment = dict(os.environ)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    process = subprocess.run(
        COMMAND,
        input=json.dumps(request),
        env=environment,
        cwd=folder if os.path.isdir(folder) else None,
        capture_output=True,
        encoding="utf-8",
    )
    if process.returncode != 0:
        return {"status": "failed", "message": _reason_of_death(process)}
    measured: Outcome = json.loads(process.stdout.splitlines()[-1])
    return {"status": "ok"} | measured


def _reason_of_death(process: subprocess.CompletedProcess[str]) -> str:
    """The signal that killed the process, else the last line that it wrote, else its exit code."""
    if process.returncode < 0:
        return f"the process was killed by {signal.Signals(-process.returncode).name}"
    lines = process.stderr.strip().splitlines()
    return lines[-1] if lines else f"the process ended with code {process.returncode}"
