"""A run of the grid seen from outside: measured in a process of its own, tried again when that dies, ended on demand.

It imports nothing heavy, so that a Dask worker, which only waits for such processes, stays small.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping

from ..errors import InputError
from ..system.processes import Message, ProcessError, Worker

MODULE = ("-m", "comp_lib.compare.one_run")
"""What measures one run."""
ATTEMPTS = 3  # of one run, before its row says that it failed

RunOutcome = Message | ProcessError | InputError
"""What was measured, or why nothing was."""
Outcomes = Generator[tuple[str, RunOutcome], None, None]
"""(key, outcome) of each run as it is done, every key exactly once."""
Engine = Callable[[Mapping[str, Message]], Outcomes]
"""Measures runs: takes key -> `one_run.RunRequest` as JSON."""

_running: dict[Worker, str] = {}  # process -> the grid that it belongs to
_ended: set[str] = set()  # grids that want no more


def one_by_one(requests: Mapping[str, Message]) -> Outcomes:
    """In order, without Dask."""
    for key, request in requests.items():
        outcome: RunOutcome
        for _ in range(ATTEMPTS):
            try:
                outcome = measured(request)
                break
            except ProcessError as error:
                outcome = error
        yield key, outcome


def measured(request: Message, threads: int | None = None, grid: str = "") -> RunOutcome:
    """What the process measured that got this request, or its refusal, which no other attempt would mend.

    threads: how many it computes with; None: as many as it likes. grid: a name by which `end` ends it.
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


def end(grid: str) -> None:
    """Kill the processes of a grid that threads of this process wait for, and those that they start later."""
    _ended.add(grid)
    for worker, owner in tuple(_running.items()):
        if owner == grid:
            worker.kill()
