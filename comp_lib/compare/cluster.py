"""Where the runs of a grid are measured: in processes of this machine, or on the workers of a Dask cluster.

To the grid both are executors, as Python's concurrent.futures has them. Each run has a process of its own (`one_run`),
also on a cluster. Whoever can reach a Dask scheduler can run code on its workers: see docs/clusters.md.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from ..errors import refusing

# not -m, which would import a `random.py` of the working folder before Python's own
PLACES = "import sys, runpy; sys.path = [place for place in sys.path if place]; "
CODE = PLACES + "runpy.run_module('comp_lib.compare.one_run', {}, '__main__')"
COMMAND = (sys.executable, "-c", CODE)
CONNECT = 10.0  # seconds to find a scheduler

Outcome = dict[
    str, Any
]  # `status`, ok or failed, and what was measured, or a `message` that says why nothing was


@contextmanager
def executor(workers: int = 1, scheduler: str | None = None) -> Iterator[Executor]:
    """For `workers` runs at a time on this machine, or on the Dask cluster at `scheduler`, tcp://127.0.0.1:8786 say.

    Raises InputError when no scheduler answers, or dask.distributed is not there.
    """
    if scheduler is None:
        with ThreadPoolExecutor(workers) as pool:
            yield pool
        return
    with refusing(
        "a Dask scheduler", scheduler, "see docs/clusters.md, and pip install 'comp-lib[distributed]'"
    ):
        from distributed import Client

        client = Client(scheduler, timeout=CONNECT)
        client.wait_for_workers(1, timeout=CONNECT)
    with client:
        yield client.get_executor(pure=False)


def measured(request: dict[str, Any], folder: str, threads: int | None = None) -> Outcome:
    """What a process of its own measured, or the last line that it wrote before it died.

    request: what `one_run.measure` is told, as JSON. folder: that it works in, if it is there, so that relative paths
    hold. threads: that it computes with; None: as many as it likes.
    """
    environment = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    place = folder if os.path.isdir(folder) else None
    options: dict[str, Any] = {"env": environment, "cwd": place, "capture_output": True, "encoding": "utf-8"}
    process = subprocess.run(COMMAND, input=json.dumps(request), **options)
    if process.returncode == 0:
        found: Outcome = json.loads(process.stdout.splitlines()[-1])
        if math.isfinite(found["increase"]):
            return {"status": "ok"} | found
        return {
            "status": "failed",
            "message": f"expected finite numbers, got a loss of {found['loss']}: remove less",
        }
    message = (process.stderr.strip().splitlines() or [f"the process ended with code {process.returncode}"])[
        -1
    ]
    if process.returncode < 0:
        message = f"the process was killed by {signal.Signals(-process.returncode).name}"
    return {"status": "failed", "message": message}
