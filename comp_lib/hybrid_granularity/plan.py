"""A plan: which layers stay, and how many neurons and KV groups in each of them.

A plan is a value: it is made before any weight is touched; it can be read, edited and saved as JSON, and
`prune` carries it out. `PlanRequest` says what a planner is asked for; `pruning.planners`
make plans, COMP's by the rules for widths of this room.

The ratio is a lower bound on what is removed: widths are rounded *down* to a multiple that the hardware
likes. Biases that a recovery adds are parameters too: a plan for a request that is `biased` pays for them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any

from ..decoder.shape import Shape
from ..utils.arguments import check_ratio, is_number
from ..utils.errors import InputError, refusing

# Smallest share of its neurons that COMP's planners leave a layer, which is better dropped than starved. The
# width is then rounded down to a multiple.
# `hybrid_granularity.uniform` ends widths here, and `hybrid_granularity.narrowing` ends error curves here.
FLOOR_SHARE = 0.1
REMOVED_TOLERANCE = 0.02  # of the decoder, between what a plan removes and what it says that it removes
# What to do about a plan that is refused.
CORRECT_PLAN_HINT = "correct this field of the plan, as in comp_plan.json"


@dataclass(frozen=True)
class Plan:
    """The layers of a decoder that stay, and their widths.

    The entries of `neurons`, `kv_groups`, `kept_neurons` and `kept_groups` are those of `layers`, in order.
    Plans are edited by hand, so they are checked; lists are as good as tuples.

    Raises InputError when a plan contradicts itself, or holds values of another kind.

        plan = Plan.load("build/small/comp_plan.json")
        pruned = prune(model, ids, settings, plan=plan)  # the same neurons again
    """

    parent: str
    """Name of the model that was planned for."""
    parent_layers: int
    """How many decoder layers that model has."""
    layers: tuple[int, ...]
    """Indices in the parent of the layers that stay."""
    neurons: tuple[int, ...]
    """How many MLP neurons stay in each of them."""
    kv_groups: tuple[int, ...]
    """How many KV groups stay in each of them."""
    ratio: float
    """Part of the decoder's parameters to remove, from 0 to 1, as asked."""
    removed: float
    """The part that is removed, as reached; below 0 where added biases weigh more than what goes."""
    kept_neurons: tuple[tuple[int, ...], ...] | None = field(default=None, repr=False)
    """Indices of the neurons that stay in each layer; None: nothing has chosen them yet."""
    kept_groups: tuple[tuple[int, ...], ...] | None = field(default=None, repr=False)
    """Indices of the KV groups that stay in each layer; None: nothing has chosen them yet."""

    @property
    def dropped(self) -> tuple[int, ...]:
        """Layers of the parent that go."""
        return tuple(sorted(set(range(self.parent_layers)) - set(self.layers)))

    def removed_share(self, shape: Shape) -> float:
        """Share of the decoder's parameters that these widths remove from a parent of that shape."""
        return shape.removed_share(shape.with_widths(self.neurons, self.kv_groups, self.layers))

    def removes_what_it_says(self, shape: Shape) -> bool:
        """Whether `removed` is what these widths remove from a parent of that shape, to REMOVED_TOLERANCE."""
        return abs(self.removed_share(shape) - self.removed) <= REMOVED_TOLERANCE

    def to_json(self) -> str:
        """Readable JSON: one line for each field."""
        lines = (f'  "{name}": {json.dumps(value)}' for name, value in vars(self).items())
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that `to_json` wrote, also without the names of what stays.

        Raises InputError when fields are missing, unknown or disagree in length.
        """
        return cls._from_json(text, "the text")

    @classmethod
    def _from_json(cls, text: str, source: str) -> Plan:
        """`from_json`, for a text from `source`, which a refusal names."""
        names = cls.__dataclass_fields__
        expected = f"a plan as JSON, with {', '.join(names)}"
        with refusing(expected, source, "save it anew"):
            value = json.loads(text)
        if not isinstance(value, dict):
            raise InputError(
                expected=expected, got=f"a {type(value).__name__} in {source}", hint="save it anew"
            )
        missing = [name for name in names if names[name].default is MISSING and name not in value]
        unknown = [name for name in value if name not in names]
        different = missing + unknown
        if different:
            raise InputError(
                expected=expected,
                got=f"one with {', '.join(map(repr, different[:3]))} missing or unknown",
                hint="save it anew",
            )
        return cls(**value)

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            object.__setattr__(self, name, _as_tuples(getattr(self, name)))  # the class is frozen
        if not isinstance(self.parent, str):
            raise InputError(expected="a name as parent", got=repr(self.parent), hint=CORRECT_PLAN_HINT)
        self._check_share("ratio", lowest=0)
        self._check_share("removed", lowest=-1)
        self._check_layers()
        for name in ("neurons", "kv_groups", "kept_neurons", "kept_groups"):
            self._check_length(name)
        if min(*self.neurons, *self.kv_groups) < 1:
            raise InputError(
                expected="a neuron and a KV group in each layer that stays",
                got=f"{list(self.neurons)} and {list(self.kv_groups)}",
                hint="drop whole layers instead",
            )
        self._check_kept("kept_neurons", self.kept_neurons, self.neurons)
        self._check_kept("kept_groups", self.kept_groups, self.kv_groups)

    def _check_share(self, name: str, lowest: int) -> None:
        share = getattr(self, name)
        if not is_number(share) or not lowest <= share <= 1:  # NaN is in no interval
            raise InputError(
                expected=f"a number as {name}, from {lowest} to 1",
                got=repr(share),
                hint=CORRECT_PLAN_HINT,
            )

    def _check_layers(self) -> None:
        _check_whole_numbers("parent_layers", (self.parent_layers,))
        _check_whole_numbers("neurons", self.neurons)
        _check_whole_numbers("kv_groups", self.kv_groups)
        _check_whole_numbers("layers", self.layers)
        if not self.layers or not _is_ascending(self.layers) or self.layers[-1] >= self.parent_layers:
            raise InputError(
                expected=f"ascending layer indices below {self.parent_layers}",
                got=list(self.layers),
                hint=CORRECT_PLAN_HINT,
            )

    def _check_length(self, name: str) -> None:
        value = getattr(self, name)
        if value is None and name.startswith("kept_"):
            return
        if not isinstance(value, tuple) or len(value) != len(self.layers):
            raise InputError(
                expected=f"{len(self.layers)} entries in {name}",
                got=len(value) if isinstance(value, tuple) else repr(value),
                hint=CORRECT_PLAN_HINT,
            )

    def _check_kept(
        self, name: str, kept: tuple[tuple[int, ...], ...] | None, widths: tuple[int, ...]
    ) -> None:
        for layer, width, indices in zip(self.layers, widths, kept or (), strict=False):
            _check_whole_numbers(name, indices)
            if not _is_ascending(indices) or len(indices) != width:
                raise InputError(
                    expected=f"{width} ascending indices in {name} of layer {layer}",
                    got=str(list(indices))[:60],
                    hint=CORRECT_PLAN_HINT,
                )

    def save(self, path: str | Path) -> None:
        """Write `to_json` to a file, which is replaced if it is there.

        Raises InputError where no file can be written, such as in a folder that is missing.
        """
        with refusing("a file that can be written", str(path), "make its folder first, or choose another"):
            Path(path).expanduser().write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """The plan in a file.

        Raises InputError when the file is missing, cannot be read, or holds something else.
        """
        with refusing("a file with a plan", str(path), "such as build/small/comp_plan.json"):
            text = Path(path).expanduser().read_text(encoding="utf-8")
        return cls._from_json(text, str(path))


def _as_tuples(value: Any) -> Any:
    """The value, with tuples in place of lists and arrays, and the numbers of Python for those of NumPy."""
    if hasattr(value, "tolist"):  # an array, a tensor, or a number of NumPy
        value = value.tolist()
    if isinstance(value, list | tuple):
        return tuple(map(_as_tuples, value))
    return value


def _check_whole_numbers(name: str, values: Any) -> None:
    if not isinstance(values, tuple) or any(type(value) is not int for value in values):
        raise InputError(expected=f"whole numbers in {name}", got=repr(values), hint=CORRECT_PLAN_HINT)


def _is_ascending(values: Sequence[int]) -> bool:
    """Whether the values are distinct indices, in order and none below 0."""
    return list(values) == sorted(set(values)) and min(values, default=0) >= 0


@dataclass(frozen=True)
class PlanRequest:
    """The request to a planner: how much is to go, and what is decided already.

    Raises InputError for a ratio, layers, KV groups or a multiple that make no sense.
    """

    shape: Shape
    """The shape of the model to plan for."""
    ratio: float
    """Part of the decoder's parameters to remove, at least."""
    drop: Sequence[int] = ()
    """Indices of the whole layers that go."""
    kv_groups: int | None = None
    """KV groups to keep in each layer that stays; None: all."""
    multiple: int = 64
    """A number of which all widths are multiples."""
    parent: str = ""
    """Name of the model."""
    biased: bool = False
    """Whether the recovery adds biases, which are parameters."""

    def __post_init__(self) -> None:
        check_ratio(self.ratio)
        if self.multiple < 1:
            raise InputError(
                expected="a multiple of at least 1", got=self.multiple, hint="64 suits most hardware"
            )
        layer_count = self.shape.layer_count
        outside = [layer for layer in self.drop if not 0 <= layer < layer_count]
        if outside or len(set(self.drop)) >= layer_count:
            raise InputError(
                expected=f"fewer than {layer_count} layers to drop, of 0 to {layer_count - 1}",
                got=list(self.drop),
                hint=f"name some of the layers 0 to {layer_count - 1}, not all",
            )
        fewest = min(self.shape.kv_groups[layer] for layer in self.layers)
        if self.kv_groups is not None and not 1 <= self.kv_groups <= fewest:
            raise InputError(
                expected=f"1 to {fewest} KV groups to keep in each layer",
                got=self.kv_groups,
                hint="the dense model's number keeps all",
            )

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers of the parent that stay."""
        return tuple(sorted(set(range(self.shape.layer_count)) - set(self.drop)))

    @property
    def groups_by_layer(self) -> tuple[int, ...]:
        """How many KV groups each layer that stays keeps."""
        return tuple(self.kv_groups or self.shape.kv_groups[layer] for layer in self.layers)

    def removed_share(self, neurons: Sequence[int], groups: Sequence[int] | None = None) -> float:
        """The part of the decoder's parameters that goes, less the biases that are added.

        neurons: how many neurons each layer that stays keeps.
        groups: how many KV groups each layer that stays keeps; None: as the request says.
        """
        parent = self.shape.with_biases() if self.biased else self.shape
        if groups is None:
            groups = self.groups_by_layer
        return self.shape.removed_share(parent.with_widths(neurons, groups, self.layers))

    def plan_with(self, widths: Sequence[int]) -> Plan:
        """The plan in which the layers that stay have these widths, in neurons."""
        return Plan(
            parent=self.parent,
            parent_layers=self.shape.layer_count,
            layers=self.layers,
            neurons=tuple(widths),
            kv_groups=self.groups_by_layer,
            ratio=self.ratio,
            removed=self.removed_share(widths),
        )

    def exact_plan(self, kept_neurons: Sequence[Sequence[int]], kept_groups: Sequence[Sequence[int]]) -> Plan:
        """The plan that keeps just these neurons and KV groups.

        Each argument has an ascending sequence of indices for each layer that stays. A planner that decides
        all by itself uses this. What the request says of KV groups does not count here.
        """
        neurons = tuple(len(indices) for indices in kept_neurons)
        groups = tuple(len(indices) for indices in kept_groups)
        return Plan(
            parent=self.parent,
            parent_layers=self.shape.layer_count,
            layers=self.layers,
            neurons=neurons,
            kv_groups=groups,
            ratio=self.ratio,
            removed=self.removed_share(neurons, groups),
            kept_neurons=tuple(map(tuple, kept_neurons)),
            kept_groups=tuple(map(tuple, kept_groups)),
        )
