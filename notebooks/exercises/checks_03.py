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

AT, TOTAL, STEPS = (
    4,
    14,
    np.arange(9.0),
)  # the harm was measured after 4 steps; 14 steps in all, up to 8 in a layer
HARM = np.array([0.30, 0.05, 0.02, 0.20])
CURVES = np.array([[0.0005], [0.002], [0.004], [0.0003]]) * STEPS ** np.array([[3.0], [1.2], [2.0], [1.6]])


def check_widths(widths: Callable[[np.ndarray, np.ndarray, int, int], list[int]]) -> None:
    """Exercise 1: four layers, and all ways to take the steps."""
    harm, curves = HARM, CURVES
    got = call(widths, harm.copy(), curves.copy(), AT, TOTAL)
    if not isinstance(got, list | tuple) or len(got) != len(harm) or not all(isinstance(s, int) for s in got):
        raise Wrong(f"expected the steps of each of {len(harm)} layers, got {got!r}")
    every = [steps for steps in itertools.product(range(len(STEPS)), repeat=len(harm)) if sum(steps) == TOTAL]
    if tuple(got) not in every:
        raise Wrong(
            f"expected {TOTAL} steps in all, from 0 to {len(STEPS) - 1} in each layer, got {list(got)}"
        )
    by_harm = harm[:, None] * curves / curves[:, [AT]]

    def least(curve: np.ndarray) -> tuple[int, ...]:
        return min(every, key=lambda steps: curve[range(len(harm)), steps].sum())

    def harmed(steps: Sequence[int]) -> float:
        return float(by_harm[range(len(harm)), list(steps)].sum())

    best, blind = least(by_harm), least(curves)
    known = {
        blind: f"this asks the curves alone: the model is harmed {harmed(blind) / harmed(best):.1f} times as much",
        least(
            harm[:, None] * curves
        ): f"harm times curve is not the harm after {AT} steps: divide by the curve there",
        least(curves / curves[:, [AT]]): "the harm is missing: all layers count as equally harmful",
        least(curves / harm[:, None]): "turned round: where the harm is large, a step should look expensive",
    }
    if harmed(got) > harmed(best) * (1 + 1e-9):
        told = f"a harm of {harmed(got):.3f} is expected, and {list(best)} would do {harmed(best):.3f}"
        raise Wrong(known.get(tuple(got), told))
    accept(
        f"no other steps do less harm; by the curves alone it would be {harmed(blind) / harmed(best):.1f} times as much"
    )


class Blocks(NamedTuple):
    """A model's blocks, and its loss on a little text."""

    blocks: list[nn.Module]
    loss: Callable[[], float]


def check_missed_least(missed_least: Callable[..., tuple[int, str]], given: Blocks | None = None) -> None:
    """Exercise 2."""
    blocks, loss = given or _real_blocks()
    _clear(blocks)  # of an answer that was cut off by an error of its own
    before = loss()
    counted = [0]

    def counting() -> float:
        counted[0] += 1
        return loss()

    try:
        got = call(missed_least, list(blocks), counting)
    finally:
        left = _clear(blocks)
    if left:
        raise Wrong(
            "some hooks are still there, so the later losses were of a model with several parts missing: remove each"
        )
    if abs(loss() - before) > 1e-6:
        raise Wrong("the model is not what it was: silence the outputs by hooks, and change no weights")
    got = tuple(got) if isinstance(got, list) else got
    if not isinstance(got, tuple) or len(got) != 2 or got[0] not in range(len(blocks)):
        raise Wrong(f"expected (number of the block, 'attention' or 'mlp'), got {got!r}")
    if got[1] not in ("attention", "mlp"):
        raise Wrong(f"expected 'attention' or 'mlp', got {got[1]!r}")
    if counted[0] < 2 * len(blocks):
        raise Wrong(f"{counted[0]} losses for {2 * len(blocks)} parts: each has to be left out once")
    losses = _without_each(blocks, loss)
    if losses[got] > min(losses.values()) + 1e-4:
        best = min(losses, key=losses.__getitem__)
        if losses[got] >= max(losses.values()) - 1e-6:
            raise Wrong(f"without {got} the loss rises most: take the least")
        if best[1] != got[1]:
            raise Wrong(
                f"{got} costs {losses[got] - before:.3f} nats, but some {best[1]} costs less: try both kinds"
            )
        raise Wrong(
            f"{got} costs {losses[got] - before:.3f} nats, another part less: did each hook go before the next?"
        )
    accept(f"the {got[1]} of blocks[{got[0]}] is missed least on these 48 tokens")


def _clear(blocks: list[nn.Module]) -> int:
    """Take all hooks away; how many there were."""
    modules = [module for block in blocks for module in block.modules()]
    count = sum(len(module._forward_hooks) for module in modules)
    for module in modules:
        module._forward_hooks.clear()
    return count


def _without_each(blocks: list[nn.Module], loss: Callable[[], float]) -> dict[tuple[int, str], float]:
    """Losses without each part, its dense layer taken as zero: no hook."""
    found = {}
    for number, block in enumerate(blocks):
        for name, linear in (("attention", block.self_attn.o_proj), ("mlp", block.mlp.down_proj)):
            weight = linear.weight.data
            linear.weight.data = torch.zeros_like(weight)
            found[number, name] = loss()
            linear.weight.data = weight
    return found


def _real_blocks() -> Blocks:
    from comp_lib.calibration.texts import KINDS
    from comp_lib.calibration.windows import calibration_tokens
    from comp_lib.evaluation.loss import perplexity

    model, tokenizer = real_model()
    every = "+".join(f"calibration:{kind}" for kind in KINDS)  # the text of the lesson
    ids = calibration_tokens(every, tokenizer, sequences=16, length=128)[:1, :48]
    return Blocks(list(model.model.layers)[12:18], lambda: perplexity(model, ids).loss)
