"""A Dask scheduler, as one of its clients finds it, loses it, and waits for it. Imports nothing heavy.

Whoever can reach a Dask scheduler can run code on its workers. In a network that others use, give it TLS: scheduler,
workers and this process read certificates from Dask's own configuration (`distributed.comm.tls.ca-file`, and `cert`
and `key` under `distributed.comm.tls.scheduler`, `.worker` and `.client`; in a file of ~/.config/dask, or as variables
such as DASK_DISTRIBUTED__COMM__TLS__CA_FILE), and the address begins with tls://. Dask calls this `Security`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import InputError, check_package

if TYPE_CHECKING:
    from distributed import Client

ATTEMPTS = 3  # losses in a row, with nothing done between them
CONNECT = 10.0  # seconds to find a scheduler that should be there
PATIENCE = 300.0  # seconds to wait for a scheduler or workers that were there
GLANCE = 5.0  # seconds between two looks at whether any worker is left
LOST = (CancelledError, OSError, asyncio.TimeoutError)  # what a client raises whose scheduler is gone


def check_dask() -> None:
    """Raises InputError unless the extra is installed."""
    check_package("distributed", "the library dask.distributed", "pip install 'comp-lib[distributed]'")


@contextmanager
def connected(address: str, patience: float, again: str) -> Iterator[Client]:
    """A client of the scheduler at `address`, such as tcp://127.0.0.1:8786 or tls://host:8786, which has a worker.

    Raises InputError when there is none for `patience` seconds. again: what that costs, in words.
    """
    from distributed import Client

    client = Client.__new__(Client)
    try:
        Client.__init__(client, address, timeout=patience, set_as_default=False)
    except (*LOST, ValueError, TypeError) as error:  # no address at all; tls:// without certificates
        client.close()  # left to the garbage collector, it would stop its loop while another starts: a deadlock
        if isinstance(error, ValueError | TypeError):
            got = f"what is no address that it takes ({error}): write tcp://host:8786"
            raise InputError(f"expected a Dask scheduler at {address!r}, got {got}") from error
        got = f"{type(error).__name__} after {patience:.0f} s: start it with dask scheduler; {again}"
        raise InputError(f"expected a Dask scheduler at {address!r}, got {got}") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=patience)
        except LOST as error:
            got = f"none for {patience:.0f} s: start one with dask worker {address}; {again}"
            raise InputError(f"expected workers at {address}, got {got}") from error
        yield client
