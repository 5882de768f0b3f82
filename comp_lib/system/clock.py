"""Seconds by phase: where the time of a run goes.

Work says what it is (`with phase("read"):`), and whoever wants to know listens (`with listening() as seconds:`). A
phase inside another one has its seconds to itself: those of the outer one are without them, so that all add up to the
time spent in phases. Another thread is not listened to, since its seconds are not the run's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

PHASES = ("planning", "read", "attention", "MLP", "Gram", "selection", "solve", "write", "evaluation")


class Clock:
    """Adds up the seconds of each phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.inner = 0.0  # of the phases that have ended inside the innermost one that is open


_clock: ContextVar[Clock | None] = ContextVar("clock", default=None)


@contextmanager
def listening() -> Iterator[dict[str, float]]:
    """The seconds of each phase of what runs in this block, filled as it runs."""
    clock = Clock()
    token = _clock.set(clock)
    try:
        yield clock.seconds
    finally:
        _clock.reset(token)


@contextmanager
def phase(name: str) -> Iterator[None]:
    """What runs in this block is that phase, one of PHASES."""
    if (clock := _clock.get()) is None:
        yield
        return
    clock.seconds.setdefault(name, 0.0)
    started, outer, clock.inner = time.perf_counter(), clock.inner, 0.0
    try:
        yield
    finally:
        took = time.perf_counter() - started
        clock.seconds[name] += took - clock.inner
        clock.inner = outer + took
