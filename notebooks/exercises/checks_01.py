"""Checks for the exercises of lesson 1: made-up streams and losses, and the real model in the last one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from checking import Wrong, accept, call, check_shape, real_model
from torch import Tensor

Harm = Callable[[list[int]], float]
QUESTIONS = 45  # to the model, in exercise 3


def check_fool(fool: Callable[[Tensor], Tensor]) -> None:
    """Exercise 1."""
    before = torch.randn(3, 50, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5
    kept, after = before.clone(), call(fool, before)
    check_shape("the stream after you", after, (3, 50, 6))
    if not torch.equal(before, kept):
        raise Wrong("the stream before you has changed too: work on a copy, `before.clone()`")
    if not torch.isfinite(after).all():
        raise Wrong("there are NaN or infinite numbers in the stream after you")
    cosines = torch.nn.functional.cosine_similarity(before, after, dim=-1)
    if float(cosines.min()) > 1 - 1e-9:
        raise Wrong("no token is turned at all: scaling, whatever its size, is no turn")
    if float(cosines.min()) > -0.9:
        raise Wrong(
            f"no token comes out reversed: the lowest cosine is {cosines.min():.2f}, expected -0.9 or less"
        )
    influence = float(1 - cosines.mean())
    if influence > 0.02:
        turned = int((cosines < 0.5).sum())
        raise Wrong(
            f"your block influence is {influence:.3f}, and gives you away: you turned {turned} of 150 tokens"
        )
    accept(f"block influence {influence:.3f}, and one token stands on its head")


def check_greedy_order(greedy_order: Callable[[Callable, int, int], list[int]]) -> None:
    """Exercise 2: layers 1 and 4 can stand in for each other, and so can 2 and 5, 1 and 3: both seem idle, only one is.

    The three layers that go together at least loss, 3, 4 and 5, are not those that go one by one.
    """
    alone = [3.0, 0.1, 0.5, 2.0, 0.2, 0.4]

    def loss(present: list[int]) -> float:
        present = list(present)
        if present != sorted(set(present)):
            raise Wrong(
                f"a model's layers run in ascending order, each once, but `loss` was asked for {present}"
            )
        gone = set(range(len(alone))) - set(present)
        pairs = 5.0 * ({1, 4} <= gone) + 4.0 * ({2, 5} <= gone) + 3.0 * ({1, 3} <= gone)
        return 1.0 + sum(alone[layer] for layer in gone) + pairs

    for count in (1, 3):
        got = call(greedy_order, loss, len(alone), count)
        if not isinstance(got, list | tuple) or not all(isinstance(layer, int) for layer in got):
            raise Wrong("expected a list of layers, in the order in which they are removed")
        got, want, once = list(got), [1, 5, 0][:count], [1, 4, 5][:count]
        if got == want:
            continue
        if len(got) == len(alone) - count and not set(got) & set(want):
            raise Wrong("these are the layers that stay: return those that go")
        if len(got) != count:
            raise Wrong(f"expected {count} layers, got {len(got)}")
        if got == once:
            raise Wrong("this ranks once: 1 and 4 stand in for each other, so measure anew after 1 went")
        if sorted(got) == sorted(want):
            raise Wrong(f"the right layers in the wrong order: {want} go in this order, got {got}")
        if got[:1] == [0]:
            raise Wrong("the layer that is missed most went first: take the one with the smallest loss")
        raise Wrong(
            f"expected {want}, got {got}: in each round, the layer without which the loss is smallest goes"
        )
    accept("layers that stand in for one another are not dropped together")


def check_plan(plan: Callable[[Harm, int, int], list[int]]) -> None:
    """Exercise 3: on a toy in which the most harmless layers stand in for each other, then on the real model."""
    alone = [3.0, 0.02, 0.03, 0.04, 0.5, 0.06, 0.07, 0.3, 0.4, 1.0, 2.0, 4.0]

    def toy(gone: list[int]) -> float:
        return sum(alone[layer] for layer in gone) + 2.0 * max(0, len({1, 2, 3} & set(gone)) - 1)

    _beaten(plan, toy, len(alone), [1, 5, 6, 9])
    model, ids = _real()
    harm, proxy = _harm(model, ids), _least_influence(model, ids, 4)
    ours, theirs, gone = _beaten(plan, harm, len(model.model.layers), proxy)
    accept(
        f"layers {sorted(gone)} cost {ours:.2f} nats, those of least influence, {sorted(proxy)}, {theirs:.2f}"
    )


def _beaten(plan: Callable, harm: Harm, layers: int, proxy: list[int]) -> tuple[float, float, list[int]]:
    """The harm of a learner's plan and of the proxy's, and the plan. Raises Wrong unless it is a better one."""
    asked = [0]

    def counted(gone: list[int]) -> float:
        asked[0] += 1
        if asked[0] > QUESTIONS:
            raise Wrong(f"you asked more than {QUESTIONS} times: look closer at a short list only")
        if not set(gone) <= set(range(layers)):
            raise Wrong(f"there are layers 0 to {layers - 1}, you asked about {list(gone)}")
        return harm(list(gone))

    gone = call(plan, counted, layers, len(proxy))
    if not isinstance(gone, list | tuple) or not all(isinstance(layer, int) for layer in gone):
        raise Wrong("expected a list of layers")
    if len(set(gone)) != len(proxy) or not set(gone) <= set(range(layers)):
        raise Wrong(f"expected {len(proxy)} different layers from 0 to {layers - 1}, got {list(gone)}")
    ours, theirs = harm(list(gone)), harm(proxy)
    if set(gone) == set(proxy):
        raise Wrong(f"this is the proxy's own plan, {sorted(proxy)}")
    if ours >= theirs and ours <= sum(harm([layer]) for layer in gone) + 1e-9:
        raise Wrong(
            f"layers {sorted(gone)} cost {ours:.2f} nats, the proxy's {theirs:.2f}: take layers of little cost"
        )
    if ours >= theirs:
        raise Wrong(
            f"layers {sorted(gone)} cost {ours:.2f} nats together, the proxy's {theirs:.2f}: layers that are harmless "
            "one by one may stand in for each other, so measure again with some of them gone"
        )
    return ours, theirs, list(gone)


def _real() -> tuple:
    """The real model and a short text (1, 48)."""
    from comp_lib.calibration.windows import calibration_tokens

    model, tokenizer = real_model()
    return model, calibration_tokens("calibration", tokenizer, sequences=1, length=48, seed=1)


def _states(model, ids: Tensor) -> list[Tensor]:
    """The states before the first layer and after each: n + 1 of (S, L, d)."""
    from comp_lib.families.run import embed

    return _behind(model, [embed(model, ids)], [])


def _behind(model, states: list[Tensor], gone: list[int]) -> list[Tensor]:
    """The states so far, and those after the layers that follow; layers `gone` are skipped."""
    rope = model.model.rotary_emb(states[0], torch.arange(states[0].shape[1])[None])
    with torch.no_grad():
        for place in range(len(states) - 1, len(model.model.layers)):
            layer, state = model.model.layers[place], states[-1]
            states = [*states, state if place in gone else layer(state, position_embeddings=rope)]
    return states


def _harm(model, ids: Tensor) -> Harm:
    """What skipping layers costs; the layers before the first of them are not run again."""
    from comp_lib.walk import sequence_losses

    whole = _states(model, ids)

    def loss(states: list[Tensor]) -> float:
        with torch.no_grad():
            return float(sequence_losses(model, states[-1], ids).mean())

    dense = loss(whole)
    return lambda gone: loss(_behind(model, whole[: min(gone) + 1], gone)) - dense if gone else 0.0


def _least_influence(model, ids: Tensor, count: int) -> list[int]:
    states = _states(model, ids)
    turns = [
        1 - torch.cosine_similarity(a, b, dim=-1).mean() for a, b in zip(states, states[1:], strict=False)
    ]
    return torch.stack(turns).argsort()[:count].tolist()
