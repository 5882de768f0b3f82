"""Probes of a decoder layer: is it two steps, and how does each of them reach the residual stream?

The layer's own forward runs, while one of its parts puts out a value that we choose.
"""

from __future__ import annotations

import inspect
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..utils.errors import refusing
from .structure import Part, parts, refuse, with_children
from .types import Layer, Step

# Share of the mean gain. The stream does not tell what an output with a smaller gain should have been.
SMALL_GAIN = 0.05
# Relative error of an output in float32 that is computed again. A narrower dtype gets what it can resolve.
TOLERANCE = 1e-4
# The epsilon of a norm does not count beside this number. Division by a power of 2 does not round.
LARGE_INPUT = 1024.0
SILENCE: dict[str, Tensor | float] = {"attention": 0.0, "mlp": 0.0}  # no step adds anything
CallArguments = tuple[tuple[Any, ...], dict[str, Any]]
"""The arguments of a layer's call beside the hidden states: positional ones, and keyword ones."""


def run_layer(
    layer: Layer, hidden: Tensor, call: CallArguments | None, **outputs: Tensor | float
) -> tuple[Tensor, list[Tensor]]:
    """Run the layer's own forward, in which `attention` or `mlp` may put out a given value for each token.

    Returns the states after the layer (B, L, d), and the inputs (B, L, n) of the output linears of the parts
    that ran.

    Args:
        call: what the model hands the layer; None: nothing, where the output of attention is given.
        outputs: "attention" or "mlp" -> what it puts out instead of running.
    """
    layer_parts: dict[Any, Part] = parts(layer)
    stand_ins = dict[str, Any]()
    for step, value in outputs.items():
        part = layer_parts[step]
        stand_in = with_children(part.module)
        stand_in.forward = partial(_answer, part.name, value)
        stand_ins[part.name] = stand_in
    args, kwargs = call or ((), _no_arguments(layer))
    inputs = list[Tensor]()
    with ExitStack() as hooks:
        for part in layer_parts.values():
            hook = part.output_linear.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
            hooks.enter_context(hook)
        out = with_children(layer, **stand_ins).forward(hidden, *args, **kwargs)
    states: Tensor = out[0] if isinstance(out, tuple) else out
    return states, inputs


def _no_arguments(layer: Layer) -> dict[str, None]:
    """Keyword arguments for a forward that needs none of them: each required one is None.

    The hidden states are not among them.
    """
    parameters = inspect.signature(layer.forward).parameters.values()
    required = [parameter for parameter in parameters if parameter.default is parameter.empty]
    return {
        parameter.name: None
        for parameter in required[1:]
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    }


def _answer(name: str, value: Tensor | float, *args: Any, **kwargs: Any) -> Any:
    """The return value of the part of that name, where it puts out `value` for each token."""
    states = next(argument for argument in (*args, *kwargs.values()) if isinstance(argument, Tensor))
    out = torch.zeros_like(states) + value
    if name == "self_attn":
        return out, None  # in place of the attention weights
    return out


def stream_after(layer: Layer, step: Step, stream: Tensor, x: Tensor) -> Tensor:
    """The stream (B, L, d) after a step whose output linear gets x (B, L, n).

    The other part of the layer adds nothing.
    """
    output: Tensor = parts(layer)[step].output_linear(x)
    return run_layer(layer, stream, None, **SILENCE | {step: output})[0]


