"""What is finished of a run on disk, as a value that goes into a file and comes back."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from ...decoder.types import Step
from ...pruning.report import LayerReport
from ...utils.errors import InputError
from ...utils.hashes import hash_of_value

EXPECTED_PROGRESS = "the progress of a run of this version"
BEGIN_ANEW_HINT = "delete that folder to begin anew"
CHECKSUM = "checksum"  # name of the field with the hash of all others
STATES_PREFIX = "states-"  # how the names of files with hidden states begin


@dataclass(frozen=True)
class CarriedFiles:
    """A `CarriedState` on disk, with the names of files for hidden states."""

    pruned_stream: str
    """Name of the file with the hidden states in the pruned model."""
    dense_stream: str | None
    """The same in the dense model; None: no recovery aims at them."""
    may_differ: bool
    ridge_positions: dict[Step, int]
    generator: tuple[int, ...]
    """Bytes of the state of the generator of random numbers."""


@dataclass(frozen=True)
class RunState:
    """What is finished of a run, and which run it is."""

    identity: dict[str, Any]
    """All that decides the bytes of the run, which the same call has again."""
    plan: str | None = None
    """The plan as JSON; None: it is not known yet."""
    layers: tuple[LayerReport | None, ...] = ()
    """A report for each finished layer of the parent, None for a layer that is dropped."""
    streams: CarriedFiles | None = None
    """The streams after the last finished layer; None before the first layer, and after the last."""
    dense_losses: tuple[float, ...] | None = None
    """The losses of the parent in each window; None: they are not measured yet."""
    pruned_losses: tuple[float, ...] | None = None
    """The losses of the pruned model in each window; None: they are not measured yet."""
    exported: bool = False
    """Whether the new model is written as a GGUF file, for a run that makes one."""
    checksums: dict[str, int] = field(default_factory=dict)
    """CRC-32 of what is finished and still needed, by the name of the tensor, or of the file."""

    @property
    def states_files(self) -> set[str]:
        """Names of the files with hidden states that are still needed."""
        if self.streams is None:
            return set()
        names = {self.streams.pruned_stream, self.streams.dense_stream}
        return {name for name in names if name is not None}

    def to_json(self) -> str:
        """The state as JSON, with a hash of itself."""
        # `asdict` copies each number by itself, which takes seconds in a run of thirty layers
        fields = json.loads(json.dumps(vars(self), default=vars))
        return json.dumps({CHECKSUM: hash_of_value(fields)} | fields)

    @classmethod
    def from_json(cls, values: Any, source: object) -> RunState:
        """The state that `to_json` wrote, from the value that its text holds.

        source: where the text is from, for the refusal.

        Raises InputError for what another version or somebody else wrote, and for any other value.
        """
        refusal = InputError(
            expected=EXPECTED_PROGRESS, got=f"something else in {source}", hint=BEGIN_ANEW_HINT
        )
        if not isinstance(values, dict):
            raise refusal
        fields = {name: value for name, value in values.items() if name != CHECKSUM}
        if values.get(CHECKSUM) != hash_of_value(fields):
            raise refusal
        try:
            state = cast(RunState, as_typed(cls, fields))
        except TypeError as error:
            raise refusal from error
        if not all(re.fullmatch(rf"{STATES_PREFIX}\d+", name) for name in state.states_files):
            raise refusal
        return state


def as_typed(kind: Any, value: Any) -> Any:
    """A value that JSON held as one of the type `kind`: an object as a dataclass, a list as a tuple.

    Raises TypeError for a value of another type.
    """
    parts = get_args(kind)
    origin = get_origin(kind)
    if kind is Any or type(value) is kind or (kind is float and type(value) is int):
        return value
    if origin in (Union, UnionType) and NoneType in parts:
        return None if value is None else as_typed(parts[0], value)
    if origin is Literal and value in parts:
        return value
    if origin in (tuple, Sequence) and isinstance(value, list):
        return tuple(as_typed(parts[0], item) for item in value)
    if origin is dict and isinstance(value, dict):
        return {as_typed(parts[0], key): as_typed(parts[1], item) for key, item in value.items()}
    if isinstance(kind, type) and is_dataclass(kind) and isinstance(value, dict):
        kinds = get_type_hints(kind)
        if value.keys() == kinds.keys():
            return kind(**{name: as_typed(kinds[name], item) for name, item in value.items()})
    raise TypeError(f"expected {kind}, got {value!r:.60}")
