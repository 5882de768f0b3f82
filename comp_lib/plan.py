"""A plan: which layers stay, and how many neurons and KV groups in each of them.

A plan is a value: written before any weight is touched, read, edited, saved as JSON, and carried out by `prune`.
`PlanRequest` says what a planner is asked for; COMP's planners are in `hybrid_granularity`, others in `baselines`. The
ratio is a lower bound on what is removed: widths are rounded *down* to a multiple that the hardware likes. Biases that
a recovery adds are parameters too: `biased` plans pay for them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .errors import InputError, refusing
from .shape import Shape

SMALLEST_SHARE = 0.1  # of a layer's neurons; below it a layer is better dropped than starved


@dataclass(frozen=True)
class Plan:
    """What stays of a decoder. Entries of `neurons` and `kv_groups` belong to `layers`, in order."""

    parent: str  # name of the model that was planned for
    parent_layers: int  # its number of decoder layers
    layers: tuple[int, ...]  # indices in the parent of the layers that stay
    neurons: tuple[int, ...]  # MLP neurons kept in each of them
    kv_groups: tuple[int, ...]  # KV groups kept in each of them
    ratio: float  # part of the decoder's parameters to remove, as asked
    removed: float  # the same fraction, as reached
    kept_neurons: tuple[tuple[int, ...], ...] | None = None  # indices, once `prune` has chosen them
    kept_groups: tuple[tuple[int, ...], ...] | None = None

    @property
    def dropped(self) -> tuple[int, ...]:
        return tuple(sorted(set(range(self.parent_layers)) - set(self.layers)))

    def to_json(self) -> str:
        """Readable JSON: one line for each field."""
        lines = (f'  "{name}": {json.dumps(value)}' for name, value in asdict(self).items())
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The inverse of `to_json`. Raises InputError when fields are missing, unknown or disagree in length."""
        with refusing(
            f"a plan as JSON, with {', '.join(cls.__dataclass_fields__)}", "the text", "save it anew"
        ):
            fields = tuples(json.loads(text))
            return cls(**{name: fields[name] for name in cls.__dataclass_fields__} | fields)

    def __post_init__(self) -> None:
        """Raises InputError when the plan contradicts itself, or holds values of another kind (plans are edited)."""
        for name in ("ratio", "removed"):
            share = getattr(self, name)
            if not isinstance(share, int | float) or not abs(share) <= 1:  # NaN is not at most 1, either
                raise InputError(f"expected a number as {name}, got {share!r}: mend the plan")
        _ascending("parent_layers", (self.parent_layers,))
        for name in ("neurons", "kv_groups"):
            _ascending(name, getattr(self, name))
        if not _ascending("layers", self.layers) or not self.layers or self.layers[-1] >= self.parent_layers:
            got = f"{list(self.layers)}: mend the plan"
            raise InputError(f"expected ascending layer indices below {self.parent_layers}, got {got}")
        for name in ("neurons", "kv_groups", "kept_neurons", "kept_groups"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, tuple) or len(value) != len(self.layers)):
                got = str(len(value)) if isinstance(value, tuple) else repr(value)
                raise InputError(f"expected {len(self.layers)} entries in {name}, got {got}: mend the plan")
        if min(*self.neurons, *self.kv_groups) < 1:
            got = f"{list(self.neurons)} and {list(self.kv_groups)}: drop whole layers instead"
            raise InputError(f"expected a neuron and a KV group in each layer that stays, got {got}")
        for name, widths in (("kept_neurons", self.neurons), ("kept_groups", self.kv_groups)):
            for layer, width, kept in zip(self.layers, widths, getattr(self, name) or (), strict=False):
                if not _ascending(name, kept) or len(kept) != width:
                    got = f"{len(kept)}: mend the plan"
                    raise InputError(
                        f"expected {width} ascending indices in {name} of layer {layer}, got {got}"
                    )

    def save(self, path: str | Path) -> None:
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """The plan in a file. Raises InputError when it is not there, cannot be read, or holds something else."""
        with refusing("a file with a plan", str(path), "name another"):
            return cls.from_json(Path(path).read_text(encoding="utf-8"))


