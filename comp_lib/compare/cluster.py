"""Who measures the runs of a grid: processes of this machine, or the workers of a Dask cluster.

Each run has a process of its own (`one_run`), here as on a cluster, where a worker waits for it: what crashes or eats
all memory is neither the grid nor the worker. A run that dies says why, and the same command tries it again.

Whoever can reach a Dask scheduler can run code on its workers: see docs/clusters.md. Imports nothing heavy.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from functools import partial
from subprocess import PIPE, Popen
from typing import Any

from ..errors import InputError, check_package

# not -m, which would import a `random.py` of the working folder before Python's own
CODE = (
    "import sys; sys.path = [place for place in sys.path if place]; from comp_lib.compare.one_run import main; main()"
)
COMMAND = (sys.executable, "-c", CODE)
CONNECT = 10.0  # seconds to find a scheduler and a worker

Outcome = dict[str, Any] | str  # what was measured, or in one line why nothing was
Outcomes = Generator[tuple[str, Outcome], None, None]  # key and outcome of each run as it is done
Engine = Callable[[Mapping[str, dict[str, Any]]], Outcomes]  # measures runs: key -> `one_run.Run` as JSON


def choose(workers: int | None = None, scheduler: str | None = None) -> Engine:
    """The engine for `compare.run`: the Dask cluster at `scheduler`, or `workers` runs at a time on this machine.

    With neither, one run at a time. Raises InputError for both, and for a scheduler without dask.distributed.
    """
    if workers is not None and scheduler is not None:
        raise InputError("expected workers here or a scheduler elsewhere, got both: leave one out")
    if scheduler is None:
        return partial(here, workers or 1)
    check_package("distributed", "distributed")
    return partial(remote, scheduler)


def here(workers: int, requests: Mapping[str, dict[str, Any]]) -> Outcomes:
    """`workers` runs at a time on this machine, which share its cores; with one of them, in order."""
    from ..system.machine import cores

    shared = workers > 1 and "OMP_NUM_THREADS" not in os.environ
    threads, running = max(1, cores() // workers) if shared else None, set[Popen[str]]()
    with ThreadPoolExecutor(workers) as pool:
        keys = {pool.submit(measured, request, ".", threads, running): key for key, request in requests.items()}
        try:
            for future in as_completed(keys):
                yield keys[future], future.result()
        finally:  # after Ctrl-C above all: the pool would wait for its threads, and they for their processes
            pool.shutdown(wait=False, cancel_futures=True)
            for process in tuple(running):
                process.kill()


one_by_one: Engine = partial(here, 1)


def remote(address: str, requests: Mapping[str, dict[str, Any]]) -> Outcomes:
    """On the cluster whose scheduler is at `address`, such as tcp://127.0.0.1:8786 or tls://host:8786."""
    from distributed import Client, as_completed

    if not requests:
        return
    try:
        with Client(address, timeout=CONNECT) as client:
            client.wait_for_workers(1, timeout=CONNECT)
            folder = os.getcwd()
            keys = {client.submit(measured, request, folder, pure=False): key for key, request in requests.items()}
            for future in as_completed(keys):
                failure = future.exception()
                yield keys[future], future.result() if failure is None else f"{type(failure).__name__}: {failure}"
    except (CancelledError, OSError, asyncio.TimeoutError, ValueError, TypeError) as error:  # no address, no answer
        got = f"{type(error).__name__}: see docs/clusters.md; the same command goes on from the rows that are done"
        raise InputError(f"expected a Dask scheduler with workers at {address!r}, got {got}") from error


def measured(
    request: dict[str, Any], folder: str, threads: int | None = None, running: set[Popen[str]] | None = None
) -> Outcome:
    """What a process of its own measured, or the last line that it wrote before it died.

    folder: that it works in, if it is there, so that relative paths hold. threads: that it computes with; None: as many
    as it likes. running: holds the process while it runs.
    """
    running = set() if running is None else running
    environment = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    place = folder if os.path.isdir(folder) else None
    with Popen(COMMAND, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment, cwd=place, encoding="utf-8") as process:
        running.add(process)
        out, errors = process.communicate(json.dumps(request))
        running.remove(process)
    if process.returncode == 0:
        answer: dict[str, Any] = json.loads(out.splitlines()[-1])
        return answer
    if process.returncode < 0:
        return f"the process was killed by {signal.Signals(-process.returncode).name}"
    return (errors.strip().splitlines() or [f"the process ended with code {process.returncode}"])[-1]
