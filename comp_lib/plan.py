"""Hybrid granularity: how many layers, and how many neurons in each layer that stays, for a given budget.

A plan is a value: written before any weight is touched, read, edited, saved as JSON, and carried out by `prune`.
Two planners share one budget arithmetic (`Shape`):

* `uniform_plan`: layers first, then one width for all layers that stay. Any stock runtime loads the result.
* `paper_plan`: layers first, then for each layer a ratio in inverse proportion to its importance, as the digests of
  the paper describe it: important layers keep more.

The budget is a lower bound on what is removed: widths are rounded *down* to a multiple that the hardware likes.
Planners that choose neurons one by one (`baselines`) take what the uniform plan leaves as their `budget`, so that all
methods can be compared at the same size. Biases that a recovery adds are parameters too: `biased` plans pay for them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from .errors import InputError
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
    ratio: float  # parameters to remove, as asked
    of: str  # "decoder" or "model": what the ratio refers to
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
        try:
            fields = json.loads(text)
        except json.JSONDecodeError as error:
            why = f"expected a plan as JSON, got text that does not parse ({error}): save it anew"
            raise InputError(why) from error
        names = set(cls.__dataclass_fields__)
        if not isinstance(fields, dict) or set(fields) != names:
            got = sorted(fields) if isinstance(fields, dict) else type(fields).__name__
            raise InputError(f"expected a plan with the fields {sorted(names)}, got {got}: save it anew")
        plan = cls(**{name: _tuples(value) for name, value in fields.items()})
        plan.check()
        return plan

    def check(self) -> None:
        """Raises InputError when the plan contradicts itself, or holds values of another kind (plans are edited)."""
        for name, kind in (("parent", str), ("ratio", (int, float)), ("removed", (int, float))):
            if not isinstance(getattr(self, name), kind):
                what = "text" if kind is str else "a number"
                raise InputError(f"expected {what} as {name}, got {getattr(self, name)!r}: mend the plan")
        if self.of not in ("decoder", "model"):
            raise InputError(f"expected 'of' to be decoder or model, got {self.of!r}: mend the plan")
        _check_integers("parent_layers", (self.parent_layers,))
        for name in ("layers", "neurons", "kv_groups"):
            _check_integers(name, getattr(self, name))
        if not self.layers or not _ascending(self.layers) or self.layers[-1] >= self.parent_layers:
            raise InputError(
                f"expected ascending layer indices below {self.parent_layers}, got {list(self.layers)}: mend the plan"
            )
        for name in ("neurons", "kv_groups", "kept_neurons", "kept_groups"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, tuple) or len(value) != len(self.layers)):
                got = len(value) if isinstance(value, tuple) else repr(value)
                raise InputError(f"expected {len(self.layers)} entries in {name}, got {got}: mend the plan")
        if min(self.neurons) < 1 or min(self.kv_groups) < 1:
            raise InputError("expected at least one neuron and one KV group in each layer, got 0: drop the layer")
        for name, widths in (("kept_neurons", self.neurons), ("kept_groups", self.kv_groups)):
            for layer, width, kept in zip(self.layers, widths, getattr(self, name) or (), strict=False):
                _check_integers(name, kept)
                if len(kept) != width or not _ascending(kept):
                    raise InputError(
                        f"expected {width} ascending indices in {name} of layer {layer}, got {len(kept)}: mend the plan"
                    )

    def save(self, path: str | Path) -> None:
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        return cls.from_json(Path(path).read_text(encoding="utf-8"))


def _tuples(value):
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _ascending(indices: tuple[int, ...]) -> bool:
    """Of distinct indices, none below 0."""
    return list(indices) == sorted(set(indices)) and min(indices, default=0) >= 0


def _check_integers(name: str, values: object) -> None:
    if not isinstance(values, tuple) or any(type(value) is not int for value in values):
        raise InputError(f"expected whole numbers in {name}, got {values!r}: mend the plan")


def uniform_plan(
    shape: Shape,
    ratio: float,
    *,
    of: str = "decoder",
    drop: Sequence[int] = (),
    kv_groups: int | None = None,
    multiple: int = 64,
    parent: str = "",
    biased: bool = False,
) -> Plan:
    """Drop the layers `drop`, keep `kv_groups` KV groups in each other layer, and one neuron width for all of them.

    The width is the largest multiple of `multiple` with which at least `ratio` of the parameters are gone.
    Raises InputError when the ratio cannot be reached with these layers and groups.
    """
    layers = _staying(shape, drop)
    groups = tuple(_groups(shape, layer, kv_groups) for layer in layers)
    width = _neurons_for(shape, ratio, of, layers, groups, multiple, biased, lambda factor, i: factor)
    return _plan(shape, ratio, of, layers, width, groups, parent, biased)


def paper_plan(
    shape: Shape,
    ratio: float,
    importance: Sequence[float],
    *,
    of: str = "decoder",
    drop: Sequence[int] = (),
    kv_groups: int | None = None,
    multiple: int = 64,
    parent: str = "",
    biased: bool = False,
) -> Plan:
    """Like `uniform_plan`, but a layer loses neurons in inverse proportion to its `importance` (one per parent layer).

    With x the common factor, layer l loses the share min(1 - SMALLEST_SHARE, x * mean(importance) / importance_l)
    of its neurons; x is the smallest that reaches the budget. (Our reading of the digests; no layer is emptied.)
    """
    if len(importance) != shape.layers:
        raise InputError(f"expected one importance for each of {shape.layers} layers, got {len(importance)}")
    layers = _staying(shape, drop)
    groups = tuple(_groups(shape, layer, kv_groups) for layer in layers)
    floor = max(max(importance) * 1e-3, 1e-12)  # importances are differences: they can be zero or below
    inverse = [1.0 / max(float(importance[layer]), floor) for layer in layers]
    mean = sum(inverse) / len(inverse)
    share = lambda factor, i: factor * inverse[i] / mean  # noqa: E731
    width = _neurons_for(shape, ratio, of, layers, groups, multiple, biased, share)
    return _plan(shape, ratio, of, layers, width, groups, parent, biased)


def removed(
    shape: Shape, layers: Sequence[int], neurons: Sequence[int], groups: Sequence[int], of: str, biased: bool = False
) -> float:
    """Fraction of the parameters of the decoder or of the whole model that such a plan removes, less biases added."""
    left = (shape.with_biases() if biased else shape).with_widths(tuple(neurons), tuple(groups))
    return (shape.decoder - left.decoder) / (shape.decoder if of == "decoder" else shape.total)


def layers_needed(shape: Shape, ratio: float, **options) -> int:
    """The fewest whole layers whose loss leaves the others at least half of their neurons.

    Measured (benchmarks/RESULTS.md): up to there, narrowing all layers costs less than dropping any.
    """
    for count in range(shape.layers):
        last = count + 1 == shape.layers  # one layer is left: whatever it can still give must do
        try:
            plan = uniform_plan(shape, ratio, drop=range(count), **options)
        except InputError:
            if last:
                raise
            continue
        if last or min(plan.neurons) * 2 >= shape.neurons[-1]:
            return count
    raise ValueError("expected a decoder with layers, got none")


def budget(shape: Shape, ratio: float, *, layers: int | str = "auto", **options) -> int:
    """Parameters that stay in the decoder under the uniform plan of these options: the most that any method keeps."""
    count = layers_needed(shape, ratio, **options) if layers == "auto" else int(layers)
    plan = uniform_plan(shape, ratio, drop=range(count), **options)
    return shape.with_widths(plan.neurons, plan.kv_groups).decoder


def excess_neurons(shape: Shape, groups: Sequence[int], left: int) -> int:
    """How many neurons have to go, so that with these KV groups in its layers the decoder has at most `left`."""
    excess = shape.with_widths(shape.neurons, tuple(groups)).decoder - left
    return max(0, -(-excess // shape.neuron_parameters))


def finished_plan(
    shape: Shape,
    ratio: float,
    of: str,
    layers: Sequence[int],
    kept_neurons: Sequence[Sequence[int]],
    kept_groups: Sequence[Sequence[int]],
    parent: str = "",
    biased: bool = False,
) -> Plan:
    """The plan that keeps just these neurons and KV groups, one ascending sequence for each of `layers`."""
    neurons, groups = (tuple(map(len, kept)) for kept in (kept_neurons, kept_groups))
    plan = _plan(shape, ratio, of, tuple(layers), neurons, groups, parent, biased)
    return replace(plan, kept_neurons=tuple(map(tuple, kept_neurons)), kept_groups=tuple(map(tuple, kept_groups)))


def check_ratio(ratio: float, of: str) -> None:
    """Raises InputError unless 0 < ratio < 1 and `of` is known."""
    if not 0.0 < ratio < 1.0:
        raise InputError(f"expected a ratio between 0 and 1 (such as 0.2), got {ratio:g}: say which part is to go")
    if of not in ("decoder", "model"):
        raise InputError(f"expected --of decoder or model, got {of!r}: say what the ratio refers to")


def _staying(shape: Shape, drop: Sequence[int]) -> tuple[int, ...]:
    wrong = [layer for layer in drop if not 0 <= layer < shape.layers]
    if wrong or len(set(drop)) >= shape.layers:
        raise InputError(
            f"expected fewer than {shape.layers} layers to drop, out of 0 to {shape.layers - 1}, got {list(drop)}"
        )
    return tuple(layer for layer in range(shape.layers) if layer not in set(drop))


def _groups(shape: Shape, layer: int, kv_groups: int | None) -> int:
    if kv_groups is None:
        return shape.kv_groups[layer]
    if not 1 <= kv_groups <= shape.kv_groups[layer]:
        raise InputError(f"expected 1 to {shape.kv_groups[layer]} KV groups to keep, got {kv_groups}")
    return kv_groups


def _neurons_for(shape, ratio, of, layers, groups, multiple, biased, share_of) -> tuple[int, ...]:
    """Widths with the least removal that reaches the budget, found by bisection on the common factor.

    `share_of(factor, i)` is the share of its neurons that the i-th staying layer loses; it grows with the factor.
    """
    check_ratio(ratio, of)
    if multiple < 1:
        raise InputError(f"expected a multiple of at least 1, got {multiple}: 64 suits most hardware")

    def widths(factor: float) -> tuple[int, ...]:
        kept = []
        for i, layer in enumerate(layers):
            full = shape.neurons[layer]
            share = min(max(share_of(factor, i), 0.0), 1.0 - SMALLEST_SHARE)
            # the tiny addition forgives the rounding of full * (1 - share) when it is a multiple already
            rounded = int((full * (1.0 - share) + 1e-6) // multiple) * multiple if share > 0 else full
            kept.append(max(rounded, min(multiple, full)))
        return tuple(kept)

    def reached(factor: float) -> float:
        return removed(shape, layers, widths(factor), groups, of, biased)

    low, high = 0.0, 1e4
    if reached(high) < ratio:
        raise InputError(
            f"expected a ratio that these layers and groups allow, at most {reached(high):.3f} of the {of}, "
            f"got {ratio:g}: drop layers or KV groups, or ask for less"
        )
    if reached(low) >= ratio:
        return widths(low)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) >= ratio else (middle, high)
    return widths(high)


def _plan(shape, ratio, of, layers, neurons, groups, parent, biased) -> Plan:
    reached = removed(shape, layers, neurons, groups, of, biased)
    plan = Plan(parent, shape.layers, layers, neurons, groups, ratio, of, reached)
    plan.check()
    return plan
