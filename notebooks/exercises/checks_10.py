"""Checks for the exercises of lesson 10: a softened gradient, and the best change of low rank."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from course.checking import Wrong, accept, alike, call, check_shape, spot

TOKENS = 5
VOCABULARY = 12
ROWS = 6
COLUMNS = 9


def _draw(*size: int, seed: int = 0) -> Tensor:
    """Normal numbers, float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*size, generator=generator, dtype=torch.float64)


def check_softened(softened_gradient: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """Exercise 1."""
    teacher = 3 * _draw(TOKENS, VOCABULARY)
    student = 3 * _draw(TOKENS, VOCABULARY, seed=1)
    for temperature in (1.0, 2.5):
        student_with_grad = student.clone().requires_grad_()  # whoever asks autograd may
        answer = call(softened_gradient, teacher.clone(), student_with_grad, temperature, grad=True)
        check_shape("the gradient", answer, (TOKENS, VOCABULARY))
        answer = answer.detach()
        teacher_logits = teacher / temperature
        student_logits = student / temperature
        difference = student_logits.softmax(-1) - teacher_logits.softmax(-1)  # q - p
        right = difference / temperature
        if alike(answer, right):
            continue
        spot(answer, -right, "the sign is turned round: a step goes *against* the gradient, which is q - p")
        spot(
            answer,
            student.softmax(-1) - teacher.softmax(-1),
            "the temperature does nothing yet: divide both logits by it",
        )
        spot(
            answer,
            student_logits.softmax(-1) - teacher.softmax(-1),
            "the teacher is not softened: both logits are divided",
        )
        spot(
            answer,
            student_logits - teacher_logits,
            "a difference of logits: softmax makes distributions of them first",
        )
        spot(
            answer,
            difference,
            "the chain rule: the student's logits enter as z / tau, which leaves one more factor",
        )
        spot(answer, difference * temperature, "the factor of the chain rule is 1 / tau, not tau")
        spot(answer, right / TOKENS, "a mean over the tokens: the gradient of the *sum* is asked for")
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
        product = b @ a
        right = u[:, :rank] * s[:rank] @ v[:rank]
        if alike(product, right):
            continue
        spot(
            product,
            u[:, :rank] @ v[:rank],
            "the singular values are missing: each direction has its length",
        )
        spot(
            product,
            u[:, :rank] * s[:rank] ** 2 @ v[:rank],
            "the singular values stand in both: once is enough",
        )
        spot(
            product,
            u[:, -rank:] * s[-rank:] @ v[-rank:],
            "the *smallest* directions: they are sorted, the largest first",
        )
        error = float((change - product).norm())
        least_error = float((change - right).norm())
        raise Wrong(
            f"rank {rank}: {error:.3f} of the change is left out, "
            f"and the best of that rank leaves {least_error:.3f}"
        )
    accept("no matrices of that rank come nearer (Eckart and Young)")
