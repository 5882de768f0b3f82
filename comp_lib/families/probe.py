"""Probing a decoder layer: is it the two steps that we take it for, and how does each reach the residual
stream?

A layer is asked by its own forward, in which one of its parts puts out a value that we choose.
"""

from __future__ import annotations

import inspect
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..errors import refusing
from .find import Part, parts, refuse, with_parts
from .protocol import Layer, Step

SMALL_GAIN = (
    0.05  # of the mean: an output that is multiplied by less adds too little to tell what it should have been
)
TOLERANCE = 1e-4  # of a recomputed output in float32; of a narrower type what it can tell apart
LARGE_INPUT = (
    1024.0  # beside which the epsilon of a norm is nothing, and by which numbers divide without rounding
)
SILENT: dict[str, Tensor | float] = {"attention": 0.0, "mlp": 0.0}
Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""What a layer is called with beside the hidden states, by position and by name."""


def run_layer(
    layer: Layer, hidden: Tensor, arguments: Arguments | None, **outputs: Tensor | float
) -> tuple[Tensor, list[Tensor]]:
    """The layer's own forward, where `attention` or `mlp` puts out a given value for each token.

    Returns the states behind the layer (B, L, d), and what the dense layers of the parts that ran got (B, L,
    n). Where attention is given the layer needs no arguments.
    """
    layer_parts: dict[Any, Part] = parts(layer)
    stand_ins = dict[str, Any]()
    for step, value in outputs.items():
        part = layer_parts[step]
        stand_ins[part.name] = with_parts(part.module)
        stand_ins[part.name].forward = partial(_answer, part.name, value)
    args, kwargs = arguments or ((), _no_arguments(layer))
    inputs = list[Tensor]()
    with ExitStack() as hooks:
        for part in layer_parts.values():
            hook = part.linear.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
            hooks.enter_context(hook)
        out = with_parts(layer, **stand_ins).forward(hidden, *args, **kwargs)
    states: Tensor = out[0] if isinstance(out, tuple) else out
    return states, inputs


def _no_arguments(layer: Layer) -> dict[str, None]:
    """None for each argument that the layer's forward insists on, beside the hidden states."""
    parameters = inspect.signature(layer.forward).parameters.values()
    required = [parameter for parameter in parameters if parameter.default is parameter.empty]
    return {
        parameter.name: None
        for parameter in required[1:]
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    }


def _answer(name: str, value: Tensor | float, *args: Any, **kwargs: Any) -> Any:
    """What the part of that name returns where it puts out `value` for each token."""
    states = next(argument for argument in (*args, *kwargs.values()) if isinstance(argument, Tensor))
    out = torch.zeros_like(states) + value
    return (out, None) if name == "self_attn" else out  # others return no weights of attention


def answered(layer: Layer, step: Step, stream: Tensor, x: Tensor) -> Tensor:
    """The stream (B, L, d) behind a step whose dense layer gets x (B, L, n), while the other part adds
    nothing.
    """
    output: Tensor = parts(layer)[step].linear(x)
    return run_layer(layer, stream, None, **SILENT | {step: output})[0]


@torch.no_grad()
def reach(layer: Layer, step: Step) -> tuple[Tensor, bool]:
    """What the outputs of a dense layer are multiplied by on their way to the stream (d,), and whether a norm
    is there.

    Raises InputError for another way than those two.
    """
    weight = parts(layer)[step].linear.weight
    ones = torch.ones_like(weight[:, 0])
    signs = torch.where(torch.arange(len(ones), device=ones.device) % 2 == 0, ones, -ones)
    outputs = SILENT | {step: torch.stack([LARGE_INPUT * ones, 2 * LARGE_INPUT * ones, signs])}
    states, _ = run_layer(layer, weight.new_zeros(1, 3, len(weight)), None, **outputs)
    once, twice, signed = states[0]
    normed = close(twice, once)
    scale = once if normed else once / LARGE_INPUT
    linear = normed or close(twice, 2 * once)
    if not linear or not close(signed, scale * signs) or not once.any():
        refuse(layer, f"another way from its {step} to the stream than a number or an RMS norm")
    return scale, normed