@dataclass(frozen=True)
class OutputPath:
    """The way of an output linear to the stream: each output is multiplied, and perhaps a norm is passed."""

    linear: nn.Linear
    """The output linear."""
    scale: Tensor
    """Factor of each output (d,)."""
    normed: bool
    """Whether an RMS norm is on the way."""

    @classmethod
    @torch.no_grad()
    def of(cls, layer: Layer, step: Step) -> OutputPath:
        """Find the way by a probe: three tokens, for which the output linear puts out given values.

        The first has a large value in all outputs. The second has twice that value, which a norm forgets and
        a factor doubles. The third has other signs: where outputs are mixed, it is no product of signs and
        factors.

        Raises InputError where the outputs reach the stream in another way.
        """
        linear = parts(layer)[step].output_linear
        ones = torch.ones_like(linear.weight[:, 0])
        signs = torch.where(torch.arange(len(ones), device=ones.device) % 2 == 0, ones, -ones)
        outputs = SILENCE | {step: torch.stack([LARGE_INPUT * ones, 2 * LARGE_INPUT * ones, signs])}
        states, _ = run_layer(layer, linear.weight.new_zeros(1, 3, len(ones)), None, **outputs)
        single, double, signed = states[0]
        normed = nearly_equal(double, single)
        scale = single if normed else single / LARGE_INPUT
        proportional = normed or nearly_equal(double, 2 * single)
        if not proportional or not nearly_equal(signed, scale * signs) or not single.any():
            refuse(layer, f"another way from its {step} to the stream than a number or an RMS norm")
        return cls(linear, scale, normed)

    def target(self, change: Tensor, x: Tensor) -> Tensor:
        """The output, without its bias, by which the output linear adds `change` (..., d) to the stream.

        A norm y -> g y / |y| forgets how large y is. So of a change r that is to be added only the direction
        r / g can be met, and any y along it does so. The target is as large as the layer's own output:
        y* = |y| r / g. Where nothing is missing, r = g y / |y|, and y* is y. (Our derivation.)

        An output that does not reach the stream, or hardly, keeps the value that it has.

        x (..., n): inputs of the output linear.
        """
        if self.normed:
            output: Tensor = self.linear(x)
            size = output.float().square().mean(-1, keepdim=True).sqrt().to(output)
            small = self.scale.abs() < SMALL_GAIN * self.scale.abs().mean()
            divisor = torch.where(small, torch.ones_like(self.scale), self.scale)
            target = torch.where(small, output, change * size / divisor)
        else:
            target = change / self.scale
            unheard = self.scale == 0.0
            if unheard.any():
                target = torch.where(unheard, self.linear(x), target)
        if self.linear.bias is not None:
            target = target - self.linear.bias
        return target

    @property
    def gain(self) -> Tensor | None:
        """The gain g (d,) of each output of the linear on its way to the stream, with rms 1.

        It is None where all outputs have the same gain and no norm is on the way.

        After a norm an error e of the output y adds g e / |y| to the stream. That holds to first order, and
        not for the part of e along y. In the first layer of Gemma 3 270M g goes from 0.2 to 150. So outputs
        times g decide which blocks go, and how hard the others are held. The refit of each output by itself
        stays what it is. (Our derivation, tested against brute force.)
        """
        gain = self.scale.float().abs()
        even = bool((gain == gain[0]).all())
        if even and not self.normed:
            return None
        return gain / gain.square().mean().sqrt()


def nearly_equal(values: Tensor, reference: Tensor) -> bool:
    """Whether two tensors are the same within TOLERANCE, relative to the second."""
    tolerance = max(TOLERANCE, 4 * torch.finfo(values.dtype).eps)
    return bool((values - reference).norm() <= tolerance * reference.norm())


@torch.no_grad()
def check_two_steps(layer: Layer, hidden: Tensor, call: CallArguments) -> None:
    """Check on `hidden` (1, L, d) that the layer is its two steps, and that each is as we expect.

    Four things are checked:

    - the layer puts out finite numbers;
    - the two steps, one after the other, give the layer's own output;
    - a step adds what its output linear puts out, in a way that `OutputPath` knows;
    - where all rows that produce some blocks of the output linear's inputs are silent, just these inputs are
      0.

    Raises InputError for a layer that fails a check.
    """
    attention = partial(run_layer, layer, call=call, mlp=0.0)
    mlp = partial(run_layer, layer, call=None, attention=0.0)
    with refusing("a layer that can be run by itself", type(layer).__name__, "choose another model"):
        full_output, _ = run_layer(layer, hidden, call)
        if not full_output.isfinite().all():
            refuse(layer, "outputs that are NaN or infinite")
        stream = _check_step(layer, "attention", attention, hidden)
        stream = _check_step(layer, "mlp", mlp, stream)
    if not nearly_equal(stream, full_output):
        side_by_side = attention(hidden)[0] + mlp(hidden)[0] - hidden
        parallel = nearly_equal(side_by_side, full_output)
        structure = "attention and MLP in parallel" if parallel else "more than these two"
        refuse(layer, structure)


def _check_step(layer: Layer, step: Step, run_part: Any, before: Tensor) -> Tensor:
    """The stream (1, L, d) after one step, which `run_part` runs alone.

    Raises InputError as `check_two_steps` does.
    """
    part = parts(layer)[step]
    after: Tensor
    after, (x, *_) = run_part(before)
    OutputPath.of(layer, step)
    if not nearly_equal(stream_after(layer, step, before, x), after):
        refuse(layer, f"a {part.name} whose {part.output_name} is not what the stream gets")
    if part.separable:
        silenced = _inputs_without_odd_blocks(part, run_part, before)
        odd = torch.arange(x.shape[-1], device=x.device) // part.block_size % 2 == 1
        if not nearly_equal(silenced, x.masked_fill(odd, 0.0)):
            refuse(
                layer,
                f"a {part.name} where an input of {part.output_name} is made by other rows than its own",
            )
    return after


def _inputs_without_odd_blocks(part: Part, run_part: Any, before: Tensor) -> Tensor:
    """Inputs of the output linear (1, L, n) where all rows that produce odd blocks of them are silent."""

    def silence(rows: Tensor, module: Any, args: Any, output: Tensor) -> Tensor:
        return output.index_fill(-1, rows, 0.0)

    with ExitStack() as hooks:
        for name, rows in part.producer_rows.items():
            odd_rows = rows[1::2].flatten().to(before.device)
            linear = getattr(part.module, name)
            hooks.enter_context(linear.register_forward_hook(partial(silence, odd_rows)))
        _, (inputs, *_) = run_part(before)
    silenced: Tensor = inputs
    return silenced
