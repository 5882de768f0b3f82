"""Checks for the exercises of lesson 0: break a metric, take a neuron out of the real model, compare two speeds."""

from __future__ import annotations

from collections.abc import Callable
from statistics import mean, median

import torch
from checking import Wrong, accept, alike, call, check_shape, real_model
from torch import Tensor, nn

ROUNDS = (
    [29.0, 30.0, 8.0, 31.0, 33.0],
    [36.0, 12.0, 9.9, 38.0, 37.0],
)  # tokens per second; others used the machine too


def check_same_perplexity(same_perplexity: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Exercise 1."""
    generator = torch.Generator().manual_seed(0)
    log_p = (3 * torch.randn(60, 50, generator=generator, dtype=torch.float64)).log_softmax(-1)
    targets = torch.multinomial(log_p.exp(), 1, generator=generator)[:, 0]
    kept, log_q = log_p.clone(), call(same_perplexity, log_p, targets)
    check_shape("log q", log_q, (60, 50))
    if not torch.equal(log_p, kept):
        raise Wrong("the dense model's log p has changed too: work on a copy, `log_p.clone()`")
    if bool((log_q > 1e-9).any()):
        raise Wrong("these are no logarithms of probabilities: none may be above 0")
    if not alike(log_q.exp().sum(-1), torch.ones(60, dtype=torch.float64)):
        raise Wrong("the probabilities of a row do not add up to 1: exchange probabilities, make none up")
    loss, dense = (-values.gather(1, targets[:, None]).mean() for values in (log_q, log_p))
    if not alike(loss, dense):
        raise Wrong(
            f"the perplexity has changed ({loss.exp():.2f}, was {dense.exp():.2f}): leave the targets alone"
        )
    kl = float((log_p.exp() * (log_p - log_q)).sum(-1).mean())
    if kl == float("inf"):
        raise Wrong("the divergence is infinite: leave each token a probability above 0")
    if kl < 1e-9:
        raise Wrong("nothing has changed: q is p")
    first = log_p.argmax(-1)
    wrong = first != targets
    same = int((log_q.argmax(-1) == first)[wrong].sum())
    if same:
        raise Wrong(
            f"at {same} of the {int(wrong.sum())} positions where the first choice was wrong, it is still the same"
        )
    if kl < 0.5:
        raise Wrong(
            f"KL is {kl:.2f} nats, expected more than 0.5: give the likeliest wrong token the place of the least"
        )
    accept(f"perplexity is {dense.exp():.2f} as before, KL {kl:.2f} nats: perplexity looks at one token only")


def check_without_neuron(without_neuron: Callable[[Tensor, Tensor, Tensor, int], tuple]) -> None:
    """Exercise 2: on a small MLP, then on layer 10 of the real model."""
    generator = torch.Generator().manual_seed(1)
    draw = lambda *size: torch.randn(*size, generator=generator, dtype=torch.float64)  # noqa: E731
    _narrowed(without_neuron, draw(7, 5), draw(7, 5), draw(5, 7), draw(9, 5), 2)
    model, tokenizer = real_model()
    mlp, seen = model.model.layers[10].mlp, []
    hook = mlp.register_forward_pre_hook(lambda module, args: seen.append(args[0][0]))
    with torch.no_grad():
        model(**tokenizer("The water cycle begins when the sun heats the sea.", return_tensors="pt"))
    hook.remove()
    matrices = [linear.weight.detach() for linear in (mlp.gate_proj, mlp.up_proj, mlp.down_proj)]
    share, numbers = _narrowed(without_neuron, *matrices, seen[0], 700), 3 * len(matrices[2])
    accept(
        f"neuron 700 is out of layer 10: {numbers:,} parameters, and {share:.2%} of what the MLP says of a sentence"
    )


def _narrowed(
    without_neuron: Callable, gate: Tensor, up: Tensor, down: Tensor, read: Tensor, neuron: int
) -> float:
    """The check on one MLP; the energy of what the neuron says, as a share of the whole."""
    (n, d), names = gate.shape, ("gate", "up", "down")
    answer = call(without_neuron, gate, up, down, neuron)
    if not isinstance(answer, tuple | list) or len(answer) != 3:
        raise Wrong("expected three matrices: end with `return gate, up, down`")
    for name, got in zip(names, answer, strict=True):
        turn = 1 if name == "down" else -1  # its neurons are columns
        shape = tuple(got.shape)[::-turn] if isinstance(got, Tensor) else ()  # (neurons, d)
        known = {
            (n, d): f"{name} has its old shape: a neuron of zeros is still stored and still multiplied",
            (
                n,
                d - 1,
            ): f"{name} was cut along the wrong side: a neuron is a {'row' if turn < 0 else 'column'} of it",
            (1, d): f"{name} has one neuron left, and that is the one to remove",
        }
        if shape in known:
            raise Wrong(known[shape])
        check_shape(name, got, (n - 1, d)[::-turn])
    full, narrow = _mlp(gate, up, down, read), _mlp(*answer, read)
    said = _mlp(gate[[neuron]], up[[neuron]], down[:, [neuron]], read)
    tolerance = {"rtol": 1e-3, "atol": 1e-5 * float(full.abs().max())}
    if not torch.allclose(narrow, full - said, **tolerance):
        rows = [i for i in range(n) if i != neuron]
        if torch.equal(answer[0], up[rows]) and torch.equal(answer[1], gate[rows]):
            raise Wrong("gate and up are swapped: end with `return gate, up, down`")
        for name, got, want in zip(names, answer, (gate[rows], up[rows], down[:, rows]), strict=True):
            if not torch.equal(got, want):
                raise Wrong(f"{name} lost another neuron than {neuron}: all three must lose the same")
        raise Wrong("the narrow MLP does not say what the whole one says without that neuron")
    return float(said.square().sum() / full.square().sum())


def _mlp(gate: Tensor, up: Tensor, down: Tensor, read: Tensor) -> Tensor:
    return (nn.functional.silu(read @ gate.T) * (read @ up.T)) @ down.T


def check_speed_ratio(speed_ratio: Callable[[list[float], list[float]], float]) -> None:
    """Exercise 3."""
    dense, pruned = ROUNDS
    got = call(speed_ratio, list(dense), list(pruned))
    if not isinstance(got, float):
        raise Wrong(f"expected one number, got {type(got).__name__}")
    ratios = [new / old for old, new in zip(dense, pruned, strict=True)]
    known = {
        1 / median(ratios): "this is dense / pruned: above 1 should mean that the pruned model is faster",
        mean(pruned)
        / mean(
            dense
        ): "this is the ratio of the means: the machine was busy in some rounds, compare within each",
        median(pruned)
        / median(dense): "this is the ratio of the medians: the rounds are pairs, compare within each",
        mean(
            ratios
        ): "this is the mean of the ratios: one round in which only one model was disturbed rules it",
        max(ratios): "this is the best round: it is not typical",
    }
    for value, sentence in known.items():
        if abs(got - value) < 1e-4:
            raise Wrong(sentence)
    if abs(got - median(ratios)) > 1e-4:
        raise Wrong(f"expected the median of the five ratios, {median(ratios):.3f}, got {got:.3f}")
    accept(f"{got:.2f} times as fast, from {min(ratios):.2f} to {max(ratios):.2f} over the rounds")
