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
        self._open: list[str] = []
        self._since = 0.0

    def enter(self, name: str) -> None:
        self._lap()
        self._open.append(name)

    def leave(self) -> None:
        self._lap()
        self._open.pop()

    def _lap(self) -> None:
        """Since the last change the innermost phase has been at work."""
        now = time.perf_counter()
        if self._open:
            name = self._open[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now


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
    clock.enter(name)
    try:
        yield
    finally:
        clock.leave()
