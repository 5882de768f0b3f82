"""The calibration text on the machines of a Dask cluster: carried through a layer, and summed.

The sequences are dealt out in shards. Within a layer the hidden states of a shard stay with a worker, which sums what
it sees (`gram`), and the sums are added in pairs, on the workers, as a tree:

    ((C_1 + C_2) + (C_3 + C_4)) + ...

The tree depends on the number of shards alone, not on who is done first or how many workers there are: the same bytes
come every time, where workers are alike. Against one process only the order of the additions differs, which are in
float64.

States and tensors of a layer come to the workers in tasks, so Dask can compute all that a dying worker held once more,
and a worker that joins gets what it lacks from the others. Behind each layer the states return to the client: no worker
remembers anything that is needed later.

Bytes, for a layer with T tokens of width d and sums of G bytes, on W workers: T d and the layer, before and after, to
the workers; the layer to each of the other W - 1; G at most W - 1 times from worker to worker, then to the client; T d
back to it. All that comes and goes passes the scheduler, but for what workers give each other.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ..calibration.stream import Step, batches
from ..errors import InputError
from ..families.protocol import Layer
from ..prune_layer import HiddenStates, Watching
from ..statistics.gram import Statistics
from ..system.machine import release_memory
from ..system.scheduler import GLANCE, LOST
from . import on_workers
from .parcels import Numbers, take_apart

if TYPE_CHECKING:
    from distributed import Client, Future

SHARDS = 16  # more than most clusters have workers, so that a slow one holds up little
WHOLE = {"distributed.admin.large-graph-warning-threshold": "1TB"}  # states travel in tasks, though Dask warns


class Gone(Exception):
    """The scheduler or all workers are."""


class Spread:
    """Hidden states (S, L, d) on the workers: `Numbers` for each shard."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, rows: list[slice], parts: list[Future[Any]]) -> None:
        self.shape, self.dtype, self.rows, self.parts = shape, dtype, rows, parts

    def __len__(self) -> int:
        return self.shape[0]


