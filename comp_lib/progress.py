"""How long work says how far it is: it calls what it was given, a bar or a line in a log, again and again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# called with what is being done, steps done and steps in all; and with the report of a decoder layer that is
# finished
Progress = Callable[..., Any]


def no_progress(what: str, done: int, total: int, report: object = None) -> None:
    """The silent `Progress`."""
