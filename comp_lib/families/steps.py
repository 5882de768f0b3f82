"""The two steps of a layer, each of them the layer's own forward while the other part adds nothing; and the way to the
stream behind each dense layer, found by putting numbers in.

    y -> c y        added as it is, or times a number (Granite), or a number for each place of the stream
    y -> g y / |y|  through a norm (Gemma 2 and 3, OLMo 2 and 3, ...), |y| the root of the mean square over the stream

That a layer is no more than that is not believed but checked, once for each kind of layer and text (`check`).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import refusing
from .frame import number, with_parts
from .protocol import STEPS, Arguments, Layer, Rope, Which
from .structure import Parts, grouped, producers, refuse, spans_heads

TOLERANCE = 1e-4  # of a recomputed output in float32; of a narrower type what it can tell apart
LARGE = 1024.0  # beside which the epsilon of a norm is nothing, and by which numbers divide without rounding


class Adds(nn.Module):
    """Stands in for a part of a layer: puts out `value`, in the shape of what it is given."""

    def __init__(self, value: Tensor | float = 0.0, pair: bool = False) -> None:
        super().__init__()
        self.value, self.pair = value, pair

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        states = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        out = torch.zeros_like(states) + self.value
        return (out, None) if self.pair else out


def run(layer: Layer, which: Which, hidden: Tensor, arguments: Arguments | None = None) -> tuple[Tensor, Tensor]:
    """One step of a layer, the other part silent: the stream behind it, and the inputs of its dense layer."""
    name, dense = getattr(Parts.of(layer), which)
    inputs: list[Tensor] = []
    linear = layer.get_submodule(f"{name}.{dense}")
    hook = linear.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    try:
        out = through(layer, hidden, arguments, **{"mlp" if which == "attention" else "attention": Adds()})
    finally:
        hook.remove()
    return out, inputs[0]


def through(layer: Layer, hidden: Tensor, arguments: Arguments | None = None, **stand_ins: Adds) -> Tensor:
    """The layer's own forward, with stand-ins for its attention or MLP. Without the attention it needs no arguments."""
    parts = Parts.of(layer)
    if "attention" in stand_ins:
        stand_ins["attention"].pair = _pair(layer, parts)
    shell = with_parts(layer, **{getattr(parts, which)[0]: part for which, part in stand_ins.items()})
    args, kwargs = ((), _nothing(layer)) if arguments is None else arguments
    out = shell.forward(hidden, *args, **kwargs)
    states: Tensor = out[0] if isinstance(out, tuple) else out
    return states


def _nothing(layer: Layer) -> dict[str, None]:
    """None for all that a layer insists on beside the states."""
    needed = [value for value in inspect.signature(layer.forward).parameters.values() if value.default is value.empty]
    return {value.name: None for value in needed[1:] if value.kind is value.POSITIONAL_OR_KEYWORD}


def _pair(layer: Layer, parts: Parts) -> bool:
    """Whether the layer takes a pair from its attention, the second part of which it leaves alone."""
    weight = layer.get_submodule(".".join(parts.mlp)).weight
    for pair in (True, False):
        shell = with_parts(layer, **{parts.attention[0]: Adds(pair=pair), parts.mlp[0]: Adds()})
        try:
            shell.forward(weight.new_zeros(1, 1, len(weight)), **_nothing(layer))
        except (TypeError, ValueError, AttributeError):
            continue
        return pair
    refuse(layer, f"{parts.attention[0]} or {parts.mlp[0]} that hands on more than its output")


def reach(layer: Layer, which: Which) -> tuple[Tensor, bool]:
    """What the outputs of a dense layer are multiplied by on their way to the stream (d,), and whether a norm is there.

    Raises InputError for another way than those two.
    """
    weight = layer.get_submodule(".".join(getattr(Parts.of(layer), which))).weight.detach()
    ones = torch.ones_like(weight[:, 0])
    signs = ones.clone()
    signs[1::2] = -1.0

    def added(value: Tensor) -> Tensor:
        parts = {step: Adds(value) if step == which else Adds() for step in STEPS}
        with torch.no_grad():
            return through(layer, weight.new_zeros(1, 1, len(weight)), **parts)[0, 0]

    once, twice = added(LARGE * ones), added(2 * LARGE * ones)
    normed = close(twice, once)
    if not (normed or close(twice, 2 * once)) or not close(added(LARGE * signs), once * signs) or not once.any():
        refuse(layer, f"another way from its {which} to the stream than a number or an RMS norm")
    return (once if normed else once / LARGE), normed


def close(some: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same within TOLERANCE, relative to the second."""
    tolerance = max(TOLERANCE, 4 * torch.finfo(some.dtype).eps)
    return bool((some - other).norm() <= tolerance * other.norm())


@torch.no_grad()
def check(layer: Layer, hidden: Tensor, rope: Rope) -> None:
    """Raises InputError unless the layer is its two steps, and each as we take it to be, on states (1, L, d).

    The steps are composed and held against the layer's own output; what each adds is what its dense layer says, in a
    way that `reach` knows; and where all that produces some blocks of its inputs is silent, just those are zero.
    """
    parts, arguments = Parts.of(layer), rope.arguments[number(layer)]
    kind = (type(layer), *(type(layer.get_submodule(getattr(parts, which)[0])) for which in STEPS))
    if kind in rope.checked:
        return
    with refusing("a layer that can be run by itself", type(layer).__name__, "choose another model"):
        whole, stream = through(layer, hidden, arguments), hidden
    for which, given in zip(STEPS, (arguments, None), strict=True):
        name, dense = getattr(parts, which)
        before, (stream, x) = stream, run(layer, which, stream, given)
        part = layer.get_submodule(name)
        out = part.get_submodule(dense)(x)
        if not close(through(layer, before, **{step: Adds(out if step == which else 0.0) for step in STEPS}), stream):
            refuse(layer, f"a {name} whose {dense} is not what the stream gets")
        reach(layer, which)
        if which == "attention" and (not grouped(part) or spans_heads(part)):
            continue
        rows = producers(part, which, dense)
        size = x.shape[-1] // len(next(iter(rows.values())))
        silent = torch.arange(x.shape[-1], device=x.device) // size % 2 == 1
        with _muted(part, {linear: blocks[1::2] for linear, blocks in rows.items()}):
            _, less = run(layer, which, before, given)
        if less[..., silent].any() or not close(less[..., ~silent], x[..., ~silent]):
            refuse(layer, f"a {name} where an input of {dense} is made by other rows than its own")
    if not close(stream, whole):
        side_by_side = run(layer, "attention", hidden, arguments)[0] + run(layer, "mlp", hidden)[0] - hidden
        refuse(layer, "attention and MLP in parallel" if close(side_by_side, whole) else "more than these two")
    rope.checked.add(kind)


def rms(values: Tensor) -> Tensor:
    """Root of the mean square over the stream: (..., d) -> (..., 1)."""
    return values.float().square().mean(-1, keepdim=True).sqrt().to(values)


@contextmanager
def _muted(part: nn.Module, rows: dict[str, Tensor]) -> Iterator[None]:
    """Some outputs of the linears of a part are zero for a while: name -> which."""

    def hook(index: Tensor) -> Any:
        return lambda module, args, out: out.index_fill(-1, index.flatten().to(out.device), 0.0)

    hooks = [part.get_submodule(name).register_forward_hook(hook(index)) for name, index in rows.items()]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()