class Shards:
    """The `Carrier` that works on the workers of `client`, with the text in at most `count` shards.

    Workers need this library. room: as for `prune_layer.Here`. device: "cpu", or "cuda", the first card that each
    worker sees. Raises InputError for a worker with another comp_lib or torch, or without the device, and when a shard
    has cost several workers their life; Gone when the scheduler or all workers are.
    """

    def __init__(
        self, client: Client, count: int = SHARDS, room: Callable[..., Any] = torch.empty, device: str = "cpu"
    ) -> None:
        self.client, self.count, self.room = client, count, room
        self.wanted = on_workers.environment(device)
        self.name, self.tasks = uuid.uuid4().hex[:24], itertools.count()
        # what has been sent, as long as the client has it too: one tensor or stream is sent once
        self.tensors: Any = WeakIdKeyDictionary()
        self.streams: Any = WeakIdKeyDictionary()
        self.places: list[str] = []  # of each shard: a worker, which may have to give it up

    def sums(self, watching: Watching, hidden: Any, reference: Any, parts: int) -> list[Statistics]:
        release_memory()  # a worker may be on the card of this process
        ours, theirs = self._spread(hidden), None if reference is None else self._spread(reference)
        how, size, trees = self._sent(watching), -(-len(ours) // parts), []
        for start in range(0, len(ours), size):
            leaves = []
            for place, rows in enumerate(ours.rows):
                part = max(rows.start, start) - rows.start, min(rows.stop, start + size) - rows.start
                if part[0] < part[1]:
                    pair = ours.parts[place], None if theirs is None else theirs.parts[place]
                    leaves.append((place, self._submit(place, on_workers.sums, self.wanted, *how, part, *pair)))
            trees.append(self._tree(leaves))
        found, here = [], next(watching.layer.parameters()).device
        while trees:
            found.append(self._fetched(trees.pop(0)).open(here))
        return found

    def through(self, layer: Layer, step: Step, hidden: Any) -> Spread:
        spread, how = self._spread(hidden), self._sent((layer, step))
        done = [
            self._submit(place, on_workers.through, self.wanted, *how, part) for place, part in enumerate(spread.parts)
        ]
        return Spread(spread.shape, spread.dtype, spread.rows, done)

    def settled(self, hidden: Any) -> HiddenStates:
        if not isinstance(hidden, Spread):
            states: HiddenStates = hidden
            return states
        states = self.room(tuple(hidden.shape), dtype=hidden.dtype)
        for rows, part in zip(hidden.rows, hidden.parts, strict=True):
            states[rows] = self._fetched(part).tensor
        return states

    def _spread(self, hidden: Any) -> Spread:
        """Hidden states on the workers, sent now unless they are there."""
        if isinstance(hidden, Spread):
            return hidden
        if (spread := self.streams.get(hidden)) is None:
            rows = slices(hidden.shape[0], hidden.shape[1], self.count)
            self._deal(len(rows))
            sent = [self._submit(i, on_workers.hold, Numbers.of(hidden[part])) for i, part in enumerate(rows)]
            self.streams[hidden] = spread = Spread(tuple(hidden.shape), hidden.dtype, rows, sent)
        found: Spread = spread
        return found

    def _deal(self, shards: int) -> None:
        """Say who is to work on which shard: neighbours together, so that few sums travel."""
        with heard():
            threads = self.client.nthreads()
        places = {address: count if self.wanted["device"] == "cpu" else 1 for address, count in sorted(threads.items())}
        seats = [address for address, count in places.items() for _ in range(count)]
        if not seats:
            raise Gone("no worker is left")
        self.places = [seats[place * len(seats) // shards] for place in range(shards)]

    def _sent(self, value: Any) -> tuple[Future[bytes], list[Future[Numbers]]]:
        """What holds tensors, on the workers: its frame, and those of them that are not there yet."""
        frame, tensors = take_apart(value)
        sent = [self._tensor(tensor) for tensor in tensors]
        return self._submit(None, on_workers.hold, frame), sent

    def _tensor(self, tensor: Tensor) -> Future[Numbers]:
        if (sent := self.tensors.get(tensor)) is None:
            sent = self.tensors[tensor] = self._submit(None, on_workers.hold, Numbers.of(tensor))
        future: Future[Numbers] = sent
        return future

    def _tree(self, parts: Sequence[tuple[int, Future[Any]]]) -> Future[Any]:
        while len(parts) > 1:
            pairs = [parts[i : i + 2] for i in range(0, len(parts), 2)]
            parts = [pair[0] if len(pair) == 1 else self._added(*pair) for pair in pairs]
        return parts[0][1]

    def _added(self, one: tuple[int, Future[Any]], other: tuple[int, Future[Any]]) -> tuple[int, Future[Any]]:
        return one[0], self._submit(one[0], on_workers.added, one[1], other[1])

    def _submit(self, place: int | None, task: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """A task, for the worker that has that shard if it can."""
        import dask  # an extra

        if self.client.status != "running":
            raise Gone("the scheduler is gone")
        where = {} if place is None else {"workers": [self.places[place]], "allow_other_workers": True}
        with dask.config.set(WHOLE):
            key = f"{task.__name__}-{self.name}{next(self.tasks):08x}"
            return self.client.submit(task, *arguments, key=key, **where)

    async def _look(self) -> None:
        """Raises Gone when there is nobody who will do what was asked."""
        asked: Any = self.client.run_on_scheduler(on_workers.given_up, self.name, asynchronous=True)
        if await asked:
            raise Gone("no worker is left of those who had the text")

    def _fetched(self, future: Future[Any]) -> Any:
        """What a task gave. Raises what it raised, or Gone when nobody is left to do it."""
        from distributed.scheduler import KilledWorker

        done = threading.Event()
        future.add_done_callback(lambda future: done.set())

        async def brought() -> Any:  # what is done may be lost before it is here, and is done again
            coming = asyncio.ensure_future(self.client.gather([future], asynchronous=True))
            try:
                while not (await asyncio.wait({coming}, timeout=GLANCE))[0]:
                    await self._look()
                return coming.result()[0]
            finally:
                coming.cancel()

        try:
            with heard():
                while not done.wait(GLANCE):
                    self.client.sync(self._look)
                return self.client.sync(brought)
        except KilledWorker as error:
            got = "several that died over the same task: give each more memory"
            raise InputError(f"expected workers that can hold a layer and a shard, got {got}") from error
        except ImportError as error:
            raise InputError(f"expected workers with comp_lib, got one without ({error}): install it there") from error


@contextmanager
def heard() -> Iterator[None]:
    """Raises Gone for what a client raises that hears no more from its scheduler."""
    try:
        yield
    except LOST as error:
        raise Gone(str(error) or type(error).__name__) from error


def slices(count: int, length: int, shards: int) -> list[slice]:
    """`count` sequences of `length` tokens in at most `shards` runs.

    They are cut where one process would cut its batches; where these are fewer than the shards, between any two.
    """
    stops = [rows.stop for rows in batches(count, length)]
    parts = torch.tensor(stops if len(stops) >= shards else range(1, count + 1)).tensor_split(shards)
    ends = [int(part[-1]) for part in parts if len(part)]
    return [slice(start, stop) for start, stop in zip([0, *ends], ends, strict=False)]
