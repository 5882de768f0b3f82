"""The two steps of a layer, each of them the layer's own forward while the other part adds nothing; and the way to the
stream behind each dense layer, found by putting numbers in.

    y -> c y        added as it is, or times a number (Granite), or a number for each place of the stream
    y -> g y / |y|  through a norm (Gemma 2 and 3, OLMo 2 and 3, ...), |y| the root of the mean square over the stream

That a layer is no more than that is not believed but checked, once for each kind of layer and text.
"""

from __future__ import annotations

import inspect
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import refusing
from .frame import number, with_parts
from .protocol import STEPS, Arguments, Layer, Rope, Which
from .structure import Part, parts, refuse

Values = dict[Which, Tensor | float]
"""What stands in for parts of a layer puts out."""
SILENT: Values = {"attention": 0.0, "mlp": 0.0}
WEAK = 0.05  # of the mean: an output that is multiplied by less adds too little to say what it should have been
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


def through(layer: Layer, hidden: Tensor, arguments: Arguments | None, values: Values) -> Tensor:
    """The layer's own forward, where its `attention` or `mlp` puts out a value; without attention, no arguments."""
    own = parts(layer)
    needed = [value for value in inspect.signature(layer.forward).parameters.values() if value.default is value.empty]
    nothing = {value.name: None for value in needed[1:] if value.kind is value.POSITIONAL_OR_KEYWORD}
    args, kwargs = arguments or ((), nothing)
    others = {own[which].name: Adds(value, own[which].name == "self_attn") for which, value in values.items()}
    out = with_parts(layer, **others).forward(hidden, *args, **kwargs)
    states: Tensor = out[0] if isinstance(out, tuple) else out
    return states


def run(layer: Layer, which: Which, hidden: Tensor, arguments: Arguments | None = None) -> tuple[Tensor, Tensor]:
    """One step of a layer: the stream behind it, and the inputs of its dense layer."""
    inputs: list[Tensor] = []
    with parts(layer)[which].linear.register_forward_pre_hook(lambda module, args: inputs.append(args[0])):
        out = through(layer, hidden, arguments, {step: 0.0 for step in STEPS if step != which})
    return out, inputs[0]


def attention_step(layer: Layer, hidden: Tensor, rope: Rope) -> tuple[Tensor, Tensor]:
    """First residual step: h (B, L, d) -> r (B, L, d), and X_o, the inputs of the dense layer (B, L, n).

    Raises InputError for a layer that is not two steps, which the first text through each kind of layer shows.
    """
    check(layer, hidden[:1], rope)
    return run(layer, "attention", hidden, rope.arguments[number(layer)])


def mlp_step(layer: Layer, residual: Tensor) -> tuple[Tensor, Tensor]:
    """Second residual step: r (B, L, d) -> h' (B, L, d), and X (B, L, n)."""
    return run(layer, "mlp", residual)


@torch.no_grad()
def reach(layer: Layer, which: Which) -> tuple[Tensor, bool]:
    """What the outputs of a dense layer are multiplied by on their way to the stream (d,), and whether a norm is there.

    Raises InputError for another way than those two.
    """
    weight = parts(layer)[which].linear.weight
    ones = torch.ones_like(weight[:, 0])
    signs = torch.where(torch.arange(len(ones), device=ones.device) % 2 == 0, ones, -ones)

    def added(value: Tensor) -> Tensor:
        return through(layer, weight.new_zeros(1, 1, len(weight)), None, SILENT | {which: value})[0, 0]

    once, twice = added(LARGE * ones), added(2 * LARGE * ones)
    normed = close(twice, once)
    scale = once if normed else once / LARGE
    if not (normed or close(twice, 2 * once)) or not close(added(signs), scale * signs) or not once.any():
        refuse(layer, f"another way from its {which} to the stream than a number or an RMS norm")
    return scale, normed


def dense_target(layer: Layer, which: Which, change: Tensor, x: Tensor) -> Tensor:
    """What the dense layer should put out, its bias aside, so that the step adds `change` (..., d) to the stream.

    x (..., n): its inputs. A norm y -> g y / |y| forgets how large y is. So of a change r that is to be added only
    the direction r / g can be met, and any y along it does so. The target is as large as the layer's own output:
    y* = |y| r / g. Where nothing is missing, r = g y / |y|, and y* is y. (Our derivation.)
    """
    dense = parts(layer)[which].linear
    scale, normed = reach(layer, which)
    if normed:
        own: Tensor = dense(x)
        size = own.float().square().mean(-1, keepdim=True).sqrt().to(own)
        weak = scale.abs() < WEAK * scale.abs().mean()
        wanted = torch.where(weak, own, change * size / torch.where(weak, torch.ones_like(scale), scale))
    else:
        wanted = change / scale
    return wanted if dense.bias is None else wanted - dense.bias


def gain_behind(layer: Layer, which: Which) -> Tensor | None:
    """What the outputs of the dense layer are multiplied by on their way to the stream, (d,), rms 1.

    None: all by the same. Behind a norm an error e of the output adds g e / |y| to the stream, to first order and
    but for what lies along y. In the first layer of Gemma 3 270M g goes from 0.2 to 150. So who goes, and how hard
    the others are held, is judged on outputs times g; the refit of each output by itself stays what it is. (Our
    derivation, tested against brute force.)
    """
    scale, normed = reach(layer, which)
    gain = scale.float().abs()
    return gain / gain.square().mean().sqrt() if normed or bool((gain != gain[0]).any()) else None


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
    own, arguments = parts(layer), rope.arguments[number(layer)]
    kind = (type(layer), *(type(part.module) for part in own.values()))
    if kind in rope.checked:
        return
    with refusing("a layer that can be run by itself", type(layer).__name__, "choose another model"):
        whole, stream = through(layer, hidden, arguments, {}), hidden
    for (which, part), given in zip(own.items(), (arguments, None), strict=True):
        before, (stream, x) = stream, run(layer, which, stream, given)
        reach(layer, which)
        if not close(through(layer, before, None, SILENT | {which: part.linear(x)}), stream):
            refuse(layer, f"a {part.name} whose {part.dense} is not what the stream gets")
        if which == "mlp" or part.grouped and not part.spans_heads:
            _check_rows(layer, which, part, x, before, given)
    if not close(stream, whole):
        side_by_side = run(layer, "attention", hidden, arguments)[0] + run(layer, "mlp", hidden)[0] - hidden
        refuse(layer, "attention and MLP in parallel" if close(side_by_side, whole) else "more than these two")
    rope.checked.add(kind)


def _check_rows(layer: Layer, which: Which, part: Part, x: Tensor, before: Tensor, given: Arguments | None) -> None:
    """Raises InputError unless each block of the inputs of a dense layer is made by the rows that `Part.rows` says."""
    with ExitStack() as stack:
        for name, rows in part.rows.items():
            odd = rows[1::2].flatten().to(x.device)
            hook = getattr(part.module, name).register_forward_hook(
                lambda module, args, y, odd=odd: y.index_fill(-1, odd, 0.0)
            )
            stack.callback(hook.remove)
        _, less = run(layer, which, before, given)
    silent = torch.arange(x.shape[-1], device=x.device) // (x.shape[-1] // len(rows)) % 2 == 1
    if less[..., silent].any() or not close(less[..., ~silent], x[..., ~silent]):
        refuse(layer, f"a {part.name} where an input of {part.dense} is made by other rows than its own")
