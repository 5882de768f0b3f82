"""One run on many machines: the workers of a Dask scheduler carry the text, the client plans, solves and writes.

So do the cards of one machine, each with a worker of its own, which `dask-cuda` starts and ends with the run.

What the scheduler or all workers take away with them is the layer in work: the client waits for a scheduler with
workers at the same address, and goes on from its journal. What the plan is made of (layers to drop, measured widths)
and the perplexities before and after are still computed by the client alone.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..errors import InputError
from ..prune_layer import Carrier
from ..settings import Settings
from ..system import scheduler
from ..system.machine import release_memory
from ..system.scheduler import ATTEMPTS, check_dask, connected
from . import on_workers
from .shards import SHARDS, Gone, Shards, heard

if TYPE_CHECKING:
    from distributed import Client

DEVICES = "cpu", "cuda"  # on which workers compute
AGAIN = "layers that are done stay, and the same command goes on"
Room = Callable[..., Any]  # makes space for hidden states, as `prune_layer.Here.room`
Walk = Callable[[Callable[[Room], Carrier]], Iterator[Any]]
"""Carries a text through the layers that are left, with what makes a carrier; yields after each."""


@dataclass(frozen=True)
class Machines:
    """The workers of a Dask scheduler, to whom the text is dealt in `shards`, which decide the bits."""

    scheduler: str | None  # its address; None: a worker for each card here, as long as `carry` takes
    shards: int = SHARDS

    def check(self, settings: Settings, sequences: int) -> None:
        """Raises InputError, before any work, for what these workers cannot do, and when there are none."""
        check_dask()
        if not 1 <= self.shards <= sequences:
            got = f"{self.shards}: a shard is one sequence at least"
            raise InputError(f"expected 1 to {sequences:,} shards of {sequences:,} calibration sequences, got {got}")
        if settings.device not in DEVICES:
            got = f"--device {settings.device}: each worker takes the first card that it sees, so write cuda"
            raise InputError(f"expected --device {' or '.join(DEVICES)} with a cluster, got {got}")
        if self.scheduler is None:
            if not several_cards(settings.device):
                got = f"{torch.cuda.device_count()} and --device {settings.device}: leave the cluster out"
                raise InputError(f"expected several cards, --device cuda, and the library dask-cuda, got {got}")
            return
        with connected(self.scheduler, scheduler.CONNECT, "nothing was begun") as client:
            try:
                check_workers(client, settings.device)
            except Gone as error:
                got = f"{error}: start it anew, and the command too"
                raise InputError(f"expected the cluster at {self.scheduler} to stay, got {got}") from error

    def carry(self, walk: Walk, device: str) -> None:
        """Walk to the end. Raises InputError when scheduler or workers are lost, and do not come back."""
        with self._address() as address:
            patience, losses, again = scheduler.CONNECT, 0, True
            while again:
                with connected(address, patience, AGAIN) as client:
                    try:
                        check_workers(client, device)
                        patience = scheduler.PATIENCE
                        for _ in walk(lambda room: Shards(client, self.shards, room, device)):
                            losses = 0
                        again = False
                    except Gone as error:
                        losses += 1
                        if losses == ATTEMPTS:
                            got = f"{losses} losses without a layer done ({error}): look into its log; {AGAIN}"
                            raise InputError(f"expected the cluster at {address} to stay, got {got}") from error

    @contextmanager
    def _address(self) -> Iterator[str]:
        """Of the scheduler, which is begun here, and ended, where there is none yet."""
        if self.scheduler is not None:
            yield self.scheduler
            return
        release_memory()  # of the plan and the first measurement: the first worker is on this process's card
        try:
            from dask_cuda import LocalCUDACluster

            cluster = LocalCUDACluster(dashboard_address=None)
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            got = f"{type(error).__name__} ({error}): choose one card, --device cuda:0; {AGAIN}"
            raise InputError(f"expected dask-cuda to start a worker for each card, got {got}") from error
        with cluster:
            yield cluster.scheduler_address


def several_cards(device: str) -> bool:
    """Whether this names no single one of several cards, and dask-cuda is there to give each a worker."""
    known = (importlib.util.find_spec(name) is not None for name in ("distributed", "dask_cuda"))
    return device == "cuda" and torch.cuda.device_count() > 1 and all(known)


def check_workers(client: Client, device: str) -> None:
    """Raises InputError unless all have this comp_lib, and workers this torch and the device too; or Gone."""
    wrong = "install the same there, and start the command again"
    try:
        with heard():
            theirs = client.run_on_scheduler(on_workers.version)
    except ImportError as error:
        raise InputError(f"expected comp_lib beside the scheduler too, got {error}: {wrong}") from error
    if theirs != on_workers.version():
        raise InputError(f"expected comp_lib {on_workers.version()} beside the scheduler, got {theirs}: {wrong}")
    # in a thread, so as not to hold up the worker's own talk
    with heard():
        answers = client.run(asyncio.to_thread, on_workers.check, on_workers.environment(device), on_error="return")
    for address, answer in answers.items():
        if isinstance(answer, Exception):
            raise InputError(f"expected each worker to be as the client, got from {address}: {answer}")
