"""Checks of what the reader writes in lesson 00, on made-up outputs; each token is looked at by itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from course.checking import Wrong, accept, call, check_number, checks

TEXTS, TOKENS, WIDTH = 2, 5, 3


@checks("layer_error")
def check_layer_error(layer_error: Callable[[Tensor, Tensor, Tensor], float]) -> None:
    """The error of a layer, token by token."""
    for seed in (0, 1):
        generator = torch.Generator().manual_seed(seed)
        y = torch.randn(TEXTS, TOKENS, WIDTH, generator=generator, dtype=torch.float64)
        y_hat = y + 0.4 * torch.randn(TEXTS, TOKENS, WIDTH, generator=generator, dtype=torch.float64)
        w = 0.2 + torch.rand(TEXTS, TOKENS, 1, generator=generator, dtype=torch.float64)
        lost = []  # of each token: weight, squared size of the difference, of the dense and the pruned output
        for text in range(TEXTS):
            for position in range(TOKENS):
                pairs = list(zip(y[text, position].tolist(), y_hat[text, position].tolist(), strict=True))
                difference = sum((dense - pruned) ** 2 for dense, pruned in pairs)
                dense_energy = sum(dense**2 for dense, _ in pairs)
                pruned_energy = sum(pruned**2 for _, pruned in pairs)
                lost.append((float(w[text, position]), difference, dense_energy, pruned_energy))
        answer = call(layer_error, y.clone(), y_hat.clone(), w.clone())
        check_number("the error", answer)
        _name_the_mistake(answer, lost)
        right = sum(w**2 * lost for w, lost, _, _ in lost) / sum(w**2 * dense for w, _, dense, _ in lost)
        if abs(answer - right) > 1e-6 * right:
            raise Wrong(f"the error of made-up outputs is {right:.4g}, token by token, got {answer:.4g}")
    accept("the error is what all tokens give, one after the other")


def _name_the_mistake(answer: float, tokens: list[tuple[float, float, float, float]]) -> None:
    """Raises Wrong with a sentence of its own if the answer is what a usual mistake gives."""
    lost = sum(w**2 * difference for w, difference, _, _ in tokens)
    dense = sum(w**2 * energy for w, _, energy, _ in tokens)
    pruned = sum(w**2 * energy for w, _, _, energy in tokens)
    mistakes = {
        "the weights are missing: loud tokens decide alone": (
            sum(difference for _, difference, _, _ in tokens) / sum(energy for _, _, energy, _ in tokens)
        ),
        "the weights are not squared: in the formula they stand inside the norm": (
            sum(w * difference for w, difference, _, _ in tokens)
            / sum(w * energy for w, _, energy, _ in tokens)
        ),
        "this is the root of the error: the formula has squared norms, above and below the line": (
            (lost / dense) ** 0.5
        ),
        "the norms are not squared: add up squares, above and below the line": (
            sum(w * difference**0.5 for w, difference, _, _ in tokens)
            / sum(w * energy**0.5 for w, _, energy, _ in tokens)
        ),
        "this is the mean of one error for each token: add up over the tokens first, then divide once": (
            sum(difference / energy for _, difference, energy, _ in tokens) / len(tokens)
        ),
        "the line has the energy of the pruned output below it: the error is a share of the dense output": (
            lost / pruned
        ),
        "this is how much the energy changed: the formula has the energy of the difference": (
            1 - pruned / dense
        ),
        "this is a sum and no share: divide by the energy of the dense output": lost,
        "upside down: the difference stands above the line": dense / lost,
        "this is the share that is left: the error is the share that is lost": 1 - lost / dense,
        "only the difference is weighted: the dense output below the line is weighted too": (
            lost / sum(energy for _, _, energy, _ in tokens)
        ),
    }
    for sentence, mistake in mistakes.items():
        if abs(answer - mistake) < 1e-6 * abs(mistake):
            raise Wrong(sentence)