def dense_target(layer: Layer, step: Step, change: Tensor, x: Tensor) -> Tensor:
    """What the dense layer should put out, its bias aside, so that the step adds `change` (..., d) to the
    stream.

    x (..., n): its inputs. A norm y -> g y / |y| forgets how large y is. So of a change r that is to be added only
    the direction r / g can be met, and any y along it does so. The target is as large as the layer's own output:
    y* = |y| r / g. Where nothing is missing, r = g y / |y|, and y* is y. (Our derivation.)
    """
    linear = parts(layer)[step].linear
    scale, normed = reach(layer, step)
    if normed:
        output: Tensor = linear(x)
        size = output.float().square().mean(-1, keepdim=True).sqrt().to(output)
        small = scale.abs() < SMALL_GAIN * scale.abs().mean()
        divisor = torch.where(small, torch.ones_like(scale), scale)
        target = torch.where(small, output, change * size / divisor)
    else:
        target = change / scale
    return target if linear.bias is None else target - linear.bias


def gain_behind(layer: Layer, step: Step) -> Tensor | None:
    """What the outputs of the dense layer are multiplied by on their way to the stream, (d,), rms 1.

    None: all by the same. Behind a norm an error e of the output adds g e / |y| to the stream, to first order
    and but for what lies along y. In the first layer of Gemma 3 270M g goes from 0.2 to 150. So who goes, and
    how hard the others are held, is judged on outputs times g; the refit of each output by itself stays what
    it is. (Our derivation, tested against brute force.)
    """
    scale, normed = reach(layer, step)
    gain = scale.float().abs()
    even = bool((gain == gain[0]).all())
    return None if even and not normed else gain / gain.square().mean().sqrt()


def close(values: Tensor, reference: Tensor) -> bool:
    """Whether two tensors are the same within TOLERANCE, relative to the second."""
    tolerance = max(TOLERANCE, 4 * torch.finfo(values.dtype).eps)
    return bool((values - reference).norm() <= tolerance * reference.norm())


@torch.no_grad()
def check(layer: Layer, hidden: Tensor, arguments: Arguments) -> None:
    """Raises InputError unless the layer is its two steps, and each as we take it to be, on states (1, L, d).

    The steps are composed and held against the layer's own output; what each adds is what its dense layer
    says, in a way that `reach` knows; and where all that produces some blocks of its inputs is silent, just
    those are zero.
    """
    attention = partial(run_layer, layer, arguments=arguments, mlp=0.0)
    mlp = partial(run_layer, layer, arguments=None, attention=0.0)
    with refusing("a layer that can be run by itself", type(layer).__name__, "choose another model"):
        full_output, _ = run_layer(layer, hidden, arguments)
        stream = _check_step(layer, "attention", attention, hidden)
        stream = _check_step(layer, "mlp", mlp, stream)
        if not close(stream, full_output):
            side_by_side = attention(hidden)[0] + mlp(hidden)[0] - hidden
            parallel = close(side_by_side, full_output)
            refuse(layer, "attention and MLP in parallel" if parallel else "more than these two")


def _check_step(layer: Layer, step: Step, run_part: Any, before: Tensor) -> Tensor:
    """The stream (1, L, d) behind one step; `run_part` runs it alone. Raises InputError as `check` does."""
    part = parts(layer)[step]
    after: Tensor
    after, (x, *_) = run_part(before)
    reach(layer, step)
    if not close(answered(layer, step, before, x), after):
        refuse(layer, f"a {part.name} whose {part.linear_name} is not what the stream gets")
    if part.separable:
        silenced = _inputs_without_odd_blocks(part, run_part, before)
        odd = torch.arange(x.shape[-1], device=x.device) // part.block % 2 == 1
        if not close(silenced, x.masked_fill(odd, 0.0)):
            refuse(
                layer,
                f"a {part.name} where an input of {part.linear_name} is made by other rows than its own",
            )
    return after


def _inputs_without_odd_blocks(part: Part, run_part: Any, before: Tensor) -> Tensor:
    """Inputs of the dense layer (1, L, n) where all that produces every other block of them is silent."""

    def silence(rows: Tensor, module: Any, args: Any, output: Tensor) -> Tensor:
        return output.index_fill(-1, rows, 0.0)

    with ExitStack() as hooks:
        for name, rows in part.rows.items():
            odd_rows = rows[1::2].flatten().to(before.device)
            linear = getattr(part.module, name)
            hooks.enter_context(linear.register_forward_hook(partial(silence, odd_rows)))
        _, (inputs, *_) = run_part(before)
    silenced: Tensor = inputs
    return silenced
