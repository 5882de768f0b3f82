"""Checks of what the reader writes in lesson 01: made-up states, and layers that are plain functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from course.checking import Wrong, accept, alike, call, check_shape, checks, spot

Half = Callable[[Tensor], Tensor]
Halves = list[tuple[Half, Half]]


@checks("block_influence")
def check_block_influence(block_influence: Callable[[Tensor], Tensor]) -> None:
    """Block influence of made-up states, token by token."""
    layers, texts, tokens, width = 4, 2, 3, 5
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(layers + 1, texts, tokens, width, generator=generator, dtype=torch.float64) + 0.5
    cosines = torch.zeros(layers, texts, tokens, dtype=torch.float64)
    dots = torch.zeros_like(cosines)
    for layer in range(layers):
        for text in range(texts):
            for position in range(tokens):
                before = states[layer, text, position].tolist()
                after = states[layer + 1, text, position].tolist()
                dot = sum(x * y for x, y in zip(before, after, strict=True))
                dots[layer, text, position] = dot
                cosines[layer, text, position] = dot / (math.hypot(*before) * math.hypot(*after))
    answer = call(block_influence, states.clone())
    if isinstance(answer, float):
        raise Wrong(f"expected one number for each of the {layers} layers, got one for all: {answer:.3g}")
    if isinstance(answer, Tensor) and answer.shape == (layers, texts, tokens):
        raise Wrong("this has one number for each token: take the mean over all tokens of all texts")
    if isinstance(answer, Tensor) and len(answer) == layers + 1:
        raise Wrong(f"{layers + 1} states lie around {layers} layers: compare each with the one after it")
    check_shape("block influence", answer, (layers,))
    cosine = torch.nn.functional.cosine_similarity
    mean_states = states.mean((1, 2))
    spot(answer, cosines.mean((1, 2)), "this is the mean cosine: block influence is one minus it")
    spot(answer, 1 - dots.mean((1, 2)), "these are inner products: a cosine divides them by both lengths")
    spot(
        answer,
        1 - cosine(mean_states[:-1], mean_states[1:], dim=-1),
        "this compares the mean states: compare the states of each token, then take the mean",
    )
    spot(
        answer,
        1 - cosine(states[:1], states[1:], dim=-1).mean((1, 2)),
        "each layer is compared with the states before layer 0: take those before the layer itself",
    )
    spot(
        answer,
        1 - cosine(states[:-1].flatten(1), states[1:].flatten(1), dim=-1),
        "this treats all states of a layer as one long vector: compare the states of each token",
    )
    spot(answer, (1 - cosines).sum((1, 2)), "this adds up over the tokens: take the mean")
    right = 1 - cosines.mean((1, 2))
    if not alike(answer, right):
        raise Wrong(
            f"layer 0 of made-up states has {right[0]:.4g}, token by token, got {float(answer[0]):.4g}"
        )
    accept("block influence is what all tokens give, one after the other")


@checks("run_without")
def check_run_without(
    run_without: Callable[[Tensor, Halves, Sequence[int], Sequence[int]], Tensor],
) -> None:
    """Four layers of plain functions, with each way to leave halves out."""
    halves, calls = _halves(layers=4)
    start = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(2, 2, 3)
    for no_attention, no_mlp in (([], []), ([1], [1]), ([2], []), ([], [2]), ([0, 3], [1])):
        description = _in_words(no_attention, no_mlp)
        given = start.clone()
        right = _walk(start, halves, no_attention, no_mlp)
        calls.clear()
        answer = call(run_without, given, halves, no_attention, no_mlp)
        check_shape("the states after the last layer", answer, (2, 2, 3))
        if not torch.equal(given, start):
            raise Wrong("the states that you got have changed: write `h = h + ...`, which makes new ones")
        if alike(answer, right):
            continue
        if no_attention != no_mlp:
            swapped = _walk(start, halves, no_mlp, no_attention)
            spot(answer, swapped, f"{description}: attention and MLP are swapped")
        for is_mistake, sentence in (
            ({"adds": False}, "a half adds to the state: what it gives does not take the state's place"),
            ({"in_turn": False}, "the MLP reads the sum: give it the state to which attention has added"),
            ({"stops": True}, "the walk ends at the layer that is left out: the layers after it still run"),
            (
                {"whole_layers": True},
                "a layer in one of the lists loses only that half: the other half still adds",
            ),
            ({"both": True}, "a half is left out only if its layer is in both lists: look in its own list"),
            ({"ignores": True}, "nothing is left out: look up the number of the layer in the lists"),
        ):
            spot(
                answer, _walk(start, halves, no_attention, no_mlp, **is_mistake), f"{description}: {sentence}"
            )
        ran = ", ".join(calls) or "none"
        raise Wrong(
            f"{description}: the states differ from those of a walk by hand; your halves in order: {ran}"
        )
    accept("with each half and each layer left out, the states are those of a walk by hand")


def _halves(layers: int) -> tuple[Halves, list[str]]:
    """Made-up layers, no two halves alike, and the list in which they write that they were called."""
    calls: list[str] = []

    def half(name: str, slope: float, shift: float) -> Half:
        def add(h: Tensor) -> Tensor:
            calls.append(name)
            return slope * h.roll(1, dims=1) + shift

        return add

    all_halves = [
        (half(f"attention {i}", 0.3 + 0.1 * i, 0.2), half(f"MLP {i}", -0.5 + 0.2 * i, 0.7))
        for i in range(layers)
    ]
    return all_halves, calls


def _walk(
    h: Tensor,
    halves: Halves,
    no_attention: Sequence[int],
    no_mlp: Sequence[int],
    adds: bool = True,
    in_turn: bool = True,
    stops: bool = False,
    whole_layers: bool = False,
    both: bool = False,
    ignores: bool = False,
) -> Tensor:
    """The states after the last layer, or what one mistake gives."""
    for number, (attention, mlp) in enumerate(halves):
        removed = number in no_attention, number in no_mlp
        if stops and all(removed):
            break
        if whole_layers:
            removed = any(removed), any(removed)
        if both:
            removed = all(removed), all(removed)
        if ignores:
            removed = False, False
        before = h
        if not removed[0]:
            h = h + attention(h) if adds else attention(h)
        if not removed[1]:
            read = h if in_turn else before
            h = h + mlp(read) if adds else mlp(read)
    return h


def _in_words(no_attention: Sequence[int], no_mlp: Sequence[int]) -> str:
    """What is left out, as a sentence begins with it."""
    if not no_attention and not no_mlp:
        return "with nothing left out"
    return f"with no_attention={list(no_attention)} and no_mlp={list(no_mlp)}"
