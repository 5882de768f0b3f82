"""Cells on dask.distributed: on a cluster inside this process, or on one that is there.

A Dask worker only waits for the process that measures (`launch`), so what crashes or eats all memory is that process,
not the worker, and Dask gives its cell to whoever is free, at most ATTEMPTS times. A worker that dies, with its machine
perhaps, costs the cells that it held, which others take over. When the scheduler dies all is lost that has not come
back, and is handed in again once there is a scheduler with workers at that address.

Whoever can reach a Dask scheduler can run code on its workers: use one in a network that you trust, or set up its TLS.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import os
import queue
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..errors import InputError
from ..system.processes import ATTEMPTS, CellError, Engine, Outcome, attempted, end, measured, one_by_one

if TYPE_CHECKING:
    from distributed import Client, Future

CONNECT = 10.0  # seconds to find a scheduler that should be there
PATIENCE = 300.0  # seconds to wait for a scheduler or workers that were there
GLANCE = 5.0  # seconds between two looks at whether any worker is left
LOST = (CancelledError, OSError, asyncio.TimeoutError)  # what a client raises whose scheduler is gone

Announce = Callable[[str], None]


def choose(workers: int | None = None, scheduler: str | None = None, announce: Announce = lambda link: None) -> Engine:
    """The engine for `compare.run`: the Dask cluster at `scheduler`, or `workers` cells at a time on this machine.

    With neither, one cell at a time: on Dask if it is installed, for its dashboard, else without.
    announce: gets the address of the dashboard. Raises InputError for what cannot be had.
    """
    if workers is not None and scheduler is not None:
        raise InputError("expected workers here or a scheduler elsewhere, got both: leave one out")
    if workers is not None and workers < 1:
        raise InputError(f"expected at least 1 worker, got {workers}: each measures one cell at a time")
    if importlib.util.find_spec("distributed") is None:
        if workers is None and scheduler is None:
            return one_by_one
        raise InputError("expected the library dask.distributed, got none: pip install 'comp-lib[distributed]'")
    return embedded(workers or 1, announce) if scheduler is None else remote(scheduler, announce)


def embedded(workers: int, announce: Announce) -> Engine:
    """An engine of `workers` cells at a time on this machine, which share its cores."""
    from dask.system import CPU_COUNT  # with the limits of a container
    from distributed import Client, LocalCluster

    shared = workers > 1 and "OMP_NUM_THREADS" not in os.environ
    threads = max(1, CPU_COUNT // workers) if shared else None

    def engine(jobs: Mapping[str, str]) -> Iterator[tuple[str, Outcome]]:
        if not jobs:
            return
        run = uuid.uuid4().hex
        # threads of this process suffice to wait for others; no memory limit, since it is not they who need any
        with (
            LocalCluster(
                n_workers=1,
                threads_per_worker=workers,
                processes=False,
                memory_limit=None,
                dashboard_address="127.0.0.1:0",
                host="127.0.0.1",
                protocol="tcp://",
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            announce(cluster.dashboard_link)
            try:
                yield from _collect(client, jobs, threads, run)
            finally:  # after Ctrl-C above all: the cluster would wait for its threads
                end(run)

    return engine


def remote(address: str, announce: Announce) -> Engine:
    """An engine on the cluster whose scheduler is at `address`, such as tcp://127.0.0.1:8786."""

    def engine(jobs: Mapping[str, str]) -> Iterator[tuple[str, Outcome]]:
        left, losses, patience = dict(jobs), 0, CONNECT
        while left:
            with _connected(address, patience) as client:
                if patience == CONNECT:  # the first time
                    _check_workers(client, next(iter(left.values())))
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
                        raise InputError(
                            f"expected the Dask cluster at {address} to stay, lost it {losses} times without a cell "
                            f"done ({error}): look into its log, then the same command goes on"
                        ) from error

    return engine


@contextmanager
def _connected(address: str, patience: float) -> Iterator[Client]:
    """A client of a scheduler that has a worker. Raises InputError when there is none for `patience` seconds."""
    from distributed import Client

    client = Client.__new__(Client)
    try:
        client.__init__(address, timeout=patience, set_as_default=False)
    except (*LOST, ValueError) as error:  # ValueError: no address at all
        client.close()  # left to the garbage collector, it would stop its loop while another starts: a deadlock
        raise InputError(
            f"expected a Dask scheduler at {address!r}, got {type(error).__name__} after {patience:.0f} s: start it "
            "with dask scheduler; rows that are done stay, and the same command goes on"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=patience)
        except LOST as error:
            raise InputError(
                f"expected workers at {address}, got none for {patience:.0f} s: start one with dask worker {address}; "
                "rows that are done stay, and the same command goes on"
            ) from error
        yield client


def _check_workers(client: Client, job: str) -> None:
    """Raises InputError unless a worker on each machine has this library, the model and the texts of `job`."""
    machines = {urlsplit(address).hostname: address for address in client.nthreads()}
    job = json.dumps(json.loads(job) | {"check": True})
    for address, answer in client.run(_answer, job, workers=list(machines.values()), on_error="return").items():
        if isinstance(answer, Exception):
            raise InputError(f"expected each worker to have what the grid needs, got from {address}: {answer}")


async def _answer(job: str) -> dict:
    """`measured`, without holding up the worker's own talk."""
    return await asyncio.to_thread(measured, job)


def _collect(
    client: Client, jobs: Mapping[str, str], threads: int | None = None, run: str = ""
) -> Iterator[tuple[str, Outcome]]:
    """(key, outcome) of each job as it is done. Raises one of LOST when scheduler or workers are gone."""
    done = queue.SimpleQueue()
    keys = {}
    for place, (key, job) in enumerate(jobs.items()):
        future = client.submit(attempted, job, threads, run, key=f"cell-{key}", retries=ATTEMPTS - 1, priority=-place)
        keys[future] = key
        future.add_done_callback(done.put)
    while keys:
        try:
            future = done.get(timeout=GLANCE)
        except queue.Empty:
            if not client.nthreads():
                raise ConnectionError("no worker is left") from None
            continue
        yield keys.pop(future), _outcome(future)


def _outcome(future: Future) -> Outcome:
    if future.status != "error":
        return future.result()  # raises CancelledError when the scheduler is gone
    error = future.exception()
    return error if isinstance(error, CellError) else CellError(f"{type(error).__name__}: {error}")
