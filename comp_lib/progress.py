"""How long work reports its progress: it calls a function that it was given, for a bar or a log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# Called with what is being done, the steps done and the steps in all.
# When a decoder layer is finished its report comes as a fourth argument.
Progress = Callable[..., Any]


def no_progress(activity: str, finished_steps: int, all_steps: int, report: object = None) -> None:
    """The silent `Progress`."""
