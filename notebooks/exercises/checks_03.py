"""Checks for the exercises of lesson 3: widths that ask the model, on a toy, and a task on the real model.

The real model is loaded when it is first needed; its `Blocks` can be given, as the tests do with a small one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from checking import Wrong, accept, call, real_model
from torch import nn

MEASURED_STEPS = 4  # after which the harm was measured
TOTAL_STEPS = 14  # that are to be taken in all layers together
STEPS = np.arange(9.0)  # that can be taken in one layer
HARM = np.array([0.30, 0.05, 0.02, 0.20])
CURVES = np.array([[0.0005], [0.002], [0.004], [0.0003]]) * STEPS ** np.array([[3.0], [1.2], [2.0], [1.6]])


def check_widths(widths: Callable[[np.ndarray, np.ndarray, int, int], list[int]]) -> None:
    """Exercise 1: four layers, and all ways to take the steps."""
    layers = range(len(HARM))
    harm = HARM[:, None]
    answer = call(widths, HARM.copy(), CURVES.copy(), MEASURED_STEPS, TOTAL_STEPS)
    is_sequence = isinstance(answer, list | tuple) and len(answer) == len(HARM)
    if not is_sequence or not all(isinstance(steps, int) for steps in answer):
        raise Wrong(f"expected the steps of each of {len(HARM)} layers, got {answer!r}")
    combinations = itertools.product(range(len(STEPS)), repeat=len(HARM))
    choices = [steps for steps in combinations if sum(steps) == TOTAL_STEPS]
    if tuple(answer) not in choices:
        raise Wrong(
            f"expected {TOTAL_STEPS} steps in all, from 0 to {len(STEPS) - 1} in each layer, "
            f"got {list(answer)}"
        )
    relative_curves = CURVES / CURVES[:, [MEASURED_STEPS]]
    expected_harm = harm * CURVES / CURVES[:, [MEASURED_STEPS]]

    def cheapest(costs: np.ndarray) -> tuple[int, ...]:
        """The choice of least total cost, by the cost (layers, steps) of each number of steps."""
        return min(choices, key=lambda steps: costs[layers, steps].sum())

    def harm_of(steps: Sequence[int]) -> float:
        return float(expected_harm[layers, list(steps)].sum())

    best = cheapest(expected_harm)
    by_curves = cheapest(CURVES)
    harm_ratio = harm_of(by_curves) / harm_of(best)
    sentences = {
        by_curves: f"this asks the curves alone: the model is harmed {harm_ratio:.1f} times as much",
        cheapest(harm * CURVES): (
            f"harm times curve is not the harm after {MEASURED_STEPS} steps: divide by the curve there"
        ),
        cheapest(relative_curves): "the harm is missing: all layers count as equally harmful",
        cheapest(CURVES / harm): "turned round: where the harm is large, a step should look expensive",
    }
    if harm_of(answer) > harm_of(best) * (1 + 1e-9):
        comparison = (
            f"a harm of {harm_of(answer):.3f} is expected, and {list(best)} would do {harm_of(best):.3f}"
        )
        raise Wrong(sentences.get(tuple(answer), comparison))
    accept(f"no other steps do less harm; by the curves alone it would be {harm_ratio:.1f} times as much")


class Blocks(NamedTuple):
    """A model's blocks, and its loss on a little text."""

    blocks: list[nn.Module]
    loss: Callable[[], float]


def check_missed_least(missed_least: Callable[..., tuple[int, str]], given: Blocks | None = None) -> None:
    """Exercise 2."""
    blocks, loss = given or _real_blocks()
    _remove_hooks(blocks)  # of an earlier answer that an error of its own has cut off
    dense_loss = loss()
    loss_count = 0

    def counted_loss() -> float:
        nonlocal loss_count
        loss_count += 1
        return loss()

    try:
        answer = call(missed_least, list(blocks), counted_loss)
    finally:
        hooks_left = _remove_hooks(blocks)
    if hooks_left:
        raise Wrong(
            "some hooks are still there, so the later losses were of a model with several parts missing: "
            "remove each"
        )
    if abs(loss() - dense_loss) > 1e-6:
        raise Wrong("the model is not what it was: silence the outputs by hooks, and change no weights")
    if isinstance(answer, list):
        answer = tuple(answer)
    if not isinstance(answer, tuple) or len(answer) != 2 or answer[0] not in range(len(blocks)):
        raise Wrong(f"expected (number of the block, 'attention' or 'mlp'), got {answer!r}")
    number, part = answer
    if part not in ("attention", "mlp"):
        raise Wrong(f"expected 'attention' or 'mlp', got {part!r}")
    if loss_count < 2 * len(blocks):
        raise Wrong(f"{loss_count} losses for {2 * len(blocks)} parts: each has to be left out once")
    losses = _losses_without(blocks, loss)
    if losses[answer] > min(losses.values()) + 1e-4:
        _, best_part = min(losses, key=losses.__getitem__)
        harm = losses[answer] - dense_loss
        if losses[answer] >= max(losses.values()) - 1e-6:
            raise Wrong(f"without {answer} the loss rises most: take the least")
        if best_part != part:
            raise Wrong(f"{answer} costs {harm:.3f} nats, but some {best_part} costs less: try both kinds")
        raise Wrong(f"{answer} costs {harm:.3f} nats, another part less: did each hook go before the next?")
    accept(f"the {part} of blocks[{number}] is missed least on these 48 tokens")


def _remove_hooks(blocks: list[nn.Module]) -> int:
    """Removes all forward hooks, and returns how many there were."""
    modules = [module for block in blocks for module in block.modules()]
    count = sum(len(module._forward_hooks) for module in modules)
    for module in modules:
        module._forward_hooks.clear()
    return count


def _losses_without(blocks: list[nn.Module], loss: Callable[[], float]) -> dict[tuple[int, str], float]:
    """The loss without each part, by zeros in its last dense layer: (number of the block, part) -> loss."""
    losses = {}
    for number, block in enumerate(blocks):
        for name, linear in (("attention", block.self_attn.o_proj), ("mlp", block.mlp.down_proj)):
            weight = linear.weight.data
            linear.weight.data = torch.zeros_like(weight)
            losses[number, name] = loss()
            linear.weight.data = weight
    return losses


def _real_blocks() -> Blocks:
    """Six blocks of the real model, and its loss on 48 tokens."""
    from comp_lib.calibration.texts import KINDS
    from comp_lib.calibration.windows import calibration_tokens
    from comp_lib.evaluation.loss import measure_loss

    model, tokenizer = real_model()
    mixture = "+".join(f"calibration:{kind}" for kind in KINDS)  # the text of the lesson
    ids = calibration_tokens(mixture, tokenizer, sequences=16, length=128)[:1, :48]
    return Blocks(list(model.model.layers)[12:18], lambda: measure_loss(model, ids).loss)
