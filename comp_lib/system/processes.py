"""A cell's process seen from outside: start it, hand it its job, wait for its answer, end it when nobody waits.

It imports nothing but the standard library, so that a Dask worker, which only waits for such processes, stays small.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

WORKER = (sys.executable, "-m", "comp_lib.compare.one_run")
"""What measures one cell: JSON line in, JSON out."""
ATTEMPTS = 3  # of one cell, before its row says that it failed
REFUSAL = "comp_lib.errors.InputError: "  # how the last line of a traceback names what no second attempt would mend

_running: dict[subprocess.Popen, str] = {}  # process -> the run that it belongs to
_ended: set[str] = set()  # runs that want no more


class CellError(RuntimeError):
    """A cell that came to no result: in one line, in all that it wrote, and whether it refused its input."""

    def __init__(self, message: str, output: str = "", refused: bool = False) -> None:
        super().__init__(message, output, refused)  # all of it: an error travels from a Dask worker as its `args`
        self.message, self.output, self.refused = message, output, refused

    def __str__(self) -> str:
        return self.message


Outcome = dict | CellError
"""What a cell measured, or why it measured nothing."""
Engine = Callable[[Mapping[str, str]], Iterator[tuple[str, Outcome]]]
"""Measures jobs, key -> line of JSON, and gives (key, outcome) as each is done, every key exactly once."""


def one_by_one(jobs: Mapping[str, str]) -> Iterator[tuple[str, Outcome]]:
    """(key, outcome) of each job, in order, without Dask."""
    return ((key, _persistently(job)) for key, job in jobs.items())


def _persistently(job: str) -> Outcome:
    for _ in range(ATTEMPTS):
        try:
            return attempted(job)
        except CellError as error:
            outcome = error
    return outcome


def attempted(job: str, threads: int | None = None, run: str = "") -> Outcome:
    """As `measured`; raises what another attempt may mend, and returns a refusal, which none will."""
    try:
        return measured(job, threads, run)
    except CellError as error:
        if error.refused:
            return error
        raise


def measured(job: str, threads: int | None = None, run: str = "") -> dict:
    """What the process measured that got this job, a line of JSON.

    threads: how many it computes with; None: as many as it likes. run: a name by which `end` ends it.
    Raises CellError. When the process that called this dies, the one that measures ends by itself.
    """
    home = str(Path(__file__).parents[2])  # the process runs this very code
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))}
    environment.pop("MALLOC_TRIM_THRESHOLD_", None)  # Dask sets it for its workers, and it would slow the cell down
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    with tempfile.TemporaryFile() as log:
        # stdin stays open: its end tells the process that nobody waits any more
        with subprocess.Popen(
            WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment, bufsize=0
        ) as process:
            _running[process] = run
            try:
                if run in _ended:
                    process.kill()
                # a process that ended before it was told anything has an exit code that says more
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(f"{job}\n".encode())
                answer = process.stdout.read()
                code = process.wait()
            finally:
                del _running[process]
        log.seek(0)
        output = log.read().decode("utf-8", "replace")
    if code == 0:
        return json.loads(answer)
    if code < 0:
        raise CellError(f"the process was killed by {signal.Signals(-code).name}", output)
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    last = lines[-1] if lines else f"the process ended with code {code} and said nothing"
    raise CellError(last.removeprefix("comp_lib.errors."), output, refused=last.startswith(REFUSAL))


def end(run: str) -> None:
    """Kill the processes of a run that threads of this process wait for, and those that they start later."""
    _ended.add(run)
    for process, owner in tuple(_running.items()):
        if owner == run:
            process.kill()
