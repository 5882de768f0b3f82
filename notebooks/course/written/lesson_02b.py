"""Check of what the reader writes in lesson 02b: each round against an inverse and a fit made anew."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from course.checking import Wrong, accept, alike, call, check_shape, checks, dense_layer, spot


@checks("one_round")
def check_one_round(one_round: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor, Tensor]]) -> None:
    """The neurons that stay after one round of removals, their inverse and their rows."""
    for n, count in ((7, 2), (9, 3)):
        x, w = dense_layer(n)
        kept = torch.arange(n)
        inverse, rows = torch.linalg.inv(x.T @ x), w
        for _ in range(2):  # the second round begins with rows that are not W's
            order = (rows.square().sum(1) / inverse.diagonal()).argsort()
            removed, stays = order[:count], order[count:].sort().values
            answer = call(one_round, inverse.clone(), rows.clone(), count)
            if not isinstance(answer, tuple | list) or len(answer) != 3:
                received = (
                    f"{len(answer)} things" if isinstance(answer, tuple | list) else type(answer).__name__
                )
                raise Wrong(f"expected three tensors, K, P and V, got {received}")
            chosen, new_inverse, new_rows = answer
            check_shape("K", chosen, (len(stays),))
            if not torch.equal(chosen, stays):
                raise Wrong(f"K stands above your lines and is {stays.tolist()}, got {chosen.tolist()}")
            check_shape("P", new_inverse, (len(stays), len(stays)))
            check_shape("V", new_rows, (len(stays), w.shape[1]))
            kept = kept[stays]
            right_inverse = torch.linalg.inv(x[:, kept].T @ x[:, kept])
            _name_the_mistake_in_P(new_inverse, inverse, removed, stays)
            if not alike(new_inverse, right_inverse):
                raise Wrong(
                    f"the inverse of C of the kept neurons begins with {right_inverse[0, 0]:.4g}, "
                    f"got {new_inverse[0, 0]:.4g}"
                )
            _name_the_mistake_in_V(new_rows, inverse, rows, removed, stays)
            right_rows = torch.linalg.lstsq(x[:, kept], x @ w).solution
            if not alike(new_rows, right_rows):
                error, least_error = ((x @ w - x[:, kept] @ v).square().sum() for v in (new_rows, right_rows))
                raise Wrong(
                    f"V leaves the error {error:.4g}, and a refit from the tokens leaves {least_error:.4g}"
                )
            inverse, rows = right_inverse, right_rows
    accept("after two rounds P is the inverse and V the refit, and nothing was inverted anew")


def _name_the_mistake_in_P(answer: Tensor, inverse: Tensor, removed: Tensor, stays: Tensor) -> None:
    """Raises Wrong with a sentence of its own if P is what a usual mistake gives."""
    inner, cross, inner_of_removed = (
        inverse[stays][:, stays],
        inverse[stays][:, removed],
        inverse[removed][:, removed],
    )
    correction = cross @ torch.linalg.solve(inner_of_removed, cross.T)
    spot(answer, inner, "P is only cut out: the correction by the removed neurons is missing")
    spot(
        answer, inner + correction, "the correction of P has the wrong sign: removing neurons makes P smaller"
    )
    spot(answer, correction, "this is the correction of P: subtract it from the block of the kept neurons")
    spot(
        answer,
        inner - cross @ inner_of_removed @ cross.T,
        "P: the middle factor is the inverse of the block of R",
    )
    spot(answer, inner - cross @ cross.T, "P: the middle factor is missing, the inverse of the block of R")
    one_by_one = cross / inner_of_removed.diagonal() @ cross.T
    sentence = "P: this divides by the diagonal of the block of R; removed neurons also count on each other"
    spot(answer, inner - one_by_one, sentence)


def _name_the_mistake_in_V(
    answer: Tensor, inverse: Tensor, rows: Tensor, removed: Tensor, stays: Tensor
) -> None:
    """Raises Wrong with a sentence of its own if V is what a usual mistake gives."""
    cross, inner_of_removed = inverse[stays][:, removed], inverse[removed][:, removed]
    change = cross @ torch.linalg.solve(inner_of_removed, rows[removed])
    spot(answer, rows[stays], "V is only cut out: nothing makes up for the removed neurons")
    spot(answer, rows[stays] + change, "the change of V has the wrong sign")
    spot(answer, -change, "this is the change of V: add it to the rows of the kept neurons")
    spot(answer, change, "this is the change of V: subtract it from the rows of the kept neurons")
    sentence = "V: the middle factor is the inverse of the block of R"
    spot(answer, rows[stays] - cross @ inner_of_removed @ rows[removed], sentence)
    spot(
        answer,
        rows[stays] - cross @ rows[removed],
        "V: the middle factor is missing, the inverse of the block",
    )
    one_by_one = cross / inner_of_removed.diagonal() @ rows[removed]
    sentence = "V: this divides by the diagonal of the block of R; removed neurons also count on each other"
    spot(answer, rows[stays] - one_by_one, sentence)
