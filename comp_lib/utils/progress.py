"""Progress of long work: it calls a function that it was given, which draws a bar or writes a log."""

from __future__ import annotations

import math
import reprlib
import sys
import time
from typing import Protocol

from .arguments import is_number, plain_number, takes
from .errors import InputError

SECONDS_BETWEEN_LINES = 8.0  # seconds in which `log_lines` writes one line at most


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


def log_lines(seconds: float = SECONDS_BETWEEN_LINES) -> Progress:
    """A `Progress` that writes a line to stderr, at the earliest `seconds` after its last one.

    Raises InputError for seconds that are not a number from 0.

        verdict = prune_model("smollm2-135m", "build/small", progress=log_lines())
    """
    seconds = plain_number(seconds)
    if not is_number(seconds) or not 0 <= seconds < math.inf:
        raise InputError(expected="seconds as a number from 0", got=reprlib.repr(seconds), hint="such as 8.0")
    started = time.monotonic()
    written = started

    def write_line(label: str, finished: int, total: int, report: object = None, /) -> None:
        nonlocal written
        now = time.monotonic()
        if now - written >= seconds:
            written = now
            sys.stderr.write(f"{label}: {finished} of {total}, {now - started:.0f} s\n")
            sys.stderr.flush()

    return write_line


def with_label(prefix: str, progress: Progress) -> Progress:
    """A `Progress` that tells `progress` the same, with `prefix` before each label."""

    def tell(label: str, finished: int, total: int, report: object = None, /) -> object:
        return progress(f"{prefix}: {label}", finished, total, report)

    return tell


def check_progress(progress: object) -> None:
    """Raises InputError for what cannot be called as a `Progress` is."""
    if not callable(progress):
        raise InputError(
            expected="progress to be a function",
            got=repr(progress),
            hint="see comp_lib.Progress, or leave it out",
        )
    if progress is log_lines:
        raise InputError(expected="a Progress", got="log_lines, which makes one", hint="write log_lines()")
    if not takes(progress, "label", 1, 2, None):
        raise InputError(
            expected="progress to take the label, how many steps are finished, how many there are, a report",
            got=repr(progress),
            hint="see comp_lib.Progress",
        )
