"""What workers do for a run that `shards` deals out. The scheduler reads this too, so it imports nothing heavy."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from .. import __version__
from ..errors import InputError
from .parcels import Numbers, Parcel, put_together

Value = TypeVar("Value")
CARD = threading.Lock()  # a card has room for one task's matrices, however many threads its worker has


def version() -> str:
    """What a scheduler must have in common with its client."""
    return __version__


def given_up(run: str, dask_scheduler: Any) -> bool:
    """Whether a scheduler has nobody for the tasks with `run` in their name.

    Those that are to go to some worker if they can are left lying when all workers are gone, even if others come.
    """
    lying = any(run in str(task.key) for task in dask_scheduler.unrunnable)
    return not dask_scheduler.workers or lying and bool(dask_scheduler.running)


def environment(device: str) -> dict[str, str]:
    """What a worker must have in common with its client: what decides the bits.

    device: "cpu", or "cuda", the first card that a process sees. Raises InputError where that is not there.
    """
    import torch

    from ..system import hashes
    from ..system.machine import available_device

    card = ""
    if available_device(device, double=True).type == "cuda":
        card = f"{torch.cuda.get_device_name()} with CUDA {torch.version.cuda}"
    code, built = hashes.of_code("scale"), str(torch.__version__)
    return {"comp_lib": __version__, "code": code, "torch": built, "device": device, "card": card}


def check(wanted: dict[str, str]) -> None:
    """Raises InputError unless the environment here is `wanted`; a worker may have come after the others were asked."""
    if (found := environment(wanted["device"])) != wanted:
        told = (f"{name} {found[name]}, not {wanted[name]}" for name in wanted if found[name] != wanted[name])
        got = f"{'; '.join(told)} on {socket.gethostname()}"
        raise InputError(f"expected workers with this comp_lib and torch, got {got}: install the same there")


def hold(value: Value) -> Value:
    """Something from the client, in a task: a worker that dies with it costs no more than sending it again."""
    return value


def sums(
    wanted: dict[str, str],
    frame: bytes,
    numbers: Sequence[Numbers],
    rows: tuple[int, int],
    hidden: Numbers,
    reference: Numbers | None,
) -> Parcel:
    """What a `Watching`, in parts, sums over the sequences from rows[0] to rows[1] of a shard."""
    import torch

    from ..system.machine import exact_products

    check(wanted)
    part = slice(*rows)
    with torch.no_grad(), exact_products():  # a worker's threads know nothing of the caller's
        with _alone(wanted["device"]):
            watching = put_together(frame, numbers, wanted["device"])
            found = watching(hidden.tensor[part], None if reference is None else reference.tensor[part])
        return Parcel.of(found)


def added(one: Parcel, other: Parcel) -> Parcel:
    """The sums over two texts."""
    both: Any = one.open() + other.open()
    return Parcel.of(both)


def through(wanted: dict[str, str], frame: bytes, numbers: Sequence[Numbers], hidden: Numbers) -> Numbers:
    """A shard through one residual step: (layer, step), in parts."""
    import torch

    from ..prune_layer import HERE
    from ..system.machine import exact_products

    check(wanted)
    with torch.no_grad(), exact_products(), _alone(wanted["device"]):
        layer, step = put_together(frame, numbers, wanted["device"])
        states: Any = HERE.through(layer, step, hidden.tensor)
    return Numbers.of(states)


def _alone(device: str) -> AbstractContextManager[Any]:
    """One task at a time on a card; its other threads receive and send meanwhile."""
    return nullcontext() if device == "cpu" else CARD
