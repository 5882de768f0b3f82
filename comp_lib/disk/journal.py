"""What of a run is finished, in a file that a killed process leaves whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import InputError, refusing
from ..system.atomic import fsync, take_name
from .states import PREFIX

FILE = "progress.json"


class Journal:
    """The progress of a run in the folder `work`.

    What it names is on the disk before it is named; what it does not name is made again. `state` holds:

        request        what was asked for
        plan           as JSON in a string, once it is known
        layers         for each finished layer of the parent its `LayerReport`, None where it is dropped
        made           what the next layer needs of these beside hidden states
        states         "hidden" and "dense" -> name of the file with the states behind the last of them
        dense, pruned  losses of both models in each window, once they are measured
    """

    def __init__(self, work: Path, request: dict[str, Any]) -> None:
        """Go on with the run in `work`, or begin one. Raises InputError for a run with another request."""
        self.work = work
        self.state: dict[str, Any] = {"plan": None, "layers": [], "made": None, "states": {}}
        self.request: dict[str, Any] = json.loads(json.dumps(request))  # as it is read again
        path = work / FILE
        if path.is_file():
            self.state = _read(path)
            self._check_request()

    def _check_request(self) -> None:
        begun = self.state["request"]
        different = [name for name in self.request if begun.get(name) != self.request[name]]
        if different:
            raise InputError(
                expected="the request that began this run",
                got=f"another one in {self.work} (different: {', '.join(different)})",
                hint="delete that folder to begin anew",
            )

    def record(self, **finished: Any) -> None:
        """Write down what is finished, in one step; hidden states that are not named any more are deleted."""
        self.state |= finished | {"request": self.request}
        temporary = self.work / f"{FILE}.tmp"
        temporary.write_text(json.dumps(self.state), "utf-8")
        fsync(temporary)
        take_name(temporary, self.work / FILE)
        for path in self.work.glob(f"{PREFIX}*"):
            if path.name not in self.state["states"].values():
                path.unlink()


def _read(path: Path) -> dict[str, Any]:
    """What the file says. Raises InputError unless it is the progress of a run."""
    expected, hint = "the progress of a run", "delete that folder"
    with refusing(expected, str(path.parent), hint):
        state: Any = json.loads(path.read_text("utf-8"))
    if not isinstance(state, dict) or not isinstance(state.get("request"), dict):
        raise InputError(expected=expected, got=f"something else in {path}", hint=hint)
    return state
