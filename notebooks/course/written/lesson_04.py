"""Checks of what the reader writes in lesson 04: least squares on the tokens find what is right."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from course.checking import (
    Wrong,
    accept,
    alike,
    call,
    check_shape,
    checks,
    contributions_of,
    dense_layer,
    spot,
)

Solve = Callable[[Tensor, Tensor, float], Tensor]


@checks("solve_mask")
def check_solve_mask(solve_mask: Solve) -> None:
    """The factors of the neurons that stay."""
    solve = torch.linalg.solve
    for n, kept, ridge in ((6, [0, 2, 3, 5], 0.3), (8, [1, 2, 4, 5, 7], 0.05)):
        contributions = contributions_of(*dense_layer(n)).T  # (T m, n)
        gram = contributions.T @ contributions
        stay = torch.tensor(kept)
        answer = call(solve_mask, gram.clone(), stay.clone(), ridge)
        if isinstance(answer, Tensor) and tuple(answer.shape) == (n,):
            raise Wrong(f"expected the factors of the {len(kept)} neurons that stay, got all {n}")
        check_shape("the mask", answer, (len(kept),))
        inner, energy = gram[stay][:, stay], gram.diagonal()[stay]
        d, rows = ridge * energy, gram.sum(1)[stay]
        left = inner + torch.diag(d)
        spot(
            answer,
            torch.ones_like(d),
            "every factor is 1: the sum on the right runs over all neurons, the removed ones too",
        )
        spot(
            answer,
            solve(left, rows),
            "this pulls the factors to 0: the penalty has a part on the right side, too",
        )
        spot(answer, solve(inner, rows), "the penalty is missing")
        spot(answer, solve(inner, rows + d), "the penalty is missing on the left side")
        flat = torch.full_like(d, ridge)
        sentence = "the penalty is the ridge alone: that of each neuron is the ridge times its energy"
        spot(answer, solve(inner + torch.diag(flat), rows + flat), sentence)
        spot(
            answer, rows / energy, "this divides by the energies: the factors of all neurons belong together"
        )
        right = _fitted(contributions, stay, ridge)
        if not alike(answer, right):
            error, least_error = (
                _error(contributions, stay, ridge, mask) for mask in (answer.to(right), right)
            )
            raise Wrong(
                f"error and penalty add up to {error:.5g} with this mask, and the least is {least_error:.5g}"
            )
    accept("least squares on the tokens find the same mask")


@checks("guarded_mask")
def check_guarded_mask(guarded_mask: Callable[[Tensor, Tensor, float, float], Tensor]) -> None:
    """The first mask, with ever larger ridges, whose variance is small enough."""
    for n, bound in ((6, 0.02), (8, 0.05), (7, 1e3)):
        contributions = contributions_of(*dense_layer(n)).T  # (T m, n)
        contributions[:, -1] = 30 * contributions[:, :-1].sum(1) * torch.linspace(0.2, 1, len(contributions))
        gram = contributions.T @ contributions
        stay = torch.arange(n - 1)  # the loud neuron goes
        masks = [_fitted(contributions, stay, 0.01 * 4.0**times) for times in range(20)]
        calm = [float(mask.var(unbiased=False)) <= bound for mask in masks].index(True)
        answer = call(guarded_mask, gram.clone(), stay.clone(), 0.01, bound)
        check_shape("the mask", answer, (n - 1,))
        if calm:
            spot(answer, masks[0], "this is the mask without a guard: its variance is above the bound")
            spot(answer, torch.ones(n - 1), "every factor is 1: raise the ridge instead")
            sentence = "its variance is still above the bound: look at it again after each solve"
            if calm > 1:
                spot(answer, masks[1], sentence)
        else:
            spot(answer, masks[1], "this mask was calm from the start: look at it before the ridge is raised")
        spot(answer, masks[calm + 1], "one step too far: the ridge before this one was large enough")
        if alike(answer, masks[calm]):
            continue
        variance = float(answer.double().var(unbiased=False))
        if variance > bound:
            raise Wrong(f"the variance is {variance:.3g}, and the bound is {bound:g}")
        raise Wrong(
            f"the variance {variance:.3g} is small enough, but this is not the first such mask: the ridge "
            "grows fourfold each time, and the variance is that of `var(unbiased=False)`"
        )
    accept("the ridge is raised until the mask is calm, and no further")


def _fitted(contributions: Tensor, stay: Tensor, ridge: float) -> Tensor:
    """The best mask by least squares; the penalty is an additional row for each factor."""
    kept = contributions[:, stay]
    pull = ridge**0.5 * torch.diag(kept.norm(dim=0))
    target = torch.cat([contributions.sum(1), pull.diagonal()])
    return torch.linalg.lstsq(torch.cat([kept, pull]), target[:, None]).solution[:, 0]


def _error(contributions: Tensor, stay: Tensor, ridge: float, mask: Tensor) -> float:
    """The error of a mask plus its penalty."""
    kept = contributions[:, stay]
    gap = contributions.sum(1) - kept @ mask
    return float(gap.square().sum() + ridge * (kept.square().sum(0) * (mask - 1) ** 2).sum())
