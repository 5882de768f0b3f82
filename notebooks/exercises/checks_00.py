"""Checks for the exercises of lesson 0: break a metric, take out a neuron of a real model, compare speeds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import mean, median

import torch
from torch import Tensor, nn

from course.checking import Wrong, accept, alike, call, check_shape, real_model

# Tokens per second of two models in five rounds, on a machine that others used too.
DENSE_SPEEDS = (29.0, 30.0, 8.0, 31.0, 33.0)
PRUNED_SPEEDS = (36.0, 12.0, 9.9, 38.0, 37.0)


def check_same_perplexity(same_perplexity: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Exercise 1."""
    generator = torch.Generator().manual_seed(0)
    log_p = (3 * torch.randn(60, 50, generator=generator, dtype=torch.float64)).log_softmax(-1)
    targets = torch.multinomial(log_p.exp(), 1, generator=generator)[:, 0]
    dense_log_p = log_p.clone()
    log_q = call(same_perplexity, log_p, targets)
    check_shape("log q", log_q, (60, 50))
    if not torch.equal(log_p, dense_log_p):
        raise Wrong("the dense model's log p has changed too: work on a copy, `log_p.clone()`")
    if bool((log_q > 1e-9).any()):
        raise Wrong("these are no logarithms of probabilities: none may be above 0")
    if not alike(log_q.exp().sum(-1), torch.ones(60, dtype=torch.float64)):
        raise Wrong("the probabilities of a row do not add up to 1: exchange probabilities, make none up")
    loss = _loss(log_q, targets)
    dense_loss = _loss(log_p, targets)
    if not alike(loss, dense_loss):
        raise Wrong(
            f"the perplexity has changed ({loss.exp():.2f}, was {dense_loss.exp():.2f}): "
            "leave the targets alone"
        )
    kl = float((log_p.exp() * (log_p - log_q)).sum(-1).mean())
    if kl == float("inf"):
        raise Wrong("the divergence is infinite: leave each token a probability above 0")
    if kl < 1e-9:
        raise Wrong("nothing has changed: q is p")
    first_choices = log_p.argmax(-1)
    is_wrong = first_choices != targets
    same_count = int((log_q.argmax(-1) == first_choices)[is_wrong].sum())
    if same_count:
        raise Wrong(
            f"at {same_count} of the {int(is_wrong.sum())} positions where the first choice was wrong, "
            "it is still the same"
        )
    if kl < 0.5:
        raise Wrong(
            f"KL is {kl:.2f} nats, expected more than 0.5: "
            "give the likeliest wrong token the place of the least"
        )
    accept(
        f"perplexity is {dense_loss.exp():.2f} as before, KL {kl:.2f} nats: "
        "perplexity looks at one token only"
    )


def _loss(log_p: Tensor, targets: Tensor) -> Tensor:
    """Mean loss of the target tokens (T,), nats per token, for log p (T, V)."""
    return -log_p.gather(1, targets[:, None]).mean()


def check_without_neuron(without_neuron: Callable[[Tensor, Tensor, Tensor, int], tuple]) -> None:
    """Exercise 2: on a small MLP, then on layer 10 of the real model."""
    generator = torch.Generator().manual_seed(1)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    _narrowed(without_neuron, draw(7, 5), draw(7, 5), draw(5, 7), draw(9, 5), 2)
    model, tokenizer = real_model()
    mlp = model.model.layers[10].mlp
    inputs: list[Tensor] = []
    hook = mlp.register_forward_pre_hook(lambda module, args: inputs.append(args[0][0]))
    with torch.no_grad():
        model(**tokenizer("The water cycle begins when the sun heats the sea.", return_tensors="pt"))
    hook.remove()
    matrices = [linear.weight.detach() for linear in (mlp.gate_proj, mlp.up_proj, mlp.down_proj)]
    share = _narrowed(without_neuron, *matrices, inputs[0], 700)
    parameters = 3 * len(matrices[2])
    accept(
        f"neuron 700 is out of layer 10: {parameters:,} parameters, and {share:.2%} "
        "of what the MLP says of a sentence"
    )


