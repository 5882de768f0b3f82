"""What is finished of a run on disk, as a value that goes into a file and comes back."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..errors import InputError
from ..families.types import Step
from ..plan import as_tuples
from ..report import LayerReport

EXPECTED = "the progress of a run of this version"
HINT = "delete that folder to begin anew"


@dataclass(frozen=True)
class StreamsState:
    """What the next layer needs from the finished ones: `Streams`, with names of files for hidden states."""

    pruned_stream: str  # name of the file with the hidden states in the pruned model
    dense_stream: str | None  # the same in the dense model; None: no recovery aims at them
    may_differ: bool
    ridge_positions: dict[Step, int]
    generator: tuple[int, ...]  # bytes of the state of the generator of random numbers


@dataclass(frozen=True)
class RunState:
    """What is finished of a run, and which run it is."""

    identity: dict[str, Any]
    """All that decides the bytes of the run, which the same call has again."""
    plan: str | None = None
    """The plan as JSON; None: it is not known yet."""
    layers: tuple[LayerReport | None, ...] = ()
    """A report for each finished layer of the parent, None for a layer that is dropped."""
    streams: StreamsState | None = None
    """The streams after the last finished layer; None before the first layer, and after the last."""
    dense_losses: tuple[float, ...] | None = None
    """The losses of the parent in each window; None: they are not measured yet."""
    pruned_losses: tuple[float, ...] | None = None
    """The losses of the pruned model in each window; None: they are not measured yet."""
    exported: bool = False
    """Whether the new model is written as a GGUF file, for a run that makes one."""

    @property
    def states_files(self) -> set[str]:
        """Names of the files with hidden states that are still needed."""
        if self.streams is None:
            return set()
        names = {self.streams.pruned_stream, self.streams.dense_stream}
        return {name for name in names if name is not None}

    def to_json(self) -> str:
        """The state as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, values: Any, source: object) -> RunState:
        """The state that `to_json` wrote, from the value that its text holds.

        source: where the text is from, for the refusal.

        Raises InputError for what another version wrote, and for any other value.
        """
        refusal = InputError(expected=EXPECTED, got=f"something else in {source}", hint=HINT)
        if not isinstance(values, dict) or values.keys() != cls.__dataclass_fields__.keys():
            raise refusal
        try:
            return cls._of_values(values)
        except (AttributeError, KeyError, TypeError) as error:
            raise refusal from error

    @classmethod
    def _of_values(cls, values: dict[str, Any]) -> RunState:
        """The state of a value that `to_json` wrote.

        Raises AttributeError, KeyError or TypeError for fields that are missing, new or of another kind.
        """
        state = cls(**values)
        layers = tuple(None if row is None else LayerReport(**as_tuples(row)) for row in state.layers)
        streams = None
        if values["streams"] is not None:
            positions = values["streams"]["ridge_positions"]
            streams = StreamsState(**as_tuples(values["streams"]) | {"ridge_positions": positions})
        return replace(
            state,
            layers=layers,
            streams=streams,
            dense_losses=as_tuples(values["dense_losses"]),
            pruned_losses=as_tuples(values["pruned_losses"]),
        )
