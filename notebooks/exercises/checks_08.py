"""Checks for the exercises of lesson 8: rounding, a plan for two budgets, the layer that 4 bits hurt most.

The first two compute on small numbers; the third rounds each layer of the real model in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from course.checking import Wrong, accept, call, check_shape, real_model

# Of SmolLM2-135M in 16 bits: what a plan changes, and what it leaves (see the exercise).
LAYERS = 30
NEURONS = 1536  # of a layer
BLOCK = 32  # weights that are stored with one scale
MB_NEURON = 3 * 576 * 2 / 1e6
MB_ATTENTION = 884_736 * 2 / 1e6
MB_HEAD = 49_152 * 576 * 2 / 1e6
MS_REST = 1.1
MS_LAYER = 0.066
MS_MEGABYTE = 0.0334
LENGTH = 48  # tokens on which a layer's rounding is judged


def check_rounding(q4_1: Callable[[Tensor], Tensor]) -> None:
    """Exercise 1."""
    generator = torch.Generator().manual_seed(3)
    sizes = torch.logspace(-2, 1, 6)[:, None]
    weights = torch.randn(6, 64, generator=generator) * sizes + 4.0  # where halves are coarse
    weights[0, :32] = 0.25  # a block of one value
    answer = call(q4_1, weights.clone())
    check_shape("the weights", answer, (6, 64))
    right = _q4_1(weights)
    if _same(answer, right, weights):
        accept("16 values between the smallest and the largest of each block of 32: 5 bits a weight in all")
        return
    if not torch.isfinite(answer).all():
        raise Wrong(
            "NaN or infinity: a block whose weights are all equal has the scale 0, and nothing to divide by"
        )
    if torch.equal(answer, weights):
        raise Wrong("nothing is rounded yet")
    mistakes = {
        "one scale for the whole tensor: each block of 32 has its own": _q4_1(weights, block=weights.numel()),
        "one scale for each row: a block is 32 weights of it": _q4_1(weights, block=64),
        "16 steps from the smallest to the largest, so 17 values: 4 bits hold 16, so 15 steps": (
            _q4_1(weights, steps=16)
        ),
        "the grid begins at 0, not at the smallest weight: take it off before, and add it after": (
            _from_zero(weights)
        ),
        "rounded down: to the nearest value of the grid, please": _q4_1(weights, to_integers=torch.floor),
        "rounded with the halves: find whole numbers with the exact scale, the halves are only stored": (
            _q4_1(weights, halves_first=True)
        ),
        "scale and smallest weight are still 32 bits: the file holds them as halves": (
            _q4_1(weights, stored_as_half=False)
        ),
    }
    for sentence, mistake in mistakes.items():
        if _same(answer, mistake, weights):
            raise Wrong(sentence)
    largest_error = float((answer - right).abs().max())
    raise Wrong(
        f"off by up to {largest_error:.2g}: smallest + scale * whole number from 0 to 15, "
        "scale = (largest - smallest) / 15"
    )


def check_plan(plan_for: Callable[[float, float], tuple[int, int]]) -> None:
    """Exercise 2."""
    for megabytes, milliseconds in ((200.0, 9.0), (230.0, 7.0), (150.0, 20.0), (269.0, 11.0), (120.0, 4.5)):
        plan = call(plan_for, megabytes, milliseconds)
        if not isinstance(plan, tuple | list) or len(plan) != 2:
            raise Wrong("expected two whole numbers, (layers that stay, neurons in each)")
        layers, neurons = map(int, plan)
        budgets = f"for {megabytes:g} MB and {milliseconds:g} ms"
        if not (1 <= layers <= LAYERS and BLOCK <= neurons <= NEURONS):
            raise Wrong(
                f"{budgets}: {layers} layers of {neurons} neurons are not a part of {LAYERS} of {NEURONS}"
            )
        if neurons % BLOCK:
            raise Wrong(
                f"{budgets}: {neurons} neurons are no multiple of {BLOCK}, and no block type can store them"
            )
        size = size_of(layers, neurons)
        time = time_of(layers, neurons)
        if size > megabytes * (1 + 1e-9):
            remark = ", too many"
            if size - MB_HEAD <= megabytes:
                remark = ": did you count the head, which stays?"
            raise Wrong(f"{budgets}: {layers} layers of {neurons} neurons are {size:.1f} MB{remark}")
        if time > milliseconds * (1 + 1e-9):
            raise Wrong(f"{budgets}: {layers} layers of {neurons} neurons take {time:.2f} ms, too long")
        best_count = _most_neurons(megabytes, milliseconds)
        if layers * neurons < best_count:
            raise Wrong(
                f"{budgets}: your plan keeps {layers * neurons:,} neurons in all, but one that keeps "
                f"{best_count:,} meets both budgets: try every number of layers with its widest width"
            )
    accept("within both budgets, no plan keeps more neurons")


def _most_neurons(megabytes: float, milliseconds: float) -> int:
    """The neurons, in all layers, of the plan that keeps most of them within both budgets."""
    counts = []
    for layers in range(1, LAYERS + 1):
        for neurons in range(BLOCK, NEURONS + 1, BLOCK):
            if size_of(layers, neurons) <= megabytes and time_of(layers, neurons) <= milliseconds:
                counts.append(layers * neurons)
    return max(counts)


def check_worst_layer(worst_layer: Callable[[Any, Tensor, Callable[[Tensor], Tensor]], int]) -> None:
    """Exercise 3, on the real model: some ten seconds."""
    model, tokens = loaded()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    try:
        answer = call(worst_layer, model, tokens, q4_0)
        changed = any(
            not torch.equal(parameter, old) for parameter, old in zip(model.parameters(), before, strict=True)
        )
    finally:
        with torch.no_grad():
            for parameter, old in zip(model.parameters(), before, strict=True):
                parameter.copy_(old)
    layers = len(model.model.layers)
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < layers:
        raise Wrong(f"expected the number of a layer, 0 to {layers - 1}, got {answer!r}")
    if changed:
        raise Wrong(
            "the model is not what it was: put each layer's weights back before you round the next layer's"
        )
    losses = losses_when_rounded(model, tokens)
    worst = max(range(layers), key=losses.__getitem__)
    loss = losses[answer]
    if loss < losses[worst] - 1e-4:
        if answer == min(range(layers), key=losses.__getitem__):
            raise Wrong(f"layer {answer} is the one that 4 bits hurt *least*")
        errors = _weight_errors(model)
        if answer == layers - 1 or answer == max(range(layers), key=errors.__getitem__):
            raise Wrong(
                f"layer {answer} is not it, its loss is {loss:.4f} and another's {losses[worst]:.4f}: round "
                "one layer at a time, and ask for the loss, not for the error of the weights"
            )
        raise Wrong(
            f"with layer {answer} rounded the loss is {loss:.4f}, with another one {losses[worst]:.4f}"
        )
    accept(
        f"layer {answer}: with its matrices in 4 bits the loss is {loss:.3f} nats per token "
        "on these 48 tokens"
    )


def size_of(layers: int, neurons: int) -> float:
    """Megabytes read for a token."""
    return MB_HEAD + layers * (MB_ATTENTION + neurons * MB_NEURON)


def time_of(layers: int, neurons: int) -> float:
    """Milliseconds of a token, by the three terms of the lesson."""
    return MS_REST + layers * MS_LAYER + (size_of(layers, neurons) - MB_HEAD) * MS_MEGABYTE


def q4_0(weights: Tensor) -> Tensor:
    """The weights after rounding to q4_0, as in the lesson."""
    blocks = weights.reshape(-1, 32)
    scale = blocks.gather(1, blocks.abs().argmax(1, keepdim=True)) / -8
    integers = torch.where(scale != 0, blocks / scale, 0.0).round().clamp(-8, 7)
    return (integers * scale.half().float()).reshape(weights.shape)


@cache
def loaded() -> tuple[Any, Tensor]:
    """The real model, and the tokens that judge (1, LENGTH)."""
    from comp_lib.calibration.texts import load_text

    model, tokenizer = real_model()
    tokens = tokenizer(load_text("evaluation")[:2000])["input_ids"]
    return model, torch.tensor([tokens[:LENGTH]])


@torch.no_grad()
def losses_when_rounded(model: Any, tokens: Tensor) -> list[float]:
    """The loss when the matrices of each layer in turn are rounded; the layers before it run once."""
    from comp_lib.decoder.run import embed, layer_arguments
    from comp_lib.decoder.walk import sequence_losses
    from course.dense_stream import through_layers

    losses = []
    hidden = embed(model, tokens)
    arguments = layer_arguments(model, tokens.shape[1], hidden.device, hidden.dtype)
    for number, layer in enumerate(model.model.layers):
        matrices = [parameter for parameter in layer.parameters() if parameter.ndim == 2]
        before = [matrix.clone() for matrix in matrices]
        for matrix in matrices:
            matrix.copy_(q4_0(matrix))
        final = through_layers(model, hidden, arguments, slice(number, None))
        losses.append(float(sequence_losses(model, final, tokens).mean()))
        for matrix, old in zip(matrices, before, strict=True):
            matrix.copy_(old)
        hidden = through_layers(model, hidden, arguments, slice(number, number + 1))
    return losses


@torch.no_grad()
def _weight_errors(model: Any) -> list[float]:
    """The squared error that q4_0 makes in the matrices of each layer."""
    errors = []
    for layer in model.model.layers:
        matrices = [parameter for parameter in layer.parameters() if parameter.ndim == 2]
        errors.append(sum(float((q4_0(matrix) - matrix).square().sum()) for matrix in matrices))
    return errors


def _q4_1(
    weights: Tensor,
    steps: int = 15,
    block: int = 32,
    to_integers: Callable[[Tensor], Tensor] = torch.round,
    stored_as_half: bool = True,
    halves_first: bool = False,
) -> Tensor:
    """The right rounding, unless an argument makes it wrong.

    Without `stored_as_half` the weights are made from the exact scale and smallest weight; with
    `halves_first` the integers are found with those in float16.
    """
    blocks = weights.reshape(-1, block)
    low = blocks.amin(1, keepdim=True)
    scale = (blocks.amax(1, keepdim=True) - low) / steps
    half_low = low.half().float()
    half_scale = scale.half().float()
    if halves_first:
        low = half_low
        scale = half_scale
    integers = to_integers(torch.where(scale > 0, (blocks - low) / scale, 0.0)).clamp(0, steps)
    if stored_as_half:
        low = half_low
        scale = half_scale
    return (low + scale * integers).reshape(weights.shape)


def _from_zero(weights: Tensor) -> Tensor:
    """The rounding by a grid that begins at 0."""
    blocks = weights.reshape(-1, 32)
    scale = blocks.amax(1, keepdim=True) / 15
    integers = torch.where(scale != 0, blocks / scale, 0.0).round().clamp(0, 15)
    return (integers * scale.half().float()).reshape(weights.shape)


def _same(answer: Tensor, expected: Tensor, weights: Tensor) -> bool:
    """Whether two roundings agree, up to ties, which may be rounded to either side."""
    close = (answer - expected).abs() <= 1e-6 * weights.abs().max()
    return bool(close.float().mean() > 0.99)