def tuples(value: Any) -> Any:
    """What JSON gives, with tuples for its lists."""
    if isinstance(value, dict):
        return {name: tuples(item) for name, item in value.items()}
    return tuple(map(tuples, value)) if isinstance(value, list) else value


def _ascending(name: str, values: Any) -> bool:
    """Whether they are distinct indices, in order and none below 0. Raises InputError unless they are whole numbers."""
    if not isinstance(values, tuple) or any(type(value) is not int for value in values):
        raise InputError(f"expected whole numbers in {name}, got {values!r}: mend the plan")
    return list(values) == sorted(set(values)) and min(values, default=0) >= 0


@dataclass(frozen=True)
class PlanRequest:
    """What a planner is asked for: how much is to go, and what is decided already.

    Raises InputError for a ratio, layers, KV groups or a multiple that make no sense.
    """

    shape: Shape  # of the model to plan for
    ratio: float  # part of the decoder's parameters to remove, at least
    drop: Sequence[int] = ()  # whole layers that go
    kv_groups: int | None = None  # KV groups to keep in each other layer; None: all
    multiple: int = 64  # widths are multiples of this
    parent: str = ""  # name of the model
    biased: bool = False  # whether the recovery adds biases, which count

    def __post_init__(self) -> None:
        if not 0.0 < self.ratio < 1.0:
            got = f"{self.ratio:g}: say which part is to go"
            raise InputError(f"expected a ratio between 0 and 1 (such as 0.2), got {got}")
        if self.multiple < 1:
            raise InputError(
                f"expected a multiple of at least 1, got {self.multiple}: 64 suits most hardware"
            )
        count = self.shape.layers
        wrong = [layer for layer in self.drop if not 0 <= layer < count]
        if wrong or len(set(self.drop)) >= count:
            raise InputError(
                f"expected fewer than {count} layers to drop, of 0 to {count - 1}, got {list(self.drop)}: drop others"
            )
        fewest = min(self.shape.kv_groups[layer] for layer in self.layers)
        if self.kv_groups is not None and not 1 <= self.kv_groups <= fewest:
            raise InputError(
                f"expected 1 to {fewest} KV groups to keep, got {self.kv_groups}: keep another number"
            )

    @property
    def layers(self) -> tuple[int, ...]:
        """Those that stay."""
        return tuple(sorted(set(range(self.shape.layers)) - set(self.drop)))

    @property
    def groups(self) -> tuple[int, ...]:
        """KV groups of each layer that stays."""
        return tuple(self.kv_groups or self.shape.kv_groups[layer] for layer in self.layers)

    def removed(self, neurons: Sequence[int], groups: Sequence[int] | None = None) -> float:
        """The fraction of the parameters that goes when the layers that stay keep so many neurons, less biases added.

        groups: KV groups that they keep; None: as the request says.
        """
        parent = self.shape.with_biases() if self.biased else self.shape
        left = parent.with_widths(neurons, self.groups if groups is None else groups, self.layers)
        return (self.shape.decoder - left.decoder) / self.shape.decoder

    def plan(self, neurons: Sequence[int]) -> Plan:
        """The plan in which the layers that stay keep so many neurons."""
        widths = self.layers, tuple(neurons), self.groups
        return Plan(self.parent, self.shape.layers, *widths, self.ratio, self.removed(neurons))

    def finished(self, kept_neurons: Sequence[Sequence[int]], kept_groups: Sequence[Sequence[int]]) -> Plan:
        """The plan that keeps just these neurons and KV groups, an ascending sequence for each layer that stays.

        For planners that decide all by themselves: what the request says of KV groups is disregarded.
        """
        kept = tuple(map(tuple, kept_neurons)), tuple(map(tuple, kept_groups))
        neurons, groups = (tuple(map(len, names)) for names in kept)
        gone = self.removed(neurons, groups)
        return Plan(self.parent, self.shape.layers, self.layers, neurons, groups, self.ratio, gone, *kept)
