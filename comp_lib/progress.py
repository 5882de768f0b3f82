"""Progress of long work: it calls a function that it was given, which draws a bar or writes a log."""

from __future__ import annotations

from typing import Protocol

from .errors import InputError


class Progress(Protocol):
    """A function that long work calls after each of its steps."""

    def __call__(self, label: str, finished: int, total: int, report: object = None, /) -> object:
        """Take note of a step.

        Args:
            label: the work, in words.
            finished: how many of its steps are finished.
            total: how many steps it has.
            report: the report of a decoder layer, when that is what was finished.
        """


def no_progress(label: str, finished: int, total: int, report: object = None, /) -> None:
    """The silent `Progress`."""


def check_progress(progress: object) -> None:
    """Raises InputError for what cannot be called."""
    if not callable(progress):
        raise InputError(
            expected="progress to be a function",
            got=repr(progress),
            hint="see comp_lib.Progress, or leave it out",
        )
