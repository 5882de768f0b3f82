"""Who measures the runs of a grid: processes of this machine, or the workers of a cluster of dask.distributed.

Each run has a process of its own (`one_run`), tried again when that dies, at most ATTEMPTS times, and ended on demand.
Here, threads wait for these processes: nothing listens, so nobody else can hand in work. On a cluster it is a worker
that waits, so what crashes or eats all memory is not the worker; for its sake this module imports nothing heavy. A
worker that dies, with its machine perhaps, costs the runs that it held, which others take over. When the scheduler
dies, what has not come back is lost, and handed in again once there is a scheduler with workers at that address.

How a scheduler is found, and who may reach it: `system.scheduler`.
"""

from __future__ import annotations

import asyncio
import queue
import uuid
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from os import environ
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..errors import InputError
from ..system.processes import Message, ProcessError, Worker, module
from ..system.scheduler import ATTEMPTS, CONNECT, GLANCE, LOST, PATIENCE, check_dask, connected

if TYPE_CHECKING:
    from distributed import Client, Future

MODULE = module("comp_lib.compare.one_run")  # what measures one run
MOST_WORKERS = 256  # processes on one machine, each with two models in memory
AGAIN = "rows that are done stay, and the same command goes on"

Announce = Callable[[str], None]
RunOutcome = Message | ProcessError | InputError  # what was measured, or why nothing was
Outcomes = Generator[tuple[str, RunOutcome], None, None]  # (key, outcome) of each run as it is done, every key once
Engine = Callable[[Mapping[str, Message]], Outcomes]  # measures runs: takes key -> `one_run.RunRequest` as JSON

_running: dict[Worker, str] = {}  # process -> the grid that it belongs to
_ended: set[str] = set()  # grids that want no more: threads that still start a process for one kill it


def choose(workers: int | None = None, scheduler: str | None = None, announce: Announce = lambda link: None) -> Engine:
    """The engine for `compare.run`: the Dask cluster at `scheduler`, or `workers` runs at a time on this machine.

    With neither, one run at a time. announce: gets the address of the cluster's dashboard, where it has one.
    Raises InputError for what cannot be had.
    """
    if workers is not None and scheduler is not None:
        raise InputError("expected workers here or a scheduler elsewhere, got both: leave one out")
    if workers is not None and not 1 <= workers <= MOST_WORKERS:
        raise InputError(f"expected 1 to {MOST_WORKERS} workers, got {workers}: each measures one run at a time")
    if scheduler is None:
        return partial(here, workers or 1)
    check_dask()
    return partial(remote, scheduler, announce)


def here(workers: int, requests: Mapping[str, Message]) -> Outcomes:
    """`workers` runs at a time on this machine, which share its cores; with one of them, in order."""
    from ..system.machine import cores

    shared = workers > 1 and "OMP_NUM_THREADS" not in environ
    threads, grid = max(1, cores() // workers) if shared else None, uuid.uuid4().hex
    with ThreadPoolExecutor(workers) as pool:
        keys = {pool.submit(_tried, request, threads, grid): key for key, request in requests.items()}
        try:
            for future in as_completed(keys):
                yield keys[future], future.result()
        finally:  # after Ctrl-C above all: the pool would wait for its threads, and they for their processes
            _ended.add(grid)
            pool.shutdown(wait=False, cancel_futures=True)
            for worker, owner in tuple(_running.items()):
                if owner == grid:
                    worker.kill()


one_by_one: Engine = partial(here, 1)


def _tried(request: Message, threads: int | None, grid: str) -> RunOutcome:
    """What `measured` says, or how the last of ATTEMPTS processes died."""
    for _ in range(ATTEMPTS):
        try:
            return measured(request, threads, grid)
        except ProcessError as error:
            outcome = error
            if grid in _ended:
                break
    return outcome


def measured(request: Message, threads: int | None = None, grid: str = "") -> RunOutcome:
    """What the process measured that got this request, or its refusal, which no other attempt would mend.

    threads: how many it computes with; None: as many as it likes. grid: once that is in `_ended`, it is killed.
    Raises ProcessError when it dies, which another attempt may mend.
    """
    with Worker(MODULE, threads) as worker:
        _running[worker] = grid
        try:
            if grid in _ended:
                worker.kill()
            worker.send(request)
            return worker.answer()
        except InputError as refusal:
            return refusal
        finally:
            del _running[worker]


def remote(address: str, announce: Announce, requests: Mapping[str, Message]) -> Outcomes:
    """On the cluster whose scheduler is at `address`, such as tcp://127.0.0.1:8786 or tls://host:8786."""
    left, losses, patience = dict(requests), 0, CONNECT
    while left:
        with connected(address, patience, AGAIN) as client:
            if patience == CONNECT:  # the first time
                _check_workers(client, next(iter(left.values())))
                if "dashboard" in client.scheduler_info()["services"]:
                    announce(client.dashboard_link)
                patience = PATIENCE
            try:
                for key, outcome in _collect(client, left):
                    del left[key]
                    losses = 0
                    yield key, outcome
            except LOST as error:
                losses += 1
                if losses == ATTEMPTS:
                    got = f"{losses} losses without a cell done ({error}): look into its log; {AGAIN}"
                    raise InputError(f"expected the Dask cluster at {address} to stay, got {got}") from error


def _check_workers(client: Client, request: Message) -> None:
    """Raises InputError unless a worker on each machine has this library, the model and the texts of `request`."""
    machines = {urlsplit(address).hostname: address for address in client.nthreads()}
    asked = (measured, request | {"check": True})  # in a thread, so as not to hold up the worker's own talk
    answers = client.run(asyncio.to_thread, *asked, workers=list(machines.values()), on_error="return")
    for address, answer in answers.items():
        if isinstance(answer, Exception):
            raise InputError(f"expected each worker to have what the grid needs, got from {address}: {answer}")


def _collect(client: Client, requests: Mapping[str, Message]) -> Outcomes:
    """(key, outcome) of each request as it is done. Raises one of LOST when scheduler or workers are gone."""
    done: queue.SimpleQueue[Future[RunOutcome]] = queue.SimpleQueue()
    keys = {}
    for place, (key, request) in enumerate(requests.items()):
        options = {"key": f"cell-{key}", "retries": ATTEMPTS - 1, "priority": -place}
        future = client.submit(measured, request, **options)
        keys[future] = key
        future.add_done_callback(done.put)
    while keys:
        try:
            future = done.get(timeout=GLANCE)
        except queue.Empty:
            if not client.nthreads():
                raise ConnectionError("no worker is left") from None
            continue
        error = future.exception() if future.status == "error" else None
        if error is not None and not isinstance(error, ProcessError):
            error = ProcessError(f"{type(error).__name__}: {error}")
        yield keys.pop(future), error or future.result()  # raises CancelledError when the scheduler is gone
