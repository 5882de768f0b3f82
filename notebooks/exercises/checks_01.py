"""Checks for the exercises of lesson 1: made-up streams and losses, and the real model in the last one."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from course.checking import Wrong, accept, call, check_shape, real_model

Harm = Callable[[list[int]], float]  # layers that are left out -> increase of the loss
QUESTIONS = 45  # that may be asked of the model in exercise 3


def check_fool(fool: Callable[[Tensor], Tensor]) -> None:
    """Exercise 1."""
    generator = torch.Generator().manual_seed(1)
    stream = torch.randn(3, 50, 6, generator=generator, dtype=torch.float64) + 0.5
    before = stream.clone()
    after = call(fool, stream)
    check_shape("the stream after you", after, (3, 50, 6))
    if not torch.equal(stream, before):
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
        turned_count = int((cosines < 0.5).sum())
        raise Wrong(
            f"your block influence is {influence:.3f}, and gives you away: "
            f"you turned {turned_count} of 150 tokens"
        )
    accept(f"block influence {influence:.3f}, and one token stands on its head")


def check_greedy_order(greedy_order: Callable[[Callable, int, int], list[int]]) -> None:
    """Exercise 2.

    Layers 1 and 4 can stand in for each other, and so can 2 and 5, 1 and 3: both seem idle, only one is. The
    three layers that can be removed together at the least loss, 3, 4 and 5, are not those that are removed
    one by one.
    """
    alone = [3.0, 0.1, 0.5, 2.0, 0.2, 0.4]  # what each layer costs by itself

    def loss(present: list[int]) -> float:
        present = list(present)
        if present != sorted(set(present)):
            raise Wrong(
                f"a model's layers run in ascending order, each once, but `loss` was asked for {present}"
            )
        removed = set(range(len(alone))) - set(present)
        pairs = 5.0 * ({1, 4} <= removed) + 4.0 * ({2, 5} <= removed) + 3.0 * ({1, 3} <= removed)
        return 1.0 + sum(alone[layer] for layer in removed) + pairs

    for count in (1, 3):
        answer = call(greedy_order, loss, len(alone), count)
        if not isinstance(answer, list | tuple) or not all(isinstance(layer, int) for layer in answer):
            raise Wrong("expected a list of layers, in the order in which they are removed")
        order = list(answer)
        expected = [1, 5, 0][:count]
        order_of_one_ranking = [1, 4, 5][:count]
        if order == expected:
            continue
        if len(order) == len(alone) - count and not set(order) & set(expected):
            raise Wrong("these are the layers that stay: return those that go")
        if len(order) != count:
            raise Wrong(f"expected {count} layers, got {len(order)}")
        if order == order_of_one_ranking:
            raise Wrong("this ranks once: 1 and 4 stand in for each other, so measure anew after 1 went")
        if sorted(order) == sorted(expected):
            raise Wrong(f"the right layers in the wrong order: {expected} go in this order, got {order}")
        if order[:1] == [0]:
            raise Wrong("the layer that is missed most went first: take the one with the smallest loss")
        raise Wrong(
            f"expected {expected}, got {order}: "
            "in each round, the layer without which the loss is smallest goes"
        )
    accept("layers that stand in for one another are not dropped together")


def check_plan(plan: Callable[[Harm, int, int], list[int]]) -> None:
    """Exercise 3: on a toy whose most harmless layers stand in for each other, then on the real model."""
    alone = [3.0, 0.02, 0.03, 0.04, 0.5, 0.06, 0.07, 0.3, 0.4, 1.0, 2.0, 4.0]

    def toy_harm(removed: list[int]) -> float:
        stand_ins = {1, 2, 3} & set(removed)
        return sum(alone[layer] for layer in removed) + 2.0 * max(0, len(stand_ins) - 1)

    _better_plan(plan, toy_harm, len(alone), [1, 5, 6, 9])
    model, ids = _model_and_text()
    harm = _harm(model, ids)
    proxy = _least_influence(model, ids, 4)
    removed = _better_plan(plan, harm, len(model.model.layers), proxy)
    accept(
        f"layers {sorted(removed)} cost {harm(removed):.2f} nats, those of least influence, {sorted(proxy)}, "
        f"{harm(proxy):.2f}"
    )


def _better_plan(plan: Callable, harm: Harm, layers: int, proxy: list[int]) -> list[int]:
    """The layers that a learner's plan removes. Raises Wrong unless they do less harm than the proxy's."""
    questions = 0

    def counted_harm(removed: list[int]) -> float:
        nonlocal questions
        questions += 1
        if questions > QUESTIONS:
            raise Wrong(f"you asked more than {QUESTIONS} times: look closer at a short list only")
        if not set(removed) <= set(range(layers)):
            raise Wrong(f"there are layers 0 to {layers - 1}, you asked about {list(removed)}")
        return harm(list(removed))

    removed = call(plan, counted_harm, layers, len(proxy))
    if not isinstance(removed, list | tuple) or not all(isinstance(layer, int) for layer in removed):
        raise Wrong("expected a list of layers")
    if len(set(removed)) != len(proxy) or not set(removed) <= set(range(layers)):
        raise Wrong(f"expected {len(proxy)} different layers from 0 to {layers - 1}, got {list(removed)}")
    if set(removed) == set(proxy):
        raise Wrong(f"this is the proxy's own plan, {sorted(proxy)}")
    plan_harm = harm(list(removed))
    proxy_harm = harm(proxy)
    if plan_harm >= proxy_harm and plan_harm <= sum(harm([layer]) for layer in removed) + 1e-9:
        raise Wrong(
            f"layers {sorted(removed)} cost {plan_harm:.2f} nats, the proxy's {proxy_harm:.2f}: "
            "take layers of little cost"
        )
    if plan_harm >= proxy_harm:
        raise Wrong(
            f"layers {sorted(removed)} cost {plan_harm:.2f} nats together, the proxy's {proxy_harm:.2f}: "
            "layers that are harmless one by one may stand in for each other, so measure again with some of "
            "them gone"
        )
    return list(removed)


def _model_and_text() -> tuple:
    """The real model and a short text (1, 48)."""
    from comp_lib.calibration.windows import calibration_tokens

    model, tokenizer = real_model()
    return model, calibration_tokens("calibration", tokenizer, sequences=1, length=48, seed=1)


def _states(model, ids: Tensor) -> list[Tensor]:
    """The states before the first layer and after each: n + 1 of (S, L, d)."""
    from comp_lib.decoder.run import embed

    return _continued(model, [embed(model, ids)], [])


def _continued(model, states: list[Tensor], removed: list[int]) -> list[Tensor]:
    """The states so far, and those after each layer that follows; layers `removed` are skipped."""
    states = list(states)
    rope = model.model.rotary_emb(states[0], torch.arange(states[0].shape[1])[None])
    with torch.no_grad():
        for index in range(len(states) - 1, len(model.model.layers)):
            state = states[-1]
            if index not in removed:
                state = model.model.layers[index](state, position_embeddings=rope)
            states.append(state)
    return states


def _harm(model, ids: Tensor) -> Harm:
    """What skipping layers costs; the layers before the first of them are not run again."""
    from comp_lib.decoder.walk import sequence_losses

    dense_states = _states(model, ids)

    def loss(states: list[Tensor]) -> float:
        with torch.no_grad():
            return float(sequence_losses(model, states[-1], ids).mean())

    dense_loss = loss(dense_states)

    def harm(removed: list[int]) -> float:
        if not removed:
            return 0.0
        unchanged = dense_states[: min(removed) + 1]
        return loss(_continued(model, unchanged, removed)) - dense_loss

    return harm


def _least_influence(model, ids: Tensor, count: int) -> list[int]:
    """The `count` layers of least block influence, the least first."""
    influences = []
    for before, after in itertools.pairwise(_states(model, ids)):
        influences.append(1 - torch.cosine_similarity(before, after, dim=-1).mean())
    return torch.stack(influences).argsort()[:count].tolist()