def _narrowed(
    without_neuron: Callable, gate: Tensor, up: Tensor, down: Tensor, x: Tensor, neuron: int
) -> float:
    """Checks the answer on one MLP that reads x (T, d): gate and up (n, d), down (d, n).

    Returns the energy of what the neuron writes, as a share of that of the whole output.
    """
    n, d = gate.shape
    names = ("gate", "up", "down")
    answer = call(without_neuron, gate, up, down, neuron)
    if not isinstance(answer, tuple | list) or len(answer) != 3:
        raise Wrong("expected three matrices: end with `return gate, up, down`")
    for name, matrix in zip(names, answer, strict=True):
        _check_side(name, matrix, n, d)
    output = _mlp(gate, up, down, x)
    narrow_output = _mlp(*answer, x)
    contribution = _mlp(gate[[neuron]], up[[neuron]], down[:, [neuron]], x)
    tolerance = 1e-5 * float(output.abs().max())
    if not torch.allclose(narrow_output, output - contribution, rtol=1e-3, atol=tolerance):
        kept = [i for i in range(n) if i != neuron]
        if torch.equal(answer[0], up[kept]) and torch.equal(answer[1], gate[kept]):
            raise Wrong("gate and up are swapped: end with `return gate, up, down`")
        expected = (gate[kept], up[kept], down[:, kept])
        for name, matrix, expected_matrix in zip(names, answer, expected, strict=True):
            if not torch.equal(matrix, expected_matrix):
                raise Wrong(f"{name} lost another neuron than {neuron}: all three must lose the same")
        raise Wrong("the narrow MLP does not say what the whole one says without that neuron")
    return float(contribution.square().sum() / output.square().sum())


def _check_side(name: str, matrix: object, n: int, d: int) -> None:
    """Raises Wrong unless a matrix of an MLP of n neurons has lost one of them."""
    shape = tuple(matrix.shape) if isinstance(matrix, Tensor) else ()
    side = "row"
    expected_shape = (n - 1, d)
    if name == "down":  # its neurons are columns
        side = "column"
        expected_shape = (d, n - 1)
        shape = shape[::-1]
    sentences = {  # by (neurons, d) of the matrix
        (n, d): f"{name} has its old shape: a neuron of zeros is still stored and still multiplied",
        (n, d - 1): f"{name} was cut along the wrong side: a neuron is a {side} of it",
        (1, d): f"{name} has one neuron left, and that is the one to remove",
    }
    if shape in sentences:
        raise Wrong(sentences[shape])
    check_shape(name, matrix, expected_shape)


def _mlp(gate: Tensor, up: Tensor, down: Tensor, x: Tensor) -> Tensor:
    """The output (T, d) of an MLP that reads x (T, d)."""
    return (nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T


def check_speed_ratio(speed_ratio: Callable[[list[float], list[float]], float]) -> None:
    """Exercise 3."""
    dense = list(DENSE_SPEEDS)
    pruned = list(PRUNED_SPEEDS)
    ratio = call(speed_ratio, dense.copy(), pruned.copy())
    if not isinstance(ratio, float):
        raise Wrong(f"expected one number, got {type(ratio).__name__}")
    ratios = [new / old for old, new in zip(dense, pruned, strict=True)]
    of_means = mean(pruned) / mean(dense)
    of_medians = median(pruned) / median(dense)
    mistakes = {
        "this is dense / pruned: above 1 should mean that the pruned model is faster": 1 / median(ratios),
        "this is the ratio of the means: the machine was busy in some rounds, compare within each": of_means,
        "this is the ratio of the medians: the rounds are pairs, compare within each": of_medians,
        "this is the mean of the ratios: one round in which only one model was disturbed rules it": (
            mean(ratios)
        ),
        "this is the best round: it is not typical": max(ratios),
    }
    for sentence, mistake in mistakes.items():
        if abs(ratio - mistake) < 1e-4:
            raise Wrong(sentence)
    if abs(ratio - median(ratios)) > 1e-4:
        raise Wrong(f"expected the median of the five ratios, {median(ratios):.3f}, got {ratio:.3f}")
    accept(f"{ratio:.2f} times as fast, from {min(ratios):.2f} to {max(ratios):.2f} over the rounds")
