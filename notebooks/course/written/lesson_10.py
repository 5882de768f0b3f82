"""Checks of what the reader writes in lesson 10, on a few tokens and matrices that brute force can build."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from course.checking import Wrong, accept, alike, call, check_shape, checks, spot

from .made import ShapesMade


@checks("kl")
def check_kl(kl: Callable[[Tensor, Tensor], Tensor]) -> None:
    """The divergence of each row, term by term."""
    for shape, seed in (((3, 5), 0), ((2, 4, 7), 1)):
        generator = torch.Generator().manual_seed(seed)
        p = torch.randn(shape, generator=generator, dtype=torch.float64).softmax(-1)
        z = 2 * torch.randn(shape, generator=generator, dtype=torch.float64) + 1
        _check_divergence(kl, p, z)
    p = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    z = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 3.0]], dtype=torch.float64)
    answer = call(kl, p.clone(), z.clone())
    if isinstance(answer, Tensor) and answer.isnan().any():
        raise Wrong("where p is 0 the answer is NaN, since log 0 is minus infinity: its term is 0")
    _check_divergence(kl, p, z)
    accept("the divergence of each row, where a probability is 0 as well")


def _check_divergence(kl: Callable[[Tensor, Tensor], Tensor], p: Tensor, z: Tensor) -> None:
    """Raises Wrong unless the answer for p and z (..., V) is the divergence."""
    answer = call(kl, p.clone(), z.clone())
    log_p = p.clamp_min(1e-300).log()
    q = z.softmax(-1)
    log_q = q.log()
    terms = p * (log_p - log_q)
    if isinstance(answer, float):
        answer = torch.tensor(answer, dtype=p.dtype)
    if isinstance(answer, Tensor) and answer.ndim == 0:
        spot(answer, terms.sum(), "one number came for all rows: add up over the tokens of each row alone")
        spot(answer, terms.sum(-1).mean(), "this is the mean over the rows: give the divergence of each row")
    if isinstance(answer, Tensor):
        spot(answer, terms, "these are the terms: they have to be added up over the tokens of a row")
    check_shape("the divergences", answer, tuple(p.shape[:-1]))
    spot(answer, (q * (log_q - log_p)).sum(-1), "this is KL(q || p): the parent's p weighs the tokens, not q")
    spot(answer, -(p * log_q).sum(-1), "this is the cross-entropy: the entropy of p is not taken off")
    spot(answer, -terms.sum(-1), "the sign is the other one: a divergence is never below 0")
    spot(answer, terms.mean(-1), "this is the mean over the vocabulary: add up, p weighs the tokens already")
    spot(
        answer,
        (p * (log_p - z)).sum(-1),
        "z are logits and no log-probabilities: they need the softmax first",
    )
    if not alike(answer, terms.sum(-1)):
        right = float(terms.sum(-1).flatten()[0])
        raise Wrong(f"the divergence of the first row is {right:.4g}, got {float(answer.flatten()[0]):.4g}")


@checks("low_rank")
def check_low_rank(low_rank: Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]) -> None:
    """The output of a matrix with a change of low rank, against the matrix that is built."""
    rank, outputs, inputs = 2, 6, 9
    for tokens, scale in (((5,), 4.0), ((2, 3), 0.5)):
        generator = torch.Generator().manual_seed(len(tokens))

        def draw(*shape: int, source: torch.Generator = generator) -> Tensor:
            return torch.randn(shape, generator=source, dtype=torch.float64)

        x, w = draw(*tokens, inputs), draw(outputs, inputs)
        a, b = draw(rank, inputs), draw(outputs, rank)
        copies = [tensor.clone() for tensor in (x, w, a, b)]
        with ShapesMade() as shapes_made:
            answer = call(low_rank, *copies, scale)
        check_shape("the output", answer, (*tokens, outputs))
        plain = x @ w.T
        change = x @ (b @ a).T
        spot(answer, plain, "the change is missing: this is what W alone makes of x")
        spot(answer, scale * change, "W is missing: this is the change alone")
        spot(answer, plain + change, "the change is not multiplied by `scale`")
        spot(answer, scale * (plain + change), "`scale` multiplies the change alone, not W")
        spot(answer, plain - scale * change, "the change is added to W, not taken off")
        if not alike(answer, plain + scale * change):
            right = float((plain + scale * change).flatten()[0])
            raise Wrong(
                f"the first output of the first token is {right:.4g}, got {float(answer.flatten()[0]):.4g}"
            )
        if shapes_made.shapes & {(outputs, inputs), (inputs, outputs)}:
            raise Wrong(
                "right, but on the way there is a whole matrix m x n: multiply the tokens by A, then by B"
            )
    accept("this is what the changed matrix makes of the tokens, and it was never built")
