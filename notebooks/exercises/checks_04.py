"""Checks for the exercises of lesson 4: on small random layers by brute force, and on a real model's layer.

For the small layers nothing of comp_lib is used: the right answers come from the tokens themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
from checking import Wrong, accept, alike, call, check_shape, dense_layer, real_model, spot
from torch import Tensor

Sums = dict[str, Tensor]


@cache
def real_layer() -> Sums:
    """G (n, n) of layer 11 of the real model on 1,024 tokens: "plain", and "weighted" by 1 / ||h||."""
    from comp_lib.calibration.windows import calibration_tokens
    from comp_lib.statistics.sums import contributions
    from course.dense_stream import dense_problem

    model, tokenizer = real_model()
    ids = calibration_tokens("calibration", tokenizer, sequences=4, length=256, judged_on="evaluation")
    grams = {}
    for name in ("plain", "weighted"):
        problem = dense_problem(model, ids, 11, weighted=name == "weighted")
        grams[name] = contributions(problem.xtx, problem.weight)
    return grams


def loud_layer(seed: int = 0) -> Sums:
    """G (30, 30), "plain" and "weighted", of a layer: two neurons shout, in nearly one direction."""
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    x = draw(8, 25, 30)
    loud = torch.randperm(30, generator=generator)[:2]
    w = draw(30, 6)
    w[loud[1]] = w[loud[0]] + 0.3 * draw(6)
    x[:, 0, loud] = 400.0 + draw(8, 2)
    x = x.flatten(0, 1)
    scaled = x / (x @ w).norm(dim=1, keepdim=True)
    return {"plain": (x.T @ x) * (w @ w.T), "weighted": (scaled.T @ scaled) * (w @ w.T)}


def check_mask(mask_from_gram: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """Exercise 1."""
    x, w = dense_layer(7)
    kept = torch.tensor([0, 2, 3, 6])
    removed = torch.tensor([1, 4, 5])
    a = _contributions(x, w)  # (T * m, n)
    gram = a.T @ a
    energy = gram.diagonal()[kept]
    kept_gram = gram[kept][:, kept]
    row_sums = gram[kept].sum(1)
    solve = torch.linalg.solve
    for ridge in (0.0, 0.3):
        answer = call(mask_from_gram, gram.clone(), kept, ridge)
        check_shape("the mask", answer, (4,))
        if alike(answer, _anchored(a, kept, ridge)):
            continue
        penalty = torch.diag(ridge * energy)
        spot(
            answer,
            solve(kept_gram + penalty, kept_gram.sum(1) + ridge * energy),
            "it imitates the neurons that stay, all ones: "
            "the right side needs row sums over *all* columns of G",
        )
        spot(
            answer,
            solve(kept_gram + penalty, gram[kept][:, removed].sum(1) + ridge * energy),
            "it imitates only what went: the right side needs row sums over *all* columns of G",
        )
        if ridge:
            spot(answer, solve(kept_gram, row_sums), "lambda does nothing yet: add it on both sides")
            spot(
                answer,
                solve(kept_gram + penalty, row_sums),
                "the penalty draws the factors to 0: (m - 1)² puts lambda G_ii on the right side too",
            )
            mean_penalty = ridge * gram.diagonal().mean()
            for anchor in (0.0, mean_penalty):
                spot(
                    answer,
                    solve(kept_gram + mean_penalty * torch.eye(4, dtype=gram.dtype), row_sums + anchor),
                    "this is one penalty for all, by the mean energy: "
                    "each neuron's penalty goes by its *own* G_ii",
                )
        raise Wrong(
            f"not the least error for lambda = {ridge:g}: set the derivative by m_K to zero; the rest stays 0"
        )
    accept("for any lambda the mask is the one that least squares on the tokens finds")


def check_trap(two_to_remove: Callable[[Tensor], Tensor]) -> None:
    """Exercise 2, on two small layers and on the real one."""
    layers = ((partial(loud_layer, 1), 20.0), (partial(loud_layer, 3), 20.0), (real_layer, 100.0))
    for layer, least_increase in layers:
        sums = layer()
        plain = sums["plain"]
        weighted = sums["weighted"]
        answer = call(two_to_remove, plain.clone())
        check_shape("the two neurons", answer, (2,))
        removed = answer.long().tolist()
        if len(set(removed)) < 2 or not all(0 <= neuron < len(plain) for neuron in removed):
            raise Wrong(f"expected two different neurons from 0 to {len(plain) - 1}, got {removed}")
        kept = torch.tensor([neuron for neuron in range(len(plain)) if neuron not in removed])
        mask = _penalised(plain, kept, 1e-2)
        ones = torch.ones_like(mask)
        error = _error(weighted, kept, ones)
        masked_error = _error(weighted, kept, mask)
        if masked_error < least_increase * error:
            order = plain.diagonal().argsort()
            if set(removed) == set(order[:2].tolist()):
                raise Wrong(
                    "these two have the least energy, nobody has to imitate them: look at the other end"
                )
            if set(removed) == set(order[-1:].tolist() + order[-3:-2].tolist()):
                raise Wrong("the first is right: the second has the second most energy, not the third")
            raise Wrong(
                f"the mask stays calm (no factor beyond {float(mask.abs().max()):.1f}): "
                f"error {error:.1%} without it, {masked_error:.1%} with it, each token alike. "
                "Whose contribution would the others have to shout for?"
            )
    accept(
        f"two neurons of {len(plain):,} go, the fit lowers the error that it sees "
        f"from {_error(plain, kept, ones):.1%} to {_error(plain, kept, mask):.1%} and raises that of each "
        f"token alike from {error:.1%} to {masked_error:,.0%}; its largest factor is {mask.abs().max():.0f}"
    )


def _penalised(gram: Tensor, kept: Tensor, ridge: float) -> Tensor:
    """The mask of exercise 1."""
    penalties = ridge * gram.diagonal()[kept]
    return torch.linalg.solve(gram[kept][:, kept] + torch.diag(penalties), gram.sum(1)[kept] + penalties)


def _error(gram: Tensor, kept: Tensor, mask: Tensor) -> float:
    """The energy that the output loses when `kept` are scaled by the mask and the others go, as a share."""
    gap = torch.ones(len(gram), dtype=gram.dtype)
    gap[kept] -= mask
    return float(gap @ gram @ gap / gram.sum())


def _contributions(x: Tensor, w: Tensor) -> Tensor:
    """The contribution of each neuron: (T m, n)."""
    return torch.stack([torch.outer(x[:, i], w[i]).flatten() for i in range(len(w))], dim=1)


def _anchored(a: Tensor, kept: Tensor, ridge: float) -> Tensor:
    """The mask by least squares on the tokens: below the contributions, rows sqrt(lambda G_ii) (m_i - 1)."""
    root = (ridge * a.square().sum(0)[kept]).sqrt()
    rows = torch.cat([a[:, kept], torch.diag(root)])
    return torch.linalg.lstsq(rows, torch.cat([a.sum(1), root])[:, None]).solution[:, 0]
