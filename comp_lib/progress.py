"""How long work says how far it is: it calls what it was given, a bar or a line in a log, again and again."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A function that long work calls after each of its steps."""

    def __call__(self, label: str, done: int, total: int, report: object = None, /) -> object:
        """label: what is being done; done, total: its steps; report: of a decoder layer that is finished."""


def no_progress(label: str, done: int, total: int, report: object = None, /) -> None:
    """The silent `Progress`."""
