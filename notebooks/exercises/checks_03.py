"""Checks for the exercises of lesson 3: arithmetic on shapes, and a task on the real model.

The real model is loaded when it is first needed; its `Blocks` can be given, as the tests do with a small one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from course.checking import Wrong, accept, call, check_number, real_model

HIDDEN, HEAD_DIM, GROUP_HEADS = 576, 64, 3  # of SmolLM2: the stream, a head, query heads of a KV group
MULTIPLE = 8  # of which a width is a multiple


def check_width_for(width_for: Callable[[Sequence[int], int], int]) -> None:
    """Exercise 1: transformers builds the layers, without numbers, and their parameters are counted."""
    budgets = (  # KV groups of the layers that stay, a width, parameters more than it needs
        ([3] * 30, 1120, 0),
        ([3] * 28, 1248, -1),
        ([2] * 30, 1312, 5),
        ([3, 2, 1, 3, 2], 640, -1),
        ([1, 3, 3], 96, 3 * HIDDEN * 3 * MULTIPLE - 1),
    )
    for groups, width, spare in budgets:
        budget = _parameters(groups, width) + spare
        answer = call(width_for, list(groups), budget)
        check_number("the width", answer)
        plan = f"{len(groups)} layers with {_in_words(groups)} KV groups and {budget:,} parameters"
        expected = width - MULTIPLE if spare < 0 else width
        mistakes = _mistaken_widths(groups, budget)
        if answer == expected:
            continue
        if abs(answer - expected) < MULTIPLE and _parameters(groups, int(answer)) <= budget:
            raise Wrong(f"{answer:g} is no multiple of {MULTIPLE}: round down")
        for sentence, mistake in mistakes.items():
            if answer == mistake != expected:
                raise Wrong(f"{plan}: {sentence}")
        needed = _parameters(groups, max(0, int(answer)))
        if needed > budget:
            raise Wrong(f"{plan}: the width {answer:g} needs {needed:,}")
        raise Wrong(f"{plan}: the width {answer:g} needs {needed:,}, there is room for a larger one")
    plans = (("all whole", [3] * 30), ("two layers dropped", [3] * 28), ("a group less in each", [2] * 30))
    budget = _parameters([3] * 30, 1120)
    widths = [f"{name}: {_mistaken_widths(groups, budget)[RIGHT]:,}" for name, groups in plans]
    accept(f"with {budget:,} parameters SmolLM2 has these widths: {', '.join(widths)}")


def _in_words(groups: Sequence[int]) -> str:
    """How many KV groups the layers have."""
    return str(groups[0]) if len(set(groups)) == 1 else ", ".join(map(str, groups))


@cache
def _layer_parameters(groups: int, width: int) -> int:
    """Parameters of one decoder layer, as transformers builds it without numbers."""
    config = LlamaConfig(
        hidden_size=HIDDEN,
        head_dim=HEAD_DIM,
        num_attention_heads=groups * GROUP_HEADS,
        num_key_value_heads=groups,
        intermediate_size=width,
    )
    with torch.device("meta"):
        layer = LlamaDecoderLayer(config, 0)
    return sum(parameter.numel() for parameter in layer.parameters())


def _parameters(groups: Sequence[int], width: int) -> int:
    """Parameters of the layers that stay, by their KV groups, all of one width."""
    return sum(_layer_parameters(count, width) for count in groups)


RIGHT = "right"


def _mistaken_widths(groups: Sequence[int], budget: int) -> dict[str, int]:
    """Sentence -> the width by that mistake, and the right one under RIGHT."""
    layers = len(groups)
    query = 2 * HIDDEN * HEAD_DIM * GROUP_HEADS  # of q and o, one group
    key = 2 * HIDDEN * HEAD_DIM  # of k and v
    norms = 2 * HIDDEN * layers
    left = budget - sum(groups) * (query + key) - norms
    neuron = 3 * HIDDEN

    def floor(parameters: int, each: int = neuron * layers) -> int:
        return parameters // each // MULTIPLE * MULTIPLE

    return {
        RIGHT: floor(left),
        "the norms are missing: each layer that stays keeps two, one number for each place of the stream": (
            floor(left + norms)
        ),
        "rounded up: that needs more than there is": floor(left) + MULTIPLE,
        "a KV group has more than k and v: its query heads and their part of o go with it": (
            floor(left + sum(groups) * query)
        ),
        "one query head was counted for a group, and three share it": (
            floor(left + sum(groups) * (query - 2 * HIDDEN * HEAD_DIM))
        ),
        "a neuron is three vectors, one in each of gate, up and down": floor(left, 2 * HIDDEN * layers),
        "this is the width if one layer had them all: divide by the layers": floor(left, neuron),
        "the attention is missing: it takes its part of the budget first": floor(budget - norms),
        "the KV groups of all layers count, and not those of the first alone": (
            floor(budget - layers * groups[0] * (query + key) - norms)
        ),
    }


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
