"""Checks for the exercises of lesson 10: a softened gradient, and the best change of low rank."""

from __future__ import annotations

from collections.abc import Callable

import torch
from checking import Wrong, accept, alike, call, check_shape, spot
from torch import Tensor

TOKENS, VOCABULARY = 5, 12
ROWS, COLUMNS = 6, 9


def _draw(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def check_softened(softened_gradient: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """Exercise 1."""
    teacher, student = 3 * _draw(TOKENS, VOCABULARY), 3 * _draw(TOKENS, VOCABULARY, seed=1)
    for temperature in (1.0, 2.5):
        given = teacher.clone(), student.clone().requires_grad_()  # whoever asks autograd may
        got = call(softened_gradient, *given, temperature, grad=True)
        check_shape("the gradient", got, (TOKENS, VOCABULARY))
        got = got.detach()
        p, q = (logits / temperature for logits in (teacher, student))
        right = q.softmax(-1) - p.softmax(-1)
        if alike(got, right / temperature):
            continue
        spot(
            got,
            -right / temperature,
            "the sign is turned round: a step goes *against* the gradient, which is q - p",
        )
        spot(
            got,
            student.softmax(-1) - teacher.softmax(-1),
            "the temperature does nothing yet: divide both logits by it",
        )
        spot(got, q.softmax(-1) - teacher.softmax(-1), "the teacher is not softened: both logits are divided")
        spot(got, q - p, "a difference of logits: softmax makes distributions of them first")
        spot(
            got, right, "the chain rule: the student's logits enter as z / tau, which leaves one more factor"
        )
        spot(got, right * temperature, "the factor of the chain rule is 1 / tau, not tau")
        spot(
            got,
            right / temperature / TOKENS,
            "a mean over the tokens: the gradient of the *sum* is asked for",
        )
        raise Wrong("not the gradient: compare one entry with a finite difference of the sum of KL")
    accept("(q - p) / tau, of softened distributions; at tau = 1 it is the lesson's")


def check_best(best_of_rank: Callable[[Tensor, int], tuple[Tensor, Tensor]]) -> None:
    """Exercise 2."""
    change = _draw(ROWS, COLUMNS, seed=4)
    u, s, v = torch.linalg.svd(change, full_matrices=False)
    for rank in (1, 3, ROWS):
        answer = call(best_of_rank, change.clone(), rank)
        if not isinstance(answer, tuple | list) or len(answer) != 2:
            raise Wrong("expected two matrices, (B, A)")
        b, a = answer
        check_shape("B", b, (ROWS, rank))
        check_shape("A", a, (rank, COLUMNS))
        got, want = b @ a, u[:, :rank] * s[:rank] @ v[:rank]
        if alike(got, want):
            continue
        spot(got, u[:, :rank] @ v[:rank], "the singular values are missing: each direction has its length")
        spot(got, u[:, :rank] * s[:rank] ** 2 @ v[:rank], "the singular values stand in both: once is enough")
        spot(
            got,
            u[:, -rank:] * s[-rank:] @ v[-rank:],
            "the *smallest* directions: they are sorted, the largest first",
        )
        off, least = (float((change - each).norm()) for each in (got, want))
        raise Wrong(
            f"rank {rank}: {off:.3f} of the change is left out, and the best of that rank leaves {least:.3f}"
        )
    accept("no matrices of that rank come nearer (Eckart and Young)")
